"""The calibrator, over any learner: an online linear correction of the score by what is known beside factors and biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels import terms
from factorstream.worker.kernels.api import F32, F64, I32, Kernels
from factorstream.worker.kernels.memory import reserve
from factorstream.worker.kernels.terms import Memory
from factorstream.worker.learn.sgd import batch_of
from factorstream.worker.learn.tested import Tested
from factorstream.worker.model.model import USERS, Model
from factorstream.worker.model.ratings import Accepted

if TYPE_CHECKING:
    from factorstream.worker.learn.rule import Rule

NAME = "calibrator"
"""Of the part of a model that it is."""


class Calibrated:
    """A rule whose scores are calibrated (`learn.rule.Rule`): over any other."""

    def __init__(self, rule: Rule, kernels: Kernels) -> None:
        self.fold_in, self.rework = rule.fold_in, rule.rework
        self._rule = rule
        self._kernels = kernels

    def take_over(self, model: Model) -> None:
        """Nothing of the calibrator is in the rows."""
        self._rule.take_over(model)

    def until_due(self, model: Model) -> int | None:
        """A batch ends where the rule wants it to."""
        return self._rule.until_due(model)

    def step(self, model: Model, accepted: Accepted) -> Tested:
        """Learn; return the errors of the calibrated score."""
        tested = self._rule.step(model, accepted)
        if tested.scored is None:
            return tested
        part = part_of(model)
        part.grow(model.users.n, model.items.n)
        times, spread = accepted.timestamps_ms, model.level.spread
        errors = self._kernels.calibrate(part.memory, tested.scored, batch_of(accepted), times, spread=spread)
        return tested._replace(errors=errors)

    def solve(self, model: Model, side: int, rows: NDArray[np.int32], *, afresh: bool = False) -> F64:
        """Solve as the rule does."""
        return self._rule.solve(model, side, rows, afresh=afresh)

    def forget(self, model: Model, side: int, row: int, others: I32) -> None:
        """Forget as the rule does, and what was remembered of the row."""
        self._rule.forget(model, side, row, others)
        part_of(model).forget(side, row)

    def end_sweep(self, model: Model) -> None:
        """Do what the rule does."""
        self._rule.end_sweep(model)

    def readout(self, model: Model, side: int, rows: NDArray[np.int64]) -> tuple[F32, F32]:
        """Return what the rule does, with all that does not fade folded in."""
        return published(model, side, rows, *self._rule.readout(model, side, rows))


class Calibrator:
    """What the calibrator remembers (`model.Part`): bounded for each row, whatever came."""

    def __init__(self) -> None:
        """Have seen nothing: the score stays as it is."""
        self.n_users = self.n_items = 0
        self.memory = Memory(
            users=reserve((terms.USER_COLUMNS,), np.float32),
            user_ms=reserve((), np.int64),
            items=reserve((terms.ITEM_COLUMNS,), np.float32),
            item_ms=reserve((), np.int64),
            weights=terms.first_weights(),
            covariance=np.diag(terms.first_variances()),
            noise=np.array([terms.FIRST_NOISE]),
            newest_ms=np.zeros(1, np.int64),
        )

    def tables(self) -> Mapping[str, NDArray[Any]]:
        """Return all of it (`model.Part`)."""
        rows = {"users": self.n_users, "user_ms": self.n_users, "items": self.n_items, "item_ms": self.n_items}
        return {name: table[: rows[name]] if name in rows else table for name, table in self.memory._asdict().items()}

    def restore(self, tables: Mapping[str, NDArray[Any]]) -> None:
        """Become what `tables` returned (`model.Part`)."""
        self.grow(len(tables["users"]), len(tables["items"]))
        for name, live in self.tables().items():
            live[:] = tables[name]

    def grow(self, n_users: int, n_items: int) -> None:
        """Have at least that many rows."""
        self.n_users, self.n_items = max(self.n_users, n_users), max(self.n_items, n_items)

    def forget(self, side: int, row: int) -> None:
        """Know nothing of a row."""
        self.grow(row + 1 if side == USERS else 0, 0 if side == USERS else row + 1)
        sums, times = (self.memory.users, self.memory.user_ms) if side == USERS else (self.memory.items, self.memory.item_ms)
        sums[row], times[row] = 0, 0


def part_of(model: Model) -> Calibrator:
    """Return the model's calibrator."""
    return cast(Calibrator, model.parts[NAME])


def published(model: Model, side: int, rows: NDArray[np.int64], factors: F32, biases: F32) -> tuple[F32, F32]:
    """Return what readers get of *rows*, whose uncalibrated values are given: with all that does not fade folded in.

    Users' factors are scaled, both biases corrected. An item's bias has its last hours in it, as of the newest rating known. What
    a user's session adds is left out: it corrects the live score alone.
    """
    part, spread = part_of(model), model.level.spread
    weights = part.memory.weights
    if side == USERS:
        counts = _counts(model.ratings.user_counts, rows)
        return (factors * weights[terms.PRODUCT]).astype(np.float32), _user_biases(part, rows, counts, biases, spread)
    counts = _counts(model.ratings.item_counts, rows)
    return factors, _item_biases(part, rows, counts, biases, spread)


def published_variances(model: Model, side: int, rows: NDArray[np.int64], factors: F32, biases: F32) -> tuple[F32, F32]:
    """Return the variances of what `published` makes of *rows* from uncalibrated ones; what it adds counts as known exactly."""
    weights = part_of(model).memory.weights
    if side == USERS:
        counts = _counts(model.ratings.user_counts, rows)
        factors = (factors * weights[terms.PRODUCT] ** 2).astype(np.float32)
        return factors, (biases * _user_bias_scales(weights, counts) ** 2).astype(np.float32)
    counts = _counts(model.ratings.item_counts, rows)
    return factors, (biases * _item_bias_scales(weights, counts) ** 2).astype(np.float32)


def _user_bias_scales(weights: F64, counts: F64) -> F64:
    scales: F64 = weights[terms.USER_BIAS] + weights[terms.USER_BIAS_WHILE_SHORT] / (1 + counts / 5)
    return scales


def _item_bias_scales(weights: F64, counts: F64) -> F64:
    scales: F64 = weights[terms.ITEM_BIAS] + weights[terms.ITEM_BIAS_WHILE_SHORT] / (1 + counts / 5)
    return scales


def _counts(held: I32, rows: NDArray[np.int64]) -> F64:
    """Return how many ratings *rows* hold; a row that the store does not know holds none."""
    counts = np.zeros(len(rows))
    known = rows < len(held)
    counts[known] = held[rows[known]]
    return counts


def _user_biases(part: Calibrator, rows: NDArray[np.int64], counts: F64, biases: F32, spread: float) -> F32:
    weights, memory = part.memory.weights, part.memory
    level = weights[terms.LEVEL] + weights[terms.USER_COUNT] * np.log1p(counts) / 5 + weights[terms.USER_IS_NEW] / (1 + counts)
    power, n_residuals = memory.users[rows][:, [terms.U_POWER, terms.U_RESIDUALS]].astype(np.float64).T
    excess = (power - memory.noise[0] * n_residuals) / (n_residuals + terms.NOISE_PSEUDO_COUNT)
    level = level + weights[terms.USER_NOISE] * np.clip(excess, -terms.MOST, terms.MOST)
    return np.asarray(biases * _user_bias_scales(weights, counts) + spread * level, np.float32)


def _item_biases(part: Calibrator, rows: NDArray[np.int64], counts: F64, biases: F32, spread: float) -> F32:
    weights, memory = part.memory.weights, part.memory
    level = weights[terms.ITEM_COUNT] * np.log1p(counts) / 5 + weights[terms.ITEM_IS_NEW] / (1 + counts)
    passed_ms = np.maximum(memory.newest_ms[0] - memory.item_ms[rows], 0)
    for term, at, name, lasts_ms in (
        (terms.HOUR, terms.I_HOUR, "hour", terms.HOUR_MS),
        (terms.DAY, terms.I_DAY, "day", terms.DAY_MS),
        (terms.TWENTY, terms.I_TWENTY, "twenty", np.inf),
    ):
        sums = memory.items[rows, at : at + 2].astype(np.float64) * np.exp(-passed_ms / lasts_ms)[:, None]
        mean = (sums[:, 0] - biases * sums[:, 1]) / (sums[:, 1] + terms.PSEUDO_COUNTS[name]) / spread
        level = level + weights[term] * np.clip(mean, -terms.MOST, terms.MOST)
    return np.asarray(biases * _item_bias_scales(weights, counts) + spread * level, np.float32)
