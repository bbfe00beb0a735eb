"""``factorstream tune``: the settings that suit a history of one's own."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorstream.worker.cli.options import Config, Limit, RatingsFile, Set
from factorstream.worker.cli.printing import Json, answer
from factorstream.worker.errors import UserMistake

if TYPE_CHECKING:
    from factorstream.worker.config import Settings
    from factorstream.worker.model.journal import Events
    from factorstream.worker.model.level import Level
    from factorstream.worker.tuning import Trial, Values

PIECES = 10
"""Of the history: after each a trial may be cut short."""
WRITTEN = ("model", "sgd", "als", "sweep")
"""Sections that say how is learned; what is set in others is not this command's business."""


def tune(
    file: RatingsFile,
    n_trials: Annotated[int, typer.Option("--trials", metavar="N", min=1, help="Choices to try.")] = 40,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="F", dir_okay=False, show_default="printed", help="Write the best as a file for --config."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, max=2**32 - 1, help="Of the search.")] = 0,
    limit: Limit = None,
    config: Config = None,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Choose step sizes, regularisation and fold-in by the error of predicting each rating of your history before learning it.

    That error is what 'factorstream evaluate' measures. What else is set, such as model.rank, stays as it is, and is written too.
    While model.learn_priors is on, λ that are unset are learned as the ratings come, and are left unset.
    The same seed finds the same. The best of N trials is a little better on this history than it will be on what comes.
    """
    from factorstream.worker.cli.progress import told
    from factorstream.worker.config import chosen, load
    from factorstream.worker.evaluation import check_ratings, events_of
    from factorstream.worker.history import read
    from factorstream.worker.tuning import Trial, check_installed
    from factorstream.worker.tuning import tune as trials_of
    from factorstream.worker.wiring import fresh_model, learning_of

    check_installed()
    if out is not None and not os.access(out.resolve().parent, os.W_OK):
        raise UserMistake(f"--out {out}: {out.resolve().parent} is no folder that can be written to")

    def settings_with(values: Values) -> Settings:
        return load(config, [*(assignments or []), *(f"{key}={value}" for key, value in values.items())])

    unchanged = settings_with({})
    if unchanged.model.loss != "squared":
        raise UserMistake(
            f"tune chooses settings for model.loss = squared, and here it is {unchanged.model.loss}: try some by hand"
        )
    if unchanged.model.learner != "sgd":
        raise UserMistake("tune chooses settings of model.learner = sgd: the learner posterior estimates its own")
    history = read(file, limit)
    check_ratings(learning_of(unchanged), fresh_model(unchanged).level, history.ratings)
    events = events_of(history)
    before, level = _as_it_is(unchanged, events)
    trials = trials_of(
        lambda values: (error for error, _ in _errors(settings_with(values), events)),
        _values(unchanged, level),
        before,
        n_trials=n_trials,
        seed=seed,
    )
    done = list(trials if as_json else told(trials, n=n_trials, doing="tune", line=_line))
    best = min([Trial({}, before[-1], complete=True), *done], key=lambda trial: trial.rmse if trial.complete else math.inf)
    line = f"RMSE {best.rmse:.4f}, with the settings as they were {before[-1]:.4f}"
    text = f"# 'factorstream tune {file.name}', {len(events)} ratings: {line}\n\n{chosen(settings_with(best.values), WRITTEN)}"
    if out is not None:
        out.write_text(text)
    answer(
        {
            "n_ratings": len(events),
            "n_trials": n_trials,
            "n_complete": sum(trial.complete for trial in done),
            "rmse_before": before[-1],
            "rmse": best.rmse,
            "settings": dict(best.values),
            "out": None if out is None else str(out),
        },
        as_json=as_json,
        line=f"{text}{line}" if out is None else f"{line}; to use it: --config {out}",
    )


def _as_it_is(settings: Settings, events: Events) -> tuple[list[float], Level]:
    """Return the errors with *settings* as they are, and the level of the ratings."""
    found = list(_errors(settings, events))
    if not math.isfinite(found[-1][0]):
        raise UserMistake("with the settings as they are the model diverges: lower sgd.learning_rate, or leave it out, first")
    return [error for error, _ in found], found[-1][1]


def _errors(settings: Settings, events: Events) -> Iterator[tuple[float, Level]]:
    """Yield the error after each piece of the history, and the level then."""
    from factorstream.worker.evaluation import evaluate_so_far
    from factorstream.worker.wiring import fresh_model, learner_of

    model = fresh_model(settings)
    for found in evaluate_so_far(learner_of(settings), model, events, PIECES):
        yield found.rmse, model.level


def _values(settings: Settings, level: Level) -> dict[str, float | int]:
    """Return what is tuned, as it is: unset settings in numbers, at *level*. λ that the model learns itself are left to it."""
    from factorstream.worker.wiring import learning_of

    learning = learning_of(settings)
    rates, penalty = learning.rates(level), learning.penalty(level)
    told = {
        "als.lambda_user": (learning.lambda_user, penalty.user),
        "als.lambda_item": (learning.lambda_item, penalty.item),
        "als.lambda_bias": (learning.lambda_bias, penalty.bias),
    }
    values = {
        "sgd.learning_rate": rates.factors,
        "sgd.bias_learning_rate": rates.biases,
        "sgd.decay": rates.decay,
        "sgd.fold_in": learning.fold_in,
        **{key: at_level for key, (given, at_level) in told.items() if given is not None or not learning.has_priors},
    }
    of_biases = ("sgd.bias_learning_rate", "als.lambda_bias")
    return {key: value for key, value in values.items() if not (learning.nonnegative and key in of_biases)}


def _line(number: int, trial: Trial) -> str:
    values = ", ".join(f"{key.partition('.')[2]} {value:g}" for key, value in trial.values.items())
    return f"{number:3}   RMSE {trial.rmse:.4f}{'' if trial.complete else ' (cut short)'}   {values}"
