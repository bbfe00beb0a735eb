"""Stochastic gradient descent with fold-in, and exact solves of the same objective."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, F64, Batch, Kernels
from factorstream.worker.learn.optimizers import optimizer_of
from factorstream.worker.learn.settings import Learning
from factorstream.worker.learn.tested import Tested, tested
from factorstream.worker.model.model import USERS, Model
from factorstream.worker.model.ratings import Accepted


class Sgd:
    """O(K) a rating (`learn.rule.Rule`)."""

    rework = 0

    def __init__(self, kernels: Kernels, learning: Learning) -> None:
        self.fold_in = learning.fold_in, learning.fold_in
        self._kernels = kernels
        self._learning = learning

    def take_over(self, model: Model) -> None:
        """Nothing is remembered."""

    def until_due(self, model: Model) -> int | None:
        """A batch may end anywhere."""
        return None

    def step(self, model: Model, accepted: Accepted) -> Tested:
        """Fold short rows in, step the others; let cut points follow."""
        learning, level = self._learning, model.level
        self._grow(model, int(accepted.user_rows.max()) + 1, int(accepted.item_rows.max()) + 1)
        scored = self._kernels.sgd(
            model.users.side,
            model.items.side,
            batch_of(accepted),
            intercept=level.intercept,
            objective=learning.objective(level),
            rates=learning.rates(level),
            optimizer=optimizer_of(learning, model),
        )
        if level.loss_name == "squared":
            return Tested(accepted.ratings, scored.errors, scored)
        scores = np.asarray(level.intercept + np.sum(scored[1:], axis=0, dtype=np.float64))
        scores[~np.isfinite(scored.errors)] = np.nan
        level.follow(accepted.ratings, scores)
        return tested(level, accepted.ratings, scores)

    def solve(self, model: Model, side: int, rows: NDArray[np.int32], *, afresh: bool = False) -> F64:
        """Set *rows* to the objective's minimiser over each (ALS)."""
        on_users, n = side == USERS, int(rows.max(initial=-1)) + 1
        self._grow(model, n if on_users else 0, 0 if on_users else n)
        own, other = (model.users, model.items) if on_users else (model.items, model.users)
        return self._kernels.als(
            own.side,
            other.side,
            rows,
            model.ratings.histories_of_users(rows) if on_users else model.ratings.histories_of_items(rows),
            intercept=model.level.intercept,
            objective=self._learning.objective(model.level),
            of_users=on_users,
            solver="exact" if afresh else self._learning.solver,
        )

    def forget(self, model: Model, side: int, row: int, others: NDArray[np.int32]) -> None:
        """Nothing else is remembered of rows."""

    def end_sweep(self, model: Model) -> None:
        """Nothing is estimated."""

    def readout(self, model: Model, side: int, rows: NDArray[np.int64]) -> tuple[F32, F32]:
        """Return the rows as they are."""
        own = model.users if side == USERS else model.items
        return own.factors[rows], own.biases[rows]

    def _grow(self, model: Model, n_users: int, n_items: int) -> None:
        deviation, nonnegative = self._learning.deviation(model.level, model.rank), self._learning.nonnegative
        model.users.grow(n_users, self._kernels, deviation, nonnegative=nonnegative)
        model.items.grow(n_items, self._kernels, deviation, nonnegative=nonnegative)


def batch_of(accepted: Accepted) -> Batch:
    """Return *accepted* as kernels take it."""
    return Batch(
        accepted.user_rows,
        accepted.item_rows,
        accepted.ratings,
        accepted.user_counts,
        accepted.item_counts,
        accepted.user_histories,
        accepted.item_histories,
    )
