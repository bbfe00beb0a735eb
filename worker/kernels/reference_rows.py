"""One row's problem in plain numpy and float64: what fold-in and `als` mean for every objective.

The row is one vector ``w = [u, b]``; the objective over it, with ``s = offset + A w`` and A's rows ``[v, 1]``:

    F(w) = Σ ℓ(x, s) + Σ ½ λ_k w_k² + Σ κ_k |w_k|,   w_k ≥ 0 where the row must not be negative, w_k = 0 where it is fixed
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels import losses
from factorstream.worker.kernels.api import F32, F64, I32, Loss, Objective, Side

SINGULAR = 1e-6
"""Directions of a row's problem that weigh less than this share of its heaviest hold nothing but the rounding of float32."""
NEWTON_STEPS, HALVINGS, PASSES = 100, 40, 10_000
"""At most; a row stops as soon as the next step would gain nothing."""
ENOUGH = 1e-12
"""A step that promises less than this share of the objective is not taken."""


@dataclass(frozen=True)
class RowProblem:
    """The objective over one row."""

    design: F64
    """A, ``(n, K + 1)``."""
    offsets: F64
    ratings: F64
    ridge: F64
    """λ of each number."""
    lasso: F64
    """κ of each number."""
    free: NDArray[np.bool_]
    """Which numbers are not fixed at zero."""
    nonnegative: bool
    """Whether factors must not be negative."""
    loss: Loss

    def at(self, w: F64) -> float:
        """Return F(w)."""
        value, _, _ = self._losses(w)
        return float(value.sum() + 0.5 * self.ridge @ w**2 + self.lasso @ np.abs(w))

    def minimiser(self, w: F64) -> F64:
        """Return the minimiser, from *w*, or from zero where that is better; NaN where the problem is not finite."""
        if not (np.isfinite(self.design).all() and np.isfinite(self.offsets).all()):
            return np.full(len(w), np.nan)
        if self.is_least_squares:
            return self._least_squares(self.design, self.ratings - self.offsets)
        w, zero = np.where(self.free, w, 0.0), np.zeros(len(w))
        w = w if self.at(w) < self.at(zero) else zero
        for _ in range(NEWTON_STEPS):
            new = self._after_step(w)
            if new is None:
                break
            w = new
        return w

    def gain(self, old: F64, new: F64) -> float:
        """Return ``F(old) − F(new)``."""
        if self.is_least_squares:  # the difference of two large numbers holds fewer digits
            change = np.where(self.free, old, 0.0) - new
            return float(0.5 * (np.sum((self.design @ change) ** 2) + self.ridge @ change**2))
        with np.errstate(all="ignore"):
            return max(0.0, self.at(old) - self.at(new))

    @property
    def is_least_squares(self) -> bool:
        """Whether one linear system gives the minimiser."""
        return self.loss.name == "squared" and not self.lasso.any() and not self.nonnegative

    def _after_step(self, w: F64) -> F64 | None:
        """Return w after one proximal Newton step that lowers F; None when there is nothing left to gain."""
        _, slope, curvature = self._losses(w)
        model = np.sqrt(curvature)[:, None] * self.design
        gradient = self.design.T @ slope + self.ridge * w
        target = self._least_of_model(model, gradient, w)
        promised = gradient @ (target - w) + self.lasso @ (np.abs(target) - np.abs(w))
        before = self.at(w)
        if not promised < -ENOUGH * (1 + abs(before)):
            return None
        for halving in range(HALVINGS):
            share = 0.5**halving
            new = w + share * (target - w)
            if self.at(new) <= before + 1e-4 * share * promised:
                return new
        return None

    def _least_of_model(self, model: F64, gradient: F64, w: F64) -> F64:
        """Return the z that minimises ``g·(z − w) + ½ |model (z − w)|² + ½ Σ λ (z − w)² + Σ κ |z|`` under the constraint."""
        if not self.lasso.any() and not self.nonnegative:
            roots = np.sqrt(self.ridge)
            hessian = model.T @ model + np.diag(roots**2)
            free = np.flatnonzero(self.free)
            z = w.copy()
            z[free] -= np.linalg.lstsq(hessian[np.ix_(free, free)], gradient[free], rcond=SINGULAR**2)[0]
            return z
        return self._coordinate_descent(model.T @ model + np.diag(self.ridge), gradient, w)

    def _coordinate_descent(self, hessian: F64, gradient: F64, w: F64) -> F64:
        """Minimise over one number after another until none moves: each in closed form, soft-thresholded and projected."""
        z, slope = w.copy(), gradient.copy()
        for _ in range(PASSES):
            moved = 0.0
            for k in np.flatnonzero(self.free & (np.diag(hessian) > 0)):
                best = soft(z[k] * hessian[k, k] - slope[k], self.lasso[k]) / hessian[k, k]
                if self.nonnegative and k < len(w) - 1:
                    best = max(best, 0.0)
                moved = max(moved, abs(best - z[k]) * np.sqrt(hessian[k, k]))
                slope += hessian[k] * (best - z[k])
                z[k] = best
            if moved <= 1e-10:
                break
        return z

    def _least_squares(self, design: F64, target: F64) -> F64:
        """Return the least-squares solution, ridge included, of minimum norm."""
        free = self.free
        rows = np.vstack([design[:, free], np.diag(np.sqrt(self.ridge[free]))])
        solution = np.zeros(design.shape[1])
        solution[free] = np.linalg.lstsq(rows, np.append(target, np.zeros(int(free.sum()))), rcond=SINGULAR)[0]
        return solution

    def _losses(self, w: F64) -> tuple[F64, F64, F64]:
        """Return ℓ, ∂ℓ/∂s and ∂²ℓ/∂s² of each rating."""
        with np.errstate(all="ignore"):
            return losses_of(self.loss, self.ratings, self.offsets + self.design @ w)


def losses_of(loss: Loss, ratings: F64, scores: F64) -> tuple[F64, F64, F64]:
    """Return ℓ, ∂ℓ/∂s and ∂²ℓ/∂s² of each rating."""
    kind = losses.KINDS[loss.name]
    bounds = losses.bounds(loss, ratings)
    functions = (losses.value, losses.slope, losses.curvature)
    value, slope, curvature = (function(kind, ratings, scores, *bounds) for function in functions)
    return cast(F64, value), cast(F64, slope), cast(F64, curvature)


def problem_of(other: Side, others: I32, ratings: F32, *, intercept: float, objective: Objective, of_users: bool) -> RowProblem:
    """Return the problem of a row that holds *ratings* of the rows *others*."""
    rank = other.factors.shape[1]
    ridge, lasso = objective.penalty.on(users=of_users)
    weight = len(ratings) if objective.penalty.weighted else 1.0
    return RowProblem(
        design=np.column_stack([other.factors[others].astype(np.float64), np.ones(len(others))]),
        offsets=intercept + other.biases[others].astype(np.float64),
        ratings=ratings.astype(np.float64),
        ridge=weight * np.append(np.full(rank, ridge), objective.penalty.bias),
        lasso=weight * np.append(np.full(rank, lasso), 0.0),
        free=np.append(np.full(rank, True), objective.biased),
        nonnegative=objective.nonnegative,
        loss=objective.loss,
    )


def soft(number: float, threshold: float) -> float:
    """Return *number* moved towards zero by *threshold*, not beyond it."""
    return float(np.sign(number) * max(abs(number) - threshold, 0.0))
