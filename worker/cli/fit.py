"""``factorstream fit``: a model from a whole file at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from factorstream.worker.cli.options import Config, Limit, RatingsFile, Set
from factorstream.worker.cli.printing import Json, answer
from factorstream.worker.errors import UserMistake

if TYPE_CHECKING:
    from factorstream.worker.config import Settings
    from factorstream.worker.fitting import Iteration
    from factorstream.worker.history import History
    from factorstream.worker.model.model import Model

ITERATIONS = {"als": 15, "sgd": 20}
"""After which the holdout error no longer falls on MovieLens-100K."""


def fit(
    file: RatingsFile,
    method: Annotated[
        Literal["als", "sgd"],
        typer.Option("--method", metavar="als|sgd", show_default=False, help="Exact solves, or gradient steps."),
    ],
    n_iterations: Annotated[int | None, typer.Option("--iterations", metavar="N", min=1, show_default="als 15, sgd 20")] = None,
    holdout: Annotated[
        float, typer.Option("--holdout", metavar="SHARE", min=0, max=0.99, help="Ratings kept apart to test with.")
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="S", min=0, show_default="model.seed", help="Of the holdout, first factors and order."),
    ] = None,
    limit: Limit = None,
    config: Config = None,
    assignments: Set = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="F", dir_okay=False, show_default=False, help="Write the model, as .npz.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Learn from a whole file at once; of several ratings of one item by one user the last counts."""
    from factorstream.worker.config import load
    from factorstream.worker.history import read

    if out is not None and not os.access(out.resolve().parent, os.W_OK):
        raise UserMistake(f"--out {out}: {out.resolve().parent} is no folder that can be written to")
    seeded = [] if seed is None else [f"model.seed={seed}"]
    settings = load(config, [*(assignments or []), *seeded])
    history = read(file, limit)
    model, iterating = _begun(history, settings, method, n_iterations or ITERATIONS[method], holdout)
    done = []
    for iteration in iterating:
        done.append(iteration)
        if not as_json:
            print(_line(len(done), iteration), flush=True)
    if out is not None:
        _save(out, model, history, settings)
    result = {
        "method": method,
        "iterations": list(map(asdict, done)),
        "n_ratings": model.ratings.n_ratings,
        "n_users": len(history.user_names),
        "n_items": len(history.item_names),
        "out": None if out is None else str(out),
    }
    written = "" if out is None else f"; written to {out}"
    answer(
        result,
        as_json=as_json,
        line=f"{method}: {model.ratings.n_ratings:,} ratings in {sum(i.seconds for i in done):.2f} s{written}",
    )


def _begun(
    history: History, settings: Settings, method: Literal["als", "sgd"], n: int, holdout: float
) -> tuple[Model, Iterator[Iteration]]:
    """Return a model with its ratings, and the iterations that will fit it."""
    from factorstream.worker import fitting
    from factorstream.worker.wiring import fresh_model, kernels_of, learning_of

    kernels, learning, seed = kernels_of(settings), learning_of(settings), settings.model.seed
    entries = fitting.last_writes(history.user_codes, history.item_codes, history.ratings, history.timestamps_ms)
    parts = fitting.split(entries, holdout, seed)
    if not len(parts.training.ratings):
        raise UserMistake(f"--holdout {holdout} leaves none of {len(entries.ratings)} ratings to learn from")
    fitting.warm_up(settings.model.rank, kernels, learning, method)
    model = fresh_model(settings)
    fitting.prepare(model, parts.training, kernels, learning, len(history.user_names), len(history.item_names))
    return model, fitting.fit(model, kernels, learning, parts, method=method, n_iterations=n, seed=seed)


def _line(number: int, iteration: Iteration) -> str:
    rmse = "" if iteration.holdout_rmse is None else f"   holdout RMSE {iteration.holdout_rmse:.4f}"
    return f"{number:3}   objective {iteration.objective:.6g}{rmse}   {iteration.seconds:.3f} s"


def _save(out: Path, model: Model, history: History, settings: Settings) -> None:
    """Write *model* as ``.npz`` without pickles: rows of ids and of factors go together."""
    import numpy as np

    try:
        with out.open("wb") as file:
            np.savez(
                file,
                user_ids=np.array(history.user_names),
                user_factors=model.users.factors,
                user_biases=model.users.biases,
                item_ids=np.array(history.item_names),
                item_factors=model.items.factors,
                item_biases=model.items.biases,
                intercept=np.array(model.level.intercept),
                settings=np.array(json.dumps(settings.model_dump(mode="json"))),
            )
    except OSError as error:
        raise UserMistake(f"--out {out} could not be written: {error.strerror}") from error
