"""Pictures: everything is on them, names do not cover each other, and what cannot be drawn is told before the work."""

import numpy as np
import pytest
from typer.testing import CliRunner

from factorstream.worker import plots
from factorstream.worker.cli import plot
from factorstream.worker.errors import UserMistake
from factorstream.worker.local import generated

RANDOM = np.random.default_rng(0)


def items(n, kinds):
    names = [f"a rather long name of item {row}" for row in range(n)]
    return plots.Items(RANDOM.normal(size=(n, 2)), RANDOM.integers(1, 99, n).astype(np.int32), kinds, names)


@pytest.mark.parametrize(("n", "n_kinds"), [(1, 0), (60, 3), (60, 20)])
def test_every_item_is_on_the_map_and_names_do_not_cover_each_other(n, n_kinds):
    kinds = [f"kind {row % n_kinds}" if n_kinds and row % 4 else None for row in range(n)]
    figure = plots.map_of(items(n, kinds), title="T", n_names=40)
    [axes] = figure.axes
    assert sum(len(points.get_offsets()) for points in axes.collections) == n
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for row, a in enumerate(boxes) for b in boxes[:row])
    assert len(boxes) >= min(n - 1, 10)


@pytest.mark.parametrize("suffix", plots.FORMATS)
def test_a_picture_is_written_in_the_format_of_its_name(tmp_path, suffix):
    course = plots.Course(np.arange(1.0, 5.0), np.arange(4.0))
    path = tmp_path / f"picture{suffix}"
    plots.save(plots.live({"one": course, "other": course}, title="T"), path)
    assert path.read_bytes()[:5] in (b"<?xml", b"\x89PNG\r", b"%PDF-")
    plots.save(plots.against_seconds({"one": course}, {"one": course}, title="T"), path)


def test_the_same_data_give_the_same_svg(tmp_path):
    for name in ("a.svg", "b.svg"):
        course = plots.Course(np.arange(1.0, 5.0), np.arange(4.0))
        plots.save(plots.live({"one": course}, title="T"), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_an_item_has_the_colour_of_the_rarest_of_its_common_genres():
    genres = [["Drama", "War"], ["Drama"], ["Drama", "War", "Western"], [], ["Drama", *(f"g{n}" for n in range(9))]]
    found = plot._kinds(genres)
    assert found[:4] == ["War", "Drama", "Western", None]


@pytest.mark.parametrize("picture", ["map", "loss", "live"])
def test_a_file_becomes_a_picture(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "PASSES", {"als": 2, "sgd": 2})
    file, out, names = tmp_path / "ratings.csv", tmp_path / "picture.svg", tmp_path / "items.csv"
    generated.ratings(3_000, 200, 100).write_csv(file)
    names.write_text("item_id,title,genres\n" + "".join(f"m{row},A film {row},Drama|War\n" for row in range(100)))
    more = ["--items", str(names), "--least-ratings", "5"] if picture == "map" else []
    done = CliRunner().invoke(plot.app, [picture, str(file), "--out", str(out), *more])
    assert done.exit_code == 0, done.output
    assert "ratings.csv" in out.read_text()
    assert ("A film" in out.read_text()) == (picture == "map")


def test_what_cannot_be_drawn_is_told_before_the_work(tmp_path, monkeypatch):
    for out, why in ((tmp_path / "p.bmp", "must end in .svg"), (tmp_path / "none" / "p.svg", "no folder that can be written to")):
        with pytest.raises(UserMistake, match=why):
            plot._check(out)
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(UserMistake, match=r"pip install 'factorstream\[plots\]'"):
        plot._check(tmp_path / "p.svg")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["loss", "--set", "model.loss=implicit"], "als with sgd"),
        (["loss", "--set", "model.learner=posterior"], "als with sgd"),
        (["live", "--set", "model.loss=implicit"], "clicks"),
        (["loss", "--set", "model.loss=logistic"], "0 and 1"),
        (["live", "--set", "model.loss=logistic"], "0 and 1"),
        (["map", "--set", "model.loss=logistic"], "0 and 1"),
    ],
)
def test_what_cannot_be_learned_is_not_drawn(arguments, why, tmp_path):
    file, out = tmp_path / "ratings.csv", tmp_path / "picture.svg"
    generated.ratings(100, 40, 30).write_csv(file)
    with pytest.raises(UserMistake, match=why):
        CliRunner().invoke(plot.app, [*arguments, str(file), "--out", str(out)], catch_exceptions=False)
    assert not out.exists()
