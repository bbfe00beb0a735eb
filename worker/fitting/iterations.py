"""Iterations over all ratings held, each of which lowers the one objective: exact solves, or a step for each rating."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.errors import UserMistake
from factorstream.worker.fitting.descent import Descent
from factorstream.worker.fitting.ranking import Ranking, ranking
from factorstream.worker.fitting.splits import BLOCK_VISITS, NEVER, user_blocks
from factorstream.worker.kernels import losses
from factorstream.worker.kernels.api import F32, Kernels, Side
from factorstream.worker.kernels.gram import gram_of
from factorstream.worker.kernels.objective import over_observed, penalties, scores
from factorstream.worker.learn.implicit import penalties_of
from factorstream.worker.learn.learner import new_model
from factorstream.worker.learn.priors import priors_of
from factorstream.worker.learn.rule import rule_of
from factorstream.worker.learn.settings import Learning
from factorstream.worker.model import cuts
from factorstream.worker.model.level import Level
from factorstream.worker.model.model import ITEMS, USERS, Model
from factorstream.worker.model.ratings import Held, Ratings, rows_in_blocks

Method = Literal["als", "sgd"]

MINIBATCH = 1_000_000
"""Ratings handed to a kernel at once."""
CONVERGED = 1e-4
"""Share of the objective that an iteration must still change."""
LAMBDA = 14.0
"""λ of the factors where none is set, in units of the ratings' spread: with it ratings held out at random are predicted best.

More than in the stream, where most of a row's ratings are still to come.
"""
NOTHING = Held(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Iteration:
    """What one pass over the ratings did."""

    objective: float
    """Of the training ratings, after it, in double precision."""
    seconds: float
    """Of learning alone; in the first one, of what it needs besides: a history brought into order."""
    holdout_rmse: float | None
    """Predictions clipped to the range of the training ratings; None when nothing is held out."""
    holdout_ranking: Ranking | None = None
    """Implicit loss."""


def prepare(model: Model, training: Ratings, kernels: Kernels, learning: Learning) -> None:
    """Give *model*, which is new, the ratings (its own from now on), their level, and first factors.

    Rows without ratings are zero: their prior.
    """
    model.ratings = training
    model.level = replace(model.level, n=training.n_ratings) if learning.loss == "implicit" else _level(training, model.level)
    deviation = learning.deviation(model.level, model.rank)
    for rows, counts in ((model.users, training.user_counts), (model.items, training.item_counts)):
        rows.grow(len(counts), kernels, deviation, nonnegative=learning.nonnegative)
        rows.factors[counts == 0] = 0.0


def learning_of_all(learning: Learning, level: Level) -> Learning:
    """Return *learning* with the λ of a whole history where none is set; *level* is that of its ratings."""
    if learning.weighted or learning.nonnegative or learning.loss == "implicit":
        return learning
    unset = LAMBDA * level.spread * level.curvature
    user = unset if learning.lambda_user is None else learning.lambda_user
    item = unset if learning.lambda_item is None else learning.lambda_item
    return replace(learning, lambda_user=user, lambda_item=item)


def fit(
    model: Model,
    kernels: Kernels,
    learning: Learning,
    holdout: Held = NOTHING,
    *,
    method: Method,
    n_iterations: int,
    seed: int,
    minibatch: int = MINIBATCH,
    until_converged: bool = False,
) -> Iterator[Iteration]:
    """Learn from the ratings of *model*, which is prepared; yield after each of at most *n_iterations* iterations.

    ``als`` solves all users, then all items, exactly. ``sgd`` takes one step for each rating, one after another, in the order
    of `sections`, which are taken in an order that is drawn anew in each iteration; both from *seed*. The kernel gets at most
    *minibatch* ratings at once, which changes no bit, as the number of threads does not.

    Args:
        until_converged: End after an iteration that changed the objective by less than the share `CONVERGED`.

    Raises `UserMistake` when the model diverges.
    """
    began, before, of_all = time.perf_counter(), np.inf, learning_of_all(learning, model.level)
    unset = learning.has_priors and learning.lambda_user is None and learning.lambda_item is None
    learner = (
        _Solves(model, kernels, of_all)
        if method == "als"
        else Descent(model, kernels, of_all, learn_penalty=unset, n_epochs=n_iterations, seed=seed, minibatch=minibatch)
    )
    for _ in range(n_iterations):
        learner.improve()
        if model.level.cuts:
            _refit_cuts(model)
        seconds = time.perf_counter() - began
        value = objective(model, learner.learning)
        if not np.isfinite(value):
            raise UserMistake(
                f"the model diverged ({method}): lower sgd.learning_rate, or raise als.lambda_user and als.lambda_item"
            )
        ranked = ranking(model, holdout) if learning.loss == "implicit" else None
        yield Iteration(value, seconds, rmse(model, learning, holdout), ranked)
        if until_converged and learner.settled and abs(before - value) < CONVERGED * abs(value):
            return
        before, began = value, time.perf_counter()


def objective(model: Model, learning: Learning) -> float:
    """Return ``Σ ℓ(x, s) + Σ ½ λ |·|² + Σ κ |·|₁`` over the ratings held; of clicks over all pairs, confidence-weighted.

    Of the learner posterior the first sum alone: what its solves lower is a bound of the evidence, with noise and priors in it.
    Where priors are learned, rows are held to their means instead of zero, and what makes up the means has a cost of its own.
    """
    if learning.loss == "implicit":
        return _implicit_objective(model, learning)
    penalty, loss, total = learning.penalty(model.level), model.level.loss, 0.0
    if learning.learner != "posterior":
        priors = priors_of(model)
        if priors is not None and not priors.say_anything:
            priors = None
        total += 0.0 if priors is None else priors.cost(model.level.spread)
        for side, own, counts in (
            (USERS, model.users, model.ratings.user_counts),
            (ITEMS, model.items, model.ratings.item_counts),
        ):
            away = own.on_host if priors is None else _away(own.on_host, priors.means(side, counts))
            total += penalties(away, counts, penalty, users=side == USERS)
    for block in user_blocks(model.ratings):
        total += float(losses.values(loss, block.ratings.astype(np.float64), _scores(model, block)).sum())
    return total


def _away(side: Side, means: F32) -> Side:
    """Return how far the first rows of *side* are from their *means*."""
    n = len(means)
    return Side(side.factors[:n] - means[:, :-1], side.biases[:n] - means[:, -1])


def _implicit_objective(model: Model, learning: Learning) -> float:
    ratings = model.ratings
    grams, norms = [], 0.0
    strengths = np.zeros(ratings.n_users), np.zeros(ratings.n_items)
    observed = 0.0
    for block in user_blocks(ratings):
        off = learning.targets(block.ratings) - _scores(model, block)
        observed += over_observed(off, block.ratings, learning.alpha)
        for sums, rows in zip(strengths, (block.user_rows, block.item_rows), strict=True):
            sums += np.bincount(rows, block.ratings, len(sums))
    held, largest = (ratings.user_counts > 0, ratings.item_counts > 0), int(ratings.item_counts.max())
    for side, own in ((USERS, model.users), (ITEMS, model.items)):
        grams.append(gram_of(own.factors, held[side]))
        penalties_ = penalties_of(learning, side, strengths[side], int(np.count_nonzero(held[1 - side])), largest)
        norms += float((penalties_ * held[side]) @ (own.factors.astype(np.float64) ** 2).sum(axis=1))
    return observed + 0.5 * (float(np.sum(grams[USERS] * grams[ITEMS])) + norms)


def rmse(model: Model, learning: Learning, held_out: Held) -> float | None:
    """Return the root mean square error, predictions clipped to the model's range; None for no ratings."""
    if not len(held_out.ratings):
        return None
    targets = learning.targets(held_out.ratings).astype(np.float64)
    predictions = np.clip(model.level.predictions(_scores(model, held_out)), model.level.lowest, model.level.highest)
    return float(np.sqrt(np.mean((targets - predictions) ** 2)))


def warm_up(rank: int, kernels: Kernels, learning: Learning, method: Method) -> None:
    """Compile, or load, what `fit` runs, on a model that is thrown away."""
    rows = np.arange(64, dtype=np.int32)
    entries = Held(rows, rows % 8, learning.rating_step * (rows % 2).astype(np.float32), np.zeros(64, np.int64))
    model = new_model(learning, rank, 0, (0.0, learning.rating_step))
    held = Ratings.from_entries(entries, user_floor_ms=np.full(64, NEVER), item_floor_ms=np.full(8, NEVER))
    prepare(model, held, kernels, learning)
    for _ in fit(model, kernels, learning, entries, method=method, n_iterations=1, seed=0):
        pass


def _level(ratings: Ratings, before: Level) -> Level:
    """Return the level of all *ratings*; a range that was configured stays."""
    total = squares = deviations = 0.0
    lowest, highest, counts = np.inf, -np.inf, np.array(before.counts, np.int64)
    for block in user_blocks(ratings):
        exact = block.ratings.astype(np.float64)
        total, squares = total + float(exact.sum()), squares + float(exact @ exact)
        lowest, highest = min(lowest, exact.min(initial=lowest)), max(highest, exact.max(initial=highest))
        counts += before.counted(block.ratings)
    mean = total / ratings.n_ratings
    for block in user_blocks(ratings):  # again: a difference of squares would lose a small spread
        exact = block.ratings.astype(np.float64) - mean
        deviations += float(exact @ exact)
    level = replace(
        before,
        n=ratings.n_ratings,
        total=total,
        squares=squares,
        lowest=float(lowest) if before.lowest is None else before.lowest,
        highest=float(highest) if before.highest is None else before.highest,
        counts=tuple(counts.tolist()),
    )
    level.estimate(deviations / ratings.n_ratings)
    return level


def _refit_cuts(model: Model) -> None:
    """Move the cut points between categories to where the loss of all ratings held is least."""
    level = model.level

    def slope(points: NDArray[np.float64]) -> cuts.Slope:
        parts = [
            cuts.slope_of(points, level.loss, block.ratings.astype(np.float64), _scores(model, block))
            for block in user_blocks(model.ratings)
        ]
        return cuts.Slope(*(sum(columns[1:], columns[0]) for columns in zip(*parts, strict=True)))

    level.cuts = level.next_cuts = cuts.refitted(level.cuts, slope)


def _scores(model: Model, entries: Held) -> NDArray[np.float64]:
    return scores(model.users.on_host, model.items.on_host, entries.user_rows, entries.item_rows, intercept=model.level.intercept)


class _Solves:
    """An exact solve of each row, users first."""

    settled = True

    def __init__(self, model: Model, kernels: Kernels, learning: Learning) -> None:
        self.learning = learning
        self._model, self._rule = model, rule_of(learning, kernels)
        self._rule.take_over(model)

    def improve(self) -> None:
        ratings = self._model.ratings
        for side, counts in ((USERS, ratings.user_counts), (ITEMS, ratings.item_counts)):
            for part in rows_in_blocks(counts, BLOCK_VISITS):
                self._rule.solve(self._model, side, part)
        self._rule.end_sweep(self._model)
