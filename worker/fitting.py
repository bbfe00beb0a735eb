"""Learning from a whole history at once: the stream's model and objective, iteration after iteration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.errors import UserMistake
from factorstream.worker.kernels.api import Batch, Histories, Kernels, Rates
from factorstream.worker.kernels.objective import errors, penalties
from factorstream.worker.learn.settings import Learning
from factorstream.worker.learn.sgd import Sgd
from factorstream.worker.model.level import Level
from factorstream.worker.model.model import ITEMS, USERS, Model
from factorstream.worker.model.ratings import Held, Ratings

Method = Literal["als", "sgd"]

BLOCK_VISITS = 2_000_000
"""Ratings gathered at once: some 16 MB."""
EPOCHS_TO_HALF = 5
"""After which SGD's steps are half as long."""
LAMBDA = 14.0
"""λ of the factors where none is set, in units of the ratings' spread: with it ratings held out at random are predicted best.

More than in the stream, where most of a row's ratings are still to come.
"""


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one pass over the ratings did."""

    objective: float
    """Of the training ratings, after it, in double precision."""
    seconds: float
    """Of learning alone."""
    holdout_rmse: float | None
    """Predictions clipped to the range of the training ratings; None when nothing is held out."""


@dataclass(frozen=True, slots=True)
class Split:
    """Pairs to learn from and pairs to ask about, each ascending by (user, item)."""

    training: Held
    holdout: Held


def last_writes(
    user_rows: NDArray[np.int32], item_rows: NDArray[np.int32], ratings: NDArray[np.float32], timestamps_ms: NDArray[np.int64]
) -> Held:
    """Return what the pairs of a history hold in the end: of several ratings of one pair the last."""
    store = Ratings()
    store.grow(int(user_rows.max()) + 1, int(item_rows.max()) + 1)
    for first in range(0, len(ratings), BLOCK_VISITS):
        part = slice(first, first + BLOCK_VISITS)
        kinds = np.zeros(len(ratings[part]), np.uint8)
        store.accept(kinds, user_rows[part], item_rows[part], ratings[part], timestamps_ms[part])
    return store.entries()


def split(entries: Held, holdout: float, seed: int) -> Split:
    """Hold out the share *holdout* of *entries*, drawn without replacement from *seed*."""
    n = len(entries.ratings)
    held_out = np.zeros(n, bool)
    held_out[np.random.default_rng(seed).permutation(n)[: round(holdout * n)]] = True
    return Split(_taken(entries, ~held_out), _taken(entries, held_out))


def _taken(entries: Held, chosen: NDArray[np.bool_]) -> Held:
    return Held(entries.user_rows[chosen], entries.item_rows[chosen], entries.ratings[chosen], entries.timestamps_ms[chosen])


def prepare(model: Model, training: Held, kernels: Kernels, learning: Learning, n_users: int, n_items: int) -> None:
    """Give *model*, which is new, the ratings, their level, and first factors; rows without ratings are zero: their prior."""
    never = np.iinfo(np.int64).min
    model.ratings = Ratings.from_entries(training, user_floor_ms=np.full(n_users, never), item_floor_ms=np.full(n_items, never))
    model.level = _level(training.ratings, model.level)
    deviation = learning.deviation(model.level)
    for rows, n, counts in (
        (model.users, n_users, model.ratings.user_counts),
        (model.items, n_items, model.ratings.item_counts),
    ):
        rows.grow(n, kernels, deviation)
        rows.factors[counts == 0] = 0.0


def learning_of_all(learning: Learning, level: Level) -> Learning:
    """Return *learning* with the λ of a whole history where none is set; *level* is that of its ratings."""
    if learning.weighted:
        return learning
    user = LAMBDA * level.spread if learning.lambda_user is None else learning.lambda_user
    item = LAMBDA * level.spread if learning.lambda_item is None else learning.lambda_item
    return replace(learning, lambda_user=user, lambda_item=item)


def fit(
    model: Model, kernels: Kernels, learning: Learning, parts: Split, *, method: Method, n_iterations: int, seed: int
) -> Iterator[Iteration]:
    """Learn from the training part, to which *model* was prepared; yield after each iteration.

    ``als`` solves all users, then all items, exactly. ``sgd`` takes one step for each rating, in an order drawn from *seed*.
    Raises `UserMistake` when the model diverges.
    """
    random = np.random.default_rng(seed)
    learning = learning_of_all(learning, model.level)
    for epoch in range(n_iterations):
        began = time.perf_counter()
        if method == "als":
            _solve_all(model, kernels, learning)
        else:
            _step_all(model, kernels, learning, parts.training, _rates(learning, model.level, epoch), random)
        seconds = time.perf_counter() - began
        value = objective(model, learning, parts.training)
        if not np.isfinite(value):
            raise UserMistake(
                f"the model diverged ({method}): lower sgd.learning_rate, or raise als.lambda_user and als.lambda_item"
            )
        yield Iteration(value, seconds, rmse(model, parts.holdout))


def objective(model: Model, learning: Learning, training: Held) -> float:
    """Return ``Σ ½ (x − s)² + Σ ½ λ |·|²``."""
    penalty = learning.penalty(model.level)
    off = _errors(model, training)
    users = penalties(model.users.side, model.ratings.user_counts, penalty.user, penalty.bias, weighted=penalty.weighted)
    items = penalties(model.items.side, model.ratings.item_counts, penalty.item, penalty.bias, weighted=penalty.weighted)
    return 0.5 * float(off @ off) + users + items


def rmse(model: Model, held_out: Held) -> float | None:
    """Return the root mean square error, predictions clipped to the model's range; None for no ratings."""
    if not len(held_out.ratings):
        return None
    ratings = held_out.ratings.astype(np.float64)
    predictions = np.clip(ratings - _errors(model, held_out), model.level.lowest, model.level.highest)
    return float(np.sqrt(np.mean((ratings - predictions) ** 2)))


def warm_up(rank: int, kernels: Kernels, learning: Learning, method: Method) -> None:
    """Compile, or load, what `fit` runs, on a model that is thrown away."""
    rows = np.arange(64, dtype=np.int32)
    entries = Held(rows, rows % 8, (rows % 3).astype(np.float32), np.zeros(64, np.int64))
    model = Model(rank, 0)
    prepare(model, entries, kernels, learning, 64, 8)
    for _ in fit(model, kernels, learning, Split(entries, entries), method=method, n_iterations=1, seed=0):
        pass


def _level(ratings: NDArray[np.float32], before: Level) -> Level:
    """Return the level of all *ratings*; a range that was configured stays."""
    exact = ratings.astype(np.float64)
    lowest = float(exact.min()) if before.lowest is None else before.lowest
    highest = float(exact.max()) if before.highest is None else before.highest
    spread = float(exact.std()) or 1.0
    return Level(len(ratings), float(exact.sum()), float(exact @ exact), float(exact.mean()), spread, lowest, highest)


def _errors(model: Model, entries: Held) -> NDArray[np.float64]:
    return errors(
        model.users.side, model.items.side, entries.user_rows, entries.item_rows, entries.ratings, intercept=model.level.intercept
    )


def _solve_all(model: Model, kernels: Kernels, learning: Learning) -> None:
    rule = Sgd(kernels, learning)
    for side, counts in ((USERS, model.ratings.user_counts), (ITEMS, model.ratings.item_counts)):
        rows = np.flatnonzero(counts).astype(np.int32)
        block = np.cumsum(counts[rows], dtype=np.int64) // BLOCK_VISITS
        for part in np.split(rows, np.flatnonzero(np.diff(block)) + 1):
            rule.solve(model, side, part)


def _rates(learning: Learning, level: Level, epoch: int) -> Rates:
    """Return the step sizes of *epoch*: those of the stream at first, then falling, so that steps end near the minimum."""
    rates = learning.rates(level)
    share = 1.0 / (1.0 + epoch / EPOCHS_TO_HALF)
    return Rates(rates.factors * share, rates.biases * share, rates.decay)


def _step_all(
    model: Model, kernels: Kernels, learning: Learning, training: Held, rates: Rates, random: np.random.Generator
) -> None:
    order = random.permutation(len(training.ratings))
    for first in range(0, len(order), BLOCK_VISITS):
        part = order[first : first + BLOCK_VISITS]
        users, items = training.user_rows[part], training.item_rows[part]
        none = Histories(np.zeros(len(part) + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
        counts = (model.ratings.user_counts[users], model.ratings.item_counts[items])
        kernels.sgd(
            model.users.side,
            model.items.side,
            Batch(users, items, training.ratings[part], *counts, none, none),
            intercept=model.level.intercept,
            objective=learning.objective(model.level),
            rates=rates,
        )
