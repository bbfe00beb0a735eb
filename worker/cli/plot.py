"""``factorstream plot``: pictures of what is learned from a history."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from factorstream.worker.cli.options import Config, Limit, Set
from factorstream.worker.cli.printing import answer
from factorstream.worker.errors import UserMistake

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from factorstream.worker.config import Settings
    from factorstream.worker.fitting import Iteration
    from factorstream.worker.history import History
    from factorstream.worker.model.model import Model
    from factorstream.worker.plots import Course

app = typer.Typer(no_args_is_help=True, help="Pictures: a map of the items, loss against seconds, the live error.")

DATA = Path(".data/ml-100k")
N_KINDS = 8
"""Genres that are coloured on the map."""
LEAST_RATINGS = 50
HOLDOUT = 0.1
PASSES = {"als": 15, "sgd": 40}
PIECES = 50

File = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]", show_default=False, help="Ratings, as for evaluate; left out: MovieLens-100K, fetched once."
    ),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="F", dir_okay=False, show_default=False, help="The picture: .svg, .png or .pdf.")
]


@dataclass(frozen=True, slots=True)
class Material:
    """A history, and what its items are called."""

    name: str
    history: History
    titles: Mapping[str, str]
    genres: Mapping[str, Sequence[str]]


@app.command(name="map")
def map_(
    out: Out,
    file: File = None,
    items: Annotated[
        Path | None,
        typer.Option(
            "--items", metavar="F", show_default=False, help="CSV: item_id, title, genres (several: a|b); genres are coloured."
        ),
    ] = None,
    least_ratings: Annotated[
        int, typer.Option("--least-ratings", metavar="N", min=1, help="Items with fewer are left out.")
    ] = LEAST_RATINGS,
    config: Config = None,
    assignments: Set = None,
    limit: Limit = None,
) -> None:
    """Draw the items in a space of two factors: those that the same people like are near each other."""
    from factorstream.worker import plots

    _check(out)
    settings = _settings(config, [*(assignments or []), "model.rank=2"])
    material = _material(file, items, limit)
    places, counts = _places(material.history, settings)
    shown = [row for row in range(len(counts)) if counts[row] >= least_ratings]
    if not shown:
        raise UserMistake(f"no item has {least_ratings} ratings: lower --least-ratings")
    ids = [material.history.item_names[row] for row in shown]
    drawn = plots.Items(
        places[shown],
        counts[shown],
        _kinds([material.genres.get(one, ()) for one in ids]),
        [material.titles.get(one, one) for one in ids],
    )
    title = f"{material.name}: items with {least_ratings} ratings or more, two factors (ALS), biases apart"
    _save(plots.map_of(drawn, title=title), out)


@app.command()
def loss(out: Out, file: File = None, config: Config = None, assignments: Set = None, limit: Limit = None) -> None:
    """Draw how fast exact solves (ALS) and gradient steps (SGD) lower the loss, and the error on a tenth held out."""
    from factorstream.worker import plots

    _check(out)
    told = [*(assignments or []), "model.learn_priors=false"]  # so that both lower one objective
    settings = _settings(config, told)
    if settings.model.loss == "implicit" or settings.model.learner == "posterior":
        raise UserMistake("plot loss compares als with sgd: leave model.loss = 'implicit' and model.learner = 'posterior' out")
    material = _material(file, None, limit)
    objective, holdout = _courses(material.history, settings)
    _save(plots.against_seconds(objective, holdout, title=f"{material.name}, K = {settings.model.rank}"), out)


@app.command()
def live(out: Out, file: File = None, config: Config = None, assignments: Set = None, limit: Limit = None) -> None:
    """Draw the error of predicting each rating just before it is learned, in order of time, over the stream."""
    from factorstream.worker import plots

    _check(out)
    told = assignments or []
    if _settings(config, told).model.loss == "implicit":
        raise UserMistake("plot live draws errors of ratings, and clicks (model.loss = 'implicit') are ranked: see evaluate")
    material = _material(file, None, limit)
    courses = {
        "predicting the mean of the ratings so far": _mean_so_far(material.history),
        "without sweeps": _live(material.history, _settings(config, [*told, "sweep.visits_per_rating=0"])),
        "with sweeps": _live(material.history, _settings(config, told)),
    }
    n = len(material.history) // PIECES
    _save(plots.live(courses, title=f"{material.name}: predicted, then learned, one by one (means over {n:,})"), out)


def _check(out: Path) -> None:
    """Raise `UserMistake` where nothing can be drawn, before the work."""
    from factorstream.worker.plots import FORMATS, check_installed

    check_installed()
    if out.suffix not in FORMATS:
        raise UserMistake(f"--out {out}: the name must end in {', '.join(FORMATS)}")
    if not os.access(out.resolve().parent, os.W_OK):
        raise UserMistake(f"--out {out}: {out.resolve().parent} is no folder that can be written to")


def _settings(config: Path | None, told: list[str]) -> Settings:
    from factorstream.worker.config import load

    return load(config, told)


def _material(file: Path | None, items: Path | None, limit: int | None) -> Material:
    from factorstream.worker.history import read
    from factorstream.worker.local import movielens

    if file is not None:
        return Material(file.name, read(file, limit), *_named(items))
    films = movielens.fetch(DATA)
    return Material("MovieLens-100K", read(films.ratings, limit), films.titles, films.genres)


def _named(items: Path | None) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return titles and genres by item id."""
    if items is None:
        return {}, {}
    try:
        with items.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {row["item_id"]: row["title"] for row in rows}, {row["item_id"]: row["genres"].split("|") for row in rows}
    except (OSError, UnicodeDecodeError) as error:
        raise UserMistake(f"--items {items} cannot be read: {error}") from error
    except (KeyError, AttributeError) as error:
        raise UserMistake(f"--items {items}: a CSV file with the columns item_id, title, genres is wanted") from error


def _kinds(genres: Sequence[Sequence[str]]) -> list[str | None]:
    """Return by what to colour items that have *genres*: of the common ones the rarest, which tells most; None: by nothing."""
    n_of = dict(Counter(genre for of_item in genres for genre in of_item).most_common(N_KINDS))
    return [min((genre for genre in of_item if genre in n_of), key=n_of.__getitem__, default=None) for of_item in genres]


def _places(history: History, settings: Settings) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return the items' two factors, the direction of largest spread first, and their numbers of ratings."""
    import numpy as np

    model, fitted = _fit(history, settings, "als", holdout=0.0)
    list(fitted)
    factors = model.items.factors.astype(np.float64)
    counts = model.ratings.item_counts
    _, _, axes = np.linalg.svd(factors * np.sqrt(counts[:, None]), full_matrices=False)
    return factors @ axes.T, counts.copy()


def _courses(history: History, settings: Settings) -> tuple[dict[str, Course], dict[str, Course]]:
    """Return objective, and error on what is held out, against seconds, by method."""
    import numpy as np

    from factorstream.worker.plots import Course

    objective, holdout = {}, {}
    methods: tuple[tuple[str, Literal["als", "sgd"]], ...] = (("ALS, exact solves", "als"), ("SGD, random order", "sgd"))
    for name, method in methods:
        done = list(_fit(history, settings, method, holdout=HOLDOUT)[1])
        seconds = np.cumsum([iteration.seconds for iteration in done])
        objective[name] = Course(seconds, np.array([iteration.objective for iteration in done]))
        holdout[name] = Course(seconds, np.array([iteration.holdout_rmse for iteration in done], np.float64))
    return objective, holdout


def _fit(
    history: History, settings: Settings, method: Literal["als", "sgd"], *, holdout: float
) -> tuple[Model, Iterator[Iteration]]:
    """Return a model of *history*, and the iterations that fit it."""
    from factorstream.worker import fitting
    from factorstream.worker.evaluation import check_ratings
    from factorstream.worker.wiring import fresh_model, kernels_of, learning_of

    kernels, learning, seed = kernels_of(settings), learning_of(settings), settings.model.seed
    check_ratings(learning, fresh_model(settings).level, history.ratings)
    columns = (history.user_codes, history.item_codes, history.ratings, history.timestamps_ms)
    held = fitting.last_writes(*columns, n_users=len(history.user_names), n_items=len(history.item_names))
    parts, model = fitting.split(held, holdout, seed), fresh_model(settings)
    fitting.warm_up(settings.model.rank, kernels, learning, method)
    fitting.prepare(model, parts.training, kernels, learning)
    return model, fitting.fit(model, kernels, learning, parts.holdout, method=method, n_iterations=PASSES[method], seed=seed)


def _live(history: History, settings: Settings) -> Course:
    """Return the error over each piece of *history*, at the end of the piece."""
    import numpy as np

    from factorstream.worker.evaluation import check_ratings, evaluate_so_far, events_of
    from factorstream.worker.plots import Course
    from factorstream.worker.wiring import fresh_model, learner_of

    learner, model = learner_of(settings), fresh_model(settings)
    check_ratings(learner.learning, model.level, history.ratings)
    found = list(evaluate_so_far(learner, model, events_of(history), PIECES))
    n = np.array([0, *(so_far.n_ratings for so_far in found)], np.float64)
    squares = np.array([0.0, *(so_far.n_ratings * so_far.rmse**2 for so_far in found)])
    return Course(n[1:], np.sqrt(np.diff(squares) / np.diff(n)))


def _mean_so_far(history: History) -> Course:
    """Return the error of predicting the mean of the ratings before, over pieces of one length."""
    import numpy as np

    from factorstream.worker.plots import Course

    ratings = history.ratings.astype(np.float64)
    before = np.cumsum(ratings) - ratings
    errors = ratings - before / np.maximum(1, np.arange(len(ratings)))
    pieces = np.array_split(errors**2, min(PIECES, len(errors)))
    return Course(np.cumsum([len(piece) for piece in pieces]).astype(np.float64), np.sqrt([piece.mean() for piece in pieces]))


def _save(figure: Figure, out: Path) -> None:
    from factorstream.worker.plots import save

    save(figure, out)
    answer(None, as_json=False, line=f"drawn: {out}")
