"""``factorstream tune`` as its user runs it: what it writes is what the other commands take."""

import pytest

from factorstream.worker.local import generated
from tests.integration.real_worker import command


def test_the_file_it_writes_gives_the_error_it_told(tmp_path):
    file, out = tmp_path / "ratings.csv", tmp_path / "tuned.toml"
    generated.ratings(3_000, 200, 100, noise=0.3).write_csv(file)
    tuned = command("tune", file, "--trials", 8, "--set", "model.rank=4", "--out", out, "--json").answer
    assert tuned["rmse"] <= tuned["rmse_before"]
    assert tuned["n_complete"] <= tuned["n_trials"] == 8
    assert "rank = 4" in out.read_text()
    assert f"{tuned['rmse_before']:.4f}" in out.read_text().splitlines()[0]
    evaluated = command("evaluate", file, "--config", out, "--json").answer
    assert evaluated["rmse"] == pytest.approx(tuned["rmse"], rel=1e-9)
