"""Stochastic gradient descent with fold-in, and exact solves of the same objective."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, F64, NO_MEANS, Batch, Histories, Kernels, Objective, Scored
from factorstream.worker.learn import optimizers
from factorstream.worker.learn.optimizers import optimizer_of
from factorstream.worker.learn.priors import priors_of, pull_of
from factorstream.worker.learn.settings import Learning
from factorstream.worker.learn.tested import Tested, tested
from factorstream.worker.model.model import ITEMS, USERS, Model
from factorstream.worker.model.ratings import Accepted, rows_in_blocks

MOST_TOLD = 2_000_000
"""Ratings that are read at once where rows are told anew what those say that they met."""


class Sgd:
    """O(K) a rating (`learn.rule.Rule`)."""

    rework = 0

    def __init__(self, kernels: Kernels, learning: Learning) -> None:
        self.fold_in = learning.fold_in, learning.fold_in
        self._kernels = kernels
        self._learning = learning

    def take_over(self, model: Model) -> None:
        """Remember what rows are told by those that they met, as far as these say anything."""
        priors = priors_of(model)
        if priors is None or not priors.say_anything:
            return
        ratings = model.ratings
        priors.grow(model.users.n, model.items.n)
        both = priors.on(self._kernels)
        for side, counts in ((USERS, ratings.user_counts), (ITEMS, ratings.item_counts)):
            for part in rows_in_blocks(counts, MOST_TOLD):
                histories = ratings.histories_of_users(part) if side == USERS else ratings.histories_of_items(part)
                self._kernels.recall(both[side], both[1 - side], part, self._kernels.keep(histories))

    def until_due(self, model: Model) -> int | None:
        """A batch ends where λ are estimated anew."""
        priors = priors_of(model)
        return None if priors is None else priors.until_due()

    def step(self, model: Model, accepted: Accepted) -> Tested:
        """Fold short rows in, step the others; let cut points follow."""
        learning, level, priors = self._learning, model.level, priors_of(model)
        self._grow(model, int(accepted.user_rows.max()) + 1, int(accepted.item_rows.max()) + 1)
        batch = batch_of(accepted)
        if priors is not None:
            priors.grow(model.users.n, model.items.n)
            user_means, item_means = self._kernels.meet(*priors.on(self._kernels), batch, accepted.changes)
            batch = batch._replace(user_means=user_means, item_means=item_means)
        scored = self._kernels.sgd(
            model.users.on(self._kernels),
            model.items.on(self._kernels),
            batch,
            intercept=level.intercept,
            objective=self._objective(model),
            rates=learning.rates(level),
            optimizer=optimizer_of(learning, model, self._kernels),
        )
        if level.loss_name == "squared":
            if not learning.nonnegative:  # whose factors begin near their mean, and without biases say all that is known
                scored = first_met(scored, accepted)
            if priors is not None:
                priors.observe(scored, level.spread)
            return Tested(accepted.ratings, scored.errors, scored)
        scores = np.asarray(level.intercept + np.sum(scored[1:], axis=0, dtype=np.float64))
        scores[~np.isfinite(scored.errors)] = np.nan
        level.follow(accepted.ratings, scores)
        return tested(level, accepted.ratings, scores)

    def solve(self, model: Model, side: int, rows: NDArray[np.int32], *, afresh: bool = False) -> F64:
        """Set *rows* to the objective's minimiser over each (ALS); find out what meeting them says of those they met."""
        on_users, n, ratings = side == USERS, int(rows.max(initial=-1)) + 1, model.ratings
        self._grow(model, n if on_users else 0, 0 if on_users else n)
        histories = self._kernels.keep(ratings.histories_of_users(rows) if on_users else ratings.histories_of_items(rows))
        priors = priors_of(model)
        if priors is None:
            return self._solve(model, side, rows, histories, NO_MEANS, afresh)
        priors.grow(model.users.n, model.items.n)
        both = priors.on(self._kernels)
        effects = both[side], both[1 - side]
        means = self._kernels.recall(*effects, rows, histories)
        gains = self._solve(model, side, rows, histories, means, afresh)
        other, counts = (model.items, ratings.item_counts) if on_users else (model.users, ratings.user_counts)
        pull = pull_of(self._objective(model).penalty, model.level.spread, users=not on_users)
        self._kernels.attribute(*effects, other.side, rows, histories, counts, pull)
        return gains

    def _solve(self, model: Model, side: int, rows: NDArray[np.int32], histories: Histories, means: F32, afresh: bool) -> F64:
        own, other = (model.users, model.items) if side == USERS else (model.items, model.users)
        return self._kernels.als(
            own.on(self._kernels),
            other.on(self._kernels),
            rows,
            histories,
            intercept=model.level.intercept,
            objective=self._objective(model),
            of_users=side == USERS,
            means=means,
            solver="exact" if afresh else self._learning.solver,
        )

    def _objective(self, model: Model) -> Objective:
        """Return what is minimised, with λ as far as they were learned."""
        priors = priors_of(model)
        return self._learning.objective(model.level, (1.0, 1.0) if priors is None else priors.multipliers)

    def forget(self, model: Model, side: int, row: int, others: NDArray[np.int32]) -> None:
        """Let the rows that it met not have met it, and its optimizer not have moved it."""
        optimizers.forget(self._learning, model, side, row)
        priors = priors_of(model)
        if priors is not None:
            priors.grow(*((row + 1, 0) if side == USERS else (0, row + 1)))
            priors.forget(side, row, others)

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


def first_met(scored: Scored, accepted: Accepted) -> Scored:
    """Take products out of *scored* where a row held nothing: it is predicted by its prior, not by its first factors."""
    new = np.flatnonzero((accepted.changes == 1) & ((accepted.user_counts == 1) | (accepted.item_counts == 1)))
    scored.errors[new] += scored.products[new]
    scored.products[new] = 0
    return scored


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
