"""``factorstream fit``: a model from a whole file at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from factorstream.worker.cli.options import Config, Limit, RatingsFile, Set
from factorstream.worker.cli.printing import Json, answer
from factorstream.worker.errors import UserMistake

if TYPE_CHECKING:
    from factorstream.worker.adapters.files import FileCheckpoints
    from factorstream.worker.config import Settings
    from factorstream.worker.fitting import Iteration, Split
    from factorstream.worker.history import History
    from factorstream.worker.learn.settings import Learning
    from factorstream.worker.model.model import Model

MethodName = Literal["als", "sgd", "svd", "nmf", "newton"]
ITERATIONS = {"als": 15, "sgd": 20, "svd": 50, "nmf": 30, "newton": 15}
"""After which the holdout error no longer falls on MovieLens-100K; for svd, which ends by itself, the most."""
MOST_ITERATIONS = 500
"""With ``--until-converged``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the options say, besides settings."""

    method: MethodName
    n_iterations: int | None
    until_converged: bool
    holdout: float
    holdout_last: bool
    minibatch: int | None
    start: str
    missing: Literal["zero", "biases"] | None
    out: Path | None
    checkpoint: Path | None

    @property
    def solved_by(self) -> Literal["als", "sgd", "svd"]:
        """What does the work: nmf and newton are names for exact solves, under a constraint and of other losses."""
        return self.method if self.method == "sgd" or self.method == "svd" else "als"

    @property
    def most_iterations(self) -> int:
        """At most so many."""
        return self.n_iterations or (MOST_ITERATIONS if self.until_converged else ITERATIONS[self.method])

    def check(self) -> None:
        """Raise `UserMistake` for options that make no sense together, and for places that nothing can be written to."""
        for wrong, why in (
            (self.holdout and self.holdout_last, "--holdout and --holdout-last: choose one"),
            (
                self.checkpoint and (self.holdout or self.holdout_last),
                "--checkpoint takes every rating, so that the worker has them all: leave --holdout out, or fit twice",
            ),
            (self.minibatch and self.method != "sgd", f"--minibatch is for sgd; {self.method} has no batches"),
            (self.missing and self.method != "svd", f"--missing is for svd; {self.method} learns from the ratings there are"),
            (
                self.checkpoint and self.missing == "zero",
                "--missing zero leaves no intercept, which a worker's scores start from: with --checkpoint take --missing biases",
            ),
            (self.start != "random" and self.method == "svd", "--start is for als and sgd; svd has no start"),
            (
                self.until_converged and self.method == "svd",
                "--until-converged is for als and sgd; svd ends when it has converged",
            ),
        ):
            if wrong:
                raise UserMistake(why)
        if self.out is not None and not os.access(self.out.resolve().parent, os.W_OK):
            raise UserMistake(f"--out {self.out}: {self.out.resolve().parent} is no folder that can be written to")

    def check_against(self, learning: Learning) -> None:
        """Raise `UserMistake` for options by which *learning* cannot be learned."""
        if (self.method == "svd" or self.start == "svd") and (
            learning.loss not in ("squared", "implicit") or learning.nonnegative
        ):
            what = "nonnegative" if learning.nonnegative else f"loss = {learning.loss!r}"
            raise UserMistake(f"svd approximates numbers of any sign, and nothing else: not with model.{what}")
        if learning.loss == "implicit" and (self.method != "als" or self.start == "svd"):
            raise UserMistake(
                "model.loss = 'implicit' runs over all pairs, which only als solves, from a random start or a file's"
            )
        if learning.learner == "posterior" and self.solved_by != "als":
            raise UserMistake(f"model.learner = 'posterior' is solved by als: {self.method} leaves no covariances")


def fit(
    file: RatingsFile,
    method: Annotated[
        MethodName,
        typer.Option(
            "--method",
            metavar="als|sgd|svd|nmf|newton",
            show_default=False,
            help="als: exact solves, row after row. sgd: a gradient step for each rating, in random order. "
            "svd: the best approximation of the whole matrix. nmf: als with model.nonnegative. "
            "newton: another name for als, which takes Newton steps on each row where the loss is not squared.",
        ),
    ],
    n_iterations: Annotated[
        int | None,
        typer.Option(
            "--iterations", "--epochs", metavar="N", min=1, show_default="als 15, sgd 20", help="Passes over the ratings."
        ),
    ] = None,
    until_converged: Annotated[
        bool,
        typer.Option(
            "--until-converged", help="End when a pass changes the objective by less than 0.01 %; at most N passes, or 500."
        ),
    ] = False,
    holdout: Annotated[
        float, typer.Option("--holdout", metavar="SHARE", min=0, max=0.99, help="Ratings kept apart to test with, at random.")
    ] = 0.0,
    holdout_last: Annotated[
        bool,
        typer.Option(
            "--holdout-last",
            help="Test with each user's last rating (by time, then by place in the file), of users with two or more.",
        ),
    ] = False,
    start: Annotated[
        str,
        typer.Option(
            "--start",
            metavar="random|svd|F.npz",
            help="Where als and sgd begin: svd of the ratings without biases, or a file of --out.",
        ),
    ] = "random",
    missing: Annotated[
        Literal["zero", "biases"] | None,
        typer.Option(
            "--missing",
            metavar="zero|biases",
            show_default="zero for a matrix without gaps, else biases",
            help="What svd takes a pair without rating for: 0 (then the model has neither intercept nor biases), "
            "or what intercept and biases say.",
        ),
    ] = None,
    zero_is_missing: Annotated[
        bool, typer.Option("--zero-is-missing", help="In a matrix (.npy) take 0, besides NaN, for no rating.")
    ] = False,
    minibatch: Annotated[
        int | None,
        typer.Option(
            "--minibatch",
            metavar="N",
            min=1,
            show_default="1000000",
            help="Ratings that sgd hands over at once: what a device has to hold. Steps stay one after another.",
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        typer.Option("--device", metavar="auto|cpu|cuda", show_default="model.device", help="Where to compute."),
    ] = None,
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
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="DIR",
            file_okay=False,
            show_default=False,
            help="Write ratings and model as a checkpoint into a new folder; a worker with checkpoint.dir=DIR goes on from it.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Learn from a whole file at once; of several ratings of one item by one user the last counts."""
    from factorstream.worker.config import load
    from factorstream.worker.history import read

    asked = Asked(
        method=method,
        n_iterations=n_iterations,
        until_converged=until_converged,
        holdout=holdout,
        holdout_last=holdout_last,
        minibatch=minibatch,
        start=start,
        missing=missing,
        out=out,
        checkpoint=checkpoint,
    )
    asked.check()
    options = {"model.seed": seed, "model.device": device, "model.nonnegative": "true" if method == "nmf" else None}
    told = [f"{key}={value}" for key, value in options.items() if value is not None]
    settings = load(config, [*(assignments or []), *told])
    with closing(_opened(checkpoint, settings)) if checkpoint else nullcontext() as checkpoints:
        history = read(file, limit, zero_is_missing=zero_is_missing)
        if checkpoint is not None:
            _check_range(history, settings)
        model, done = _fitted(history, settings, asked, as_json=as_json)
        _write(model, history, settings, asked, checkpoints)
    answer(_result(asked, done, model, history), as_json=as_json, line=_summary(asked, done, model))


def _opened(folder: Path, settings: Settings) -> FileCheckpoints:
    """Return the empty folder of checkpoints, locked: before the work."""
    from factorstream.worker.adapters.files import FileCheckpoints
    from factorstream.worker.backfill import check_empty

    checkpoints = FileCheckpoints(folder, keep=settings.checkpoint.keep)
    checkpoints.lock()
    check_empty(checkpoints)
    return checkpoints


def _check_range(history: History, settings: Settings) -> None:
    from factorstream.worker.backfill import check_range

    lowest, highest = float(history.ratings.min()), float(history.ratings.max())
    check_range(lowest, highest, settings.model.rating_min, settings.model.rating_max)


def _fitted(history: History, settings: Settings, asked: Asked, *, as_json: bool) -> tuple[Model, list[Iteration]]:
    """Return the model, and what each iteration did."""
    from factorstream.worker.cli.fit_view import line, print_course
    from factorstream.worker.cli.progress import told

    model, iterations = _begun(history, settings, asked)
    if as_json:
        return model, list(iterations)
    done = list(told(iterations, n=asked.most_iterations, doing=asked.method, line=line))
    print_course(done)
    return model, done


def _begun(history: History, settings: Settings, asked: Asked) -> tuple[Model, Iterator[Iteration]]:
    """Return a model with its ratings and its start, and the iterations that will fit it."""
    from factorstream.worker import fitting
    from factorstream.worker.evaluation import check_ratings
    from factorstream.worker.wiring import fresh_model, kernels_of, learning_of

    kernels, learning, seed = kernels_of(settings), learning_of(settings), settings.model.seed
    check_ratings(learning, fresh_model(settings).level, history.ratings)
    asked.check_against(learning)
    parts = _parts(history, asked, seed)
    if asked.solved_by != "svd":
        fitting.warm_up(settings.model.rank, kernels, learning, asked.solved_by)
    model = fresh_model(settings)
    fitting.prepare(model, parts.training, kernels, learning)
    learning = fitting.learning_of_all(learning, model.level)
    n = asked.most_iterations
    if asked.solved_by == "svd":
        return model, fitting.fit_svd(model, learning, parts.holdout, missing=asked.missing, n_iterations=n, seed=seed)
    if asked.start == "svd":
        fitting.start_from_svd(model, learning, seed=seed)
    elif asked.start != "random":
        names = (history.user_names, history.item_names)
        fitting.start_from_file(Path(asked.start), model, *names, nonnegative=learning.nonnegative)
    return model, fitting.fit(
        model,
        kernels,
        learning,
        parts.holdout,
        method=asked.solved_by,
        n_iterations=n,
        seed=seed,
        minibatch=asked.minibatch or fitting.MINIBATCH,
        until_converged=asked.until_converged,
    )


def _parts(history: History, asked: Asked, seed: int) -> Split:
    """Return what is learned from and what is held out. Raises `UserMistake` when nothing is left."""
    from factorstream.worker import fitting

    columns = (history.user_codes, history.item_codes, history.ratings, history.timestamps_ms)
    held = fitting.last_writes(*columns, n_users=len(history.user_names), n_items=len(history.item_names))
    if asked.holdout_last:
        parts = fitting.last_of_each_user(held, history.user_codes, history.item_codes)
        if not len(parts.holdout.ratings):
            raise UserMistake("--holdout-last: no user has two ratings, of which one could be held out")
    else:
        parts = fitting.split(held, asked.holdout, seed)
    if not parts.training.n_ratings:
        raise UserMistake(f"--holdout {asked.holdout} leaves none of {held.n_ratings} ratings to learn from")
    return parts


def _write(model: Model, history: History, settings: Settings, asked: Asked, checkpoints: FileCheckpoints | None) -> None:
    """Write the model where it was asked for."""
    if asked.out is not None:
        from factorstream.worker.fitting import save

        save(asked.out, model, history.user_names, history.item_names, json.dumps(settings.model_dump(mode="json")))
    if checkpoints is not None:
        from factorstream.worker import backfill, kernels
        from factorstream.worker.wiring import fresh_state, wall_ms

        state = fresh_state(settings)
        backfill.begin_with(state, model, history.user_names, history.item_names)
        seen = settings.publish.seen_items
        backfill.write(
            state, checkpoints, seen_items=seen, platform=kernels.platform(settings.model.device), created_ms=wall_ms()
        )


def _told(iteration: Iteration) -> dict[str, object]:
    facts = asdict(iteration)
    del facts["holdout_ranking"]
    if iteration.holdout_ranking is not None:
        facts |= {f"holdout_{name}": value for name, value in iteration.holdout_ranking._asdict().items()}
    return facts


def _result(asked: Asked, done: list[Iteration], model: Model, history: History) -> dict[str, object]:
    return {
        "method": asked.method,
        "iterations": list(map(_told, done)),
        "n_ratings": model.ratings.n_ratings,
        "n_users": len(history.user_names),
        "n_items": len(history.item_names),
        "out": None if asked.out is None else str(asked.out),
        "checkpoint": None if asked.checkpoint is None else str(asked.checkpoint),
    }


def _summary(asked: Asked, done: list[Iteration], model: Model) -> str:
    seconds = sum(iteration.seconds for iteration in done)
    rmse, ranking = done[-1].holdout_rmse, done[-1].holdout_ranking
    passes = "1 pass" if len(done) == 1 else f"{len(done)} passes"
    return (
        f"{asked.method}: {model.ratings.n_ratings:,} ratings, {passes} in {seconds:.2f} s"
        + ("" if rmse is None else f", holdout RMSE {rmse:.4f}")
        + ("" if ranking is None else f", recall@10 {ranking.recall_at_10:.4f}, nDCG@10 {ranking.ndcg_at_10:.4f}")
        + ("" if asked.out is None else f"; written to {asked.out}")
        + (
            ""
            if asked.checkpoint is None
            else f"; to go on from it, model settings unchanged: factorstream run --set checkpoint.dir={asked.checkpoint}"
        )
    )
