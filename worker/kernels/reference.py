"""The kernels in plain numpy and float64: slow, and what every other set of kernels means. See `api.Kernels`.

A row is handled here as one vector ``w = [u, b]``: its factors, then its bias. `reference_rows` solves it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from factorstream.worker.kernels import losses
from factorstream.worker.kernels.api import (
    F32,
    F64,
    I32,
    NO_MEANS,
    SGD,
    Batch,
    Held,
    Histories,
    Moments,
    Objective,
    Optimizer,
    Rates,
    Rows,
    Scored,
    Side,
    Solver,
)
from factorstream.worker.kernels.careful import minimum_norm
from factorstream.worker.kernels.reference_calibrate import calibrate
from factorstream.worker.kernels.reference_effects import attribute, meet, recall
from factorstream.worker.kernels.reference_rows import problem_of, soft

__all__ = ["als", "attribute", "calibrate", "hold", "implicit", "initialize", "keep", "meet", "name", "recall", "sgd"]

name = "reference"


def hold(side: Rows, n: int) -> Rows:
    """Return *side*: these kernels learn on the host."""
    return side


def keep(held: Held) -> Held:
    """Return *held*: these kernels use it as it is."""
    return held


def sgd(
    users: Side,
    items: Side,
    batch: Batch,
    *,
    intercept: float,
    objective: Objective,
    rates: Rates,
    optimizer: Optimizer = SGD,
) -> Scored:
    """Learn from *batch*, one event after another (`api.Kernels.sgd`)."""
    scored = np.full((4, len(batch.ratings)), np.nan)
    errors = scored[0]
    how = Steps(objective, rates, optimizer)
    for j, (user, item, rating) in enumerate(zip(batch.user_rows, batch.item_rows, batch.ratings, strict=True)):
        w, z = _row(users, user), _row(items, item)
        its, whose = (_history(histories, j) for histories in (batch.user_histories, batch.item_histories))
        with np.errstate(all="ignore"):
            product = w[:-1] @ z[:-1]
            score = intercept + w[-1] + z[-1] + product
            scored[:, j] = rating - score, w[-1], z[-1], product
            pull = how.slope(rating, score) * how.bound(w, z, batch, j, rating, score)
            of_user, of_item = (_mean(means, j, len(w)) for means in (batch.user_means, batch.item_means))
            learned = [
                _learned(how, users, user, w, of_user, z, pull, batch.user_counts[j], items, its, intercept, of_users=True),
                _learned(how, items, item, z, of_item, w, pull, batch.item_counts[j], users, whose, intercept, of_users=False),
            ]
        stays = [
            not _write(side, row, new, how.moments(of_users))
            for side, row, new, of_users in ((users, user, learned[0], True), (items, item, learned[1], False))
        ]
        if any(stays):
            errors[j] = np.nan
    with np.errstate(over="ignore"):
        return Scored(*scored.astype(np.float32))


def als(
    own: Side,
    other: Side,
    rows: I32,
    histories: Histories,
    *,
    intercept: float,
    objective: Objective,
    of_users: bool,
    means: F32 = NO_MEANS,
    solver: Solver = "auto",
) -> F64:
    """Solve each of *rows* (`api.Kernels.als`), exactly whatever the *solver*: for its distance from its prior mean."""
    gains = np.zeros(len(rows))
    for j, row in enumerate(rows):
        others, ratings = _history(histories, j)
        mean = means[j].astype(np.float64) if len(means) else np.zeros(own.factors.shape[1] + 1)
        with np.errstate(all="ignore"):
            less = ratings - other.factors[others] @ mean[:-1] - mean[-1]
            problem = problem_of(other, others, less, intercept=intercept, objective=objective, of_users=of_users)
            old = _row(own, row) - mean
            new = problem.minimiser(old) + mean
        if _write(own, row, Learned(new), None):
            gains[j] = problem.gain(old, new - mean) if np.isfinite(old).all() else np.inf
    return gains


def implicit(
    own: Side,
    other: Side,
    rows: I32,
    histories: Histories,
    gram: F64,
    *,
    alpha: float,
    penalties: F32,
    solver: Solver = "auto",
) -> F64:
    """Solve each of *rows* over all pairs (`api.Kernels.implicit`)."""
    gains = np.zeros(len(rows))
    for j, row in enumerate(rows):
        others, ratings = _history(histories, j)
        vectors, weights = other.factors[others].astype(np.float64), alpha * ratings.astype(np.float64)
        with np.errstate(all="ignore"):
            matrix = gram + (vectors.T * weights) @ vectors + float(penalties[j]) * np.eye(len(gram))
            right = (1 + weights) * (ratings > 0) @ vectors
            new = minimum_norm(matrix, right).astype(np.float32) if np.isfinite(matrix).all() else np.nan
        if np.isfinite(new).all():
            change = new - own.factors[row].astype(np.float64)
            gains[j] = 0.5 * change @ matrix @ change if np.isfinite(change).all() else np.inf
            own.factors[row] = new
    return gains


def initialize(side: Side, first: int, stop: int, *, seed: int, stream: int, deviation: float) -> None:
    """Fill new rows (`api.Kernels.initialize`)."""
    rank = side.factors.shape[1]
    side.biases[first:stop] = 0
    for row in range(first, stop):
        key = splitmix64(splitmix64(splitmix64(seed) ^ stream) ^ row)
        for k in range(rank):
            bits = splitmix64(key + k // 2)
            radius = math.sqrt(-2 * math.log(((bits >> 32) + 1) / 2**32))
            angle = 2 * math.pi * (bits & 0xFFFFFFFF) / 2**32
            side.factors[row, k] = deviation * radius * (math.cos(angle) if k % 2 == 0 else math.sin(angle))


def splitmix64(counter: int) -> int:
    """Return 64 random bits for *counter*.

    Source: Steele, Lea and Flood, OOPSLA 2014; Vigna's constants.
    """
    mask = 2**64 - 1
    bits = (counter + 0x9E3779B97F4A7C15) & mask
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & mask
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & mask
    return bits ^ (bits >> 31)


class Learned(NamedTuple):
    """What becomes of a row."""

    row: F64
    first: F64 | None = None
    """What becomes of its optimizer's state; None: it stays."""
    second: F64 | None = None


class Steps(NamedTuple):
    """How a gradient becomes a step."""

    objective: Objective
    rates: Rates
    optimizer: Optimizer

    def slope(self, rating: float, score: float) -> float:
        """Return ∂ℓ/∂s; NaN for an unrate, and where the score is not finite."""
        if not math.isfinite(score):
            return math.nan
        kind, loss = losses.KINDS[self.objective.loss.name], self.objective.loss
        return float(losses.slope(kind, rating, score, *losses.around(rating, loss.lowest, loss.step, loss.cuts)))

    def bound(self, w: F64, z: F64, batch: Batch, j: int, rating: float, score: float) -> float:
        """Return by what the slope of event *j*'s steps is multiplied, so that these take back at most half of the error."""
        if self.optimizer.name not in ("sgd", "momentum"):
            return 1.0
        taken_back = 0.0
        for histories, count, other in (
            (batch.user_histories, batch.user_counts[j], z),
            (batch.item_histories, batch.item_counts[j], w),
        ):
            if not len(_history(histories, j)[0]):
                taken_back += self.rate(count, len(w)) @ np.append(other[:-1] ** 2, 1.0)
        if self.optimizer.name == "momentum":
            taken_back /= 1 - self.optimizer.beta1
        taken_back *= losses.steepest(losses.KINDS[self.objective.loss.name], rating, score)
        return 1.0 if taken_back <= 0.5 else 0.5 / taken_back

    def rate(self, count: int, size: int) -> F64:
        """Return η of each factor, and of the bias, of a row that holds *count* ratings."""
        n = max(count, 1)
        biases = self.rates.biases if self.objective.biased else 0.0
        return _by_column(self.rates.factors, biases, size) / (1 + self.rates.decay * n) / n**self.rates.power

    def moments(self, of_users: bool) -> Moments:
        """Return one side's optimizer state."""
        return self.optimizer.users if of_users else self.optimizer.items

    def new_row(self, row: int, w: F64, mean: F64, gradient: F64, count: int, *, of_users: bool) -> Learned:
        """Return row *row*, now ``w``, after a step against the *gradient* of its loss; *count* ratings are its.

        A plain λ holds it to its prior *mean*.
        """
        penalty = self.objective.penalty
        ridge, lasso = penalty.on(users=of_users)
        if not penalty.weighted:
            ridge, lasso = ridge / max(count, 1), lasso / max(count, 1)
        weights = _by_column(ridge, penalty.bias if penalty.weighted else penalty.bias / max(count, 1), len(w))
        if penalty.weighted:
            gradient = gradient + weights * w
        rate, direction, state = self._direction(row, gradient, self.rate(count, len(w)), of_users)
        new = w - rate * direction
        new[:-1] = [soft(number, eta * lasso) for number, eta in zip(new[:-1], rate[:-1], strict=True)]
        if not penalty.weighted:
            new = mean + (new - mean) / (1 + rate * weights)
        if self.objective.nonnegative:
            new[:-1] = np.maximum(new[:-1], 0.0)
        return Learned(new, *state)

    def _direction(self, row: int, g: F64, rate: F64, of_users: bool) -> tuple[F64, F64, tuple[F64 | None, F64 | None]]:
        """Return the rate of each number, the direction in the gradient's place, and the optimizer's new state."""
        name, beta1, beta2, epsilon, *_ = self.optimizer
        if name == "sgd":
            return rate, g, (None, None)
        first, second, steps = self.moments(of_users)
        if name == "momentum":
            velocity = beta1 * first[row].astype(np.float64) + g
            return rate, velocity, (velocity, None)
        if name == "adagrad":
            squares = second[row] + g**2
            return rate / (np.sqrt(squares) + epsilon), g, (None, squares)
        squares = beta2 * second[row].astype(np.float64) + (1 - beta2) * g**2
        if name == "rmsprop":
            return rate / (np.sqrt(squares) + epsilon), g, (None, squares)
        mean = beta1 * first[row].astype(np.float64) + (1 - beta1) * g
        t = int(steps[row]) + 1
        scale = np.sqrt(squares / (1 - beta2**t)) + epsilon
        return rate / scale, mean / (1 - beta1**t), (mean, squares)


def _row(side: Side, row: int) -> F64:
    """Return ``[u, b]``."""
    return np.append(side.factors[row].astype(np.float64), side.biases[row])


def _write(side: Side, row: int, new: Learned | None, moments: Moments | None) -> bool:
    """Write what *new* says if float32 holds every number; return whether it does. None changes nothing and is well."""
    if new is None:
        return True
    with np.errstate(over="ignore"):
        narrow = [None if numbers is None else numbers.astype(np.float32) for numbers in new]
    if not all(np.isfinite(numbers).all() for numbers in narrow if numbers is not None):
        return False
    if narrow[0] is not None:
        side.factors[row], side.biases[row] = narrow[0][:-1], narrow[0][-1]
    if moments is not None and narrow[1] is not None:
        moments.first[row] = narrow[1]
    if moments is not None and narrow[2] is not None:
        moments.second[row] = narrow[2]
    if moments is not None and narrow[1] is not None and narrow[2] is not None:
        moments.steps[row] += 1
    return True


def _history(histories: Histories, j: int) -> tuple[I32, F32]:
    """Return the other rows and ratings of entry *j*."""
    entry = slice(histories.starts[j], histories.starts[j + 1])
    return histories.others[entry], histories.ratings[entry]


def _mean(means: F32, j: int, size: int) -> F64:
    """Return the prior mean of event *j*'s row."""
    return means[j].astype(np.float64) if len(means) else np.zeros(size)


def _learned(
    how: Steps,
    own: Side,
    row: int,
    w: F64,
    mean: F64,
    z: F64,
    slope: float,
    count: int,
    other: Side,
    history: tuple[I32, F32],
    intercept: float,
    *,
    of_users: bool,
) -> Learned | None:
    """Return what an event makes of *row* of *own*, now *w*, whose rating is by row *z* of *other*; None when nothing."""
    if len(history[0]):
        others, ratings = history
        left = ratings - (other.factors[others] @ mean[:-1] + mean[-1])
        problem = problem_of(other, others, left, intercept=intercept, objective=how.objective, of_users=of_users)
        return Learned(problem.minimiser(w - mean) + mean)
    if not np.isfinite(slope):
        return None
    return how.new_row(row, w, mean, slope * np.append(z[:-1], 1.0), count, of_users=of_users)


def _by_column(factor: float, bias: float, size: int) -> F64:
    """Return one number for each factor, another for the bias."""
    return np.append(np.full(size - 1, factor), bias)
