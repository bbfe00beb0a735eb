"""Cut points between ordered categories: where they begin, and how they follow the ratings.

The probability of a category at or below level j is σ(θ_j − s): see the ordinal loss in `kernels.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels import losses
from factorstream.worker.kernels.api import F64, Loss
from factorstream.worker.kernels.cuts import LEAST_GAP, follow

RENEWED_EVERY = 1_000
"""Ratings after which cut points that follow take effect: within a batch they are constant, so that rows alone order it."""
RATE = 0.002
"""η of the cut points: they remember some thousands of ratings."""
NEWTON_STEPS, HALVINGS = 10, 20
ENOUGH = 1e-9
"""A step that promises less than this share of the loss is not taken."""
RIDGE, TINY = 1e-9, 1e-12
"""What keeps a category without ratings from making the steps endless."""


def of_counts(counts: Sequence[int]) -> tuple[float, ...]:
    """Return the cut points at which a score of zero means the shares of *counts*, none of which is nothing."""
    shares = np.cumsum(_shares(counts))[:-1]
    return tuple(np.log(shares / (1 - shares)).tolist())


def curvature(counts: Sequence[int]) -> float:
    """Return the mean curvature of the loss at a score of zero."""
    shares = _shares(counts)
    up = np.cumsum(shares)
    down = up - shares
    return float(shares @ (up * (1 - up) + down * (1 - down)))


def followed(
    cuts: Sequence[float], ratings: NDArray[np.float32], scores: NDArray[np.float64], lowest: float, step: float
) -> tuple[float, ...]:
    """Return *cuts* after a gradient step for each rating, in order; what is not finite counts nothing."""
    moved = np.array(cuts, np.float64)
    follow(moved, ratings, scores, lowest, step, RATE)
    return tuple(moved.tolist())


class Slope(NamedTuple):
    """Of the summed loss by the cut points."""

    value: float
    gradient: F64
    hessian: F64
    """``(n, n)``, tridiagonal; never negative definite, for the loss is convex."""


def slope_of(cuts: F64, loss: Loss, ratings: F64, scores: F64) -> Slope:
    """Return the summed loss of *ratings*, with *cuts* in the place of the loss's own, and its derivatives."""
    n = len(cuts)
    loss = loss._replace(cuts=cuts)
    lower, upper = losses.bounds(loss, ratings)
    levels = np.searchsorted(np.append(cuts, np.inf), upper)  # of each rating
    a, b = _sigmoid(upper - scores), _sigmoid(lower - scores)
    width = -np.expm1(-(upper - lower))
    up, down = -(1 - a) / np.maximum((1 - b) * width, TINY), b / np.maximum(a * width, TINY)  # by the cut point above, and below
    sums = [
        np.bincount(levels, column, n + 1)
        for column in (up, down, up * up + up * (1 - 2 * a), down * down + down * (1 - 2 * b), up * down)
    ]
    off_diagonal = sums[4][1:n]
    hessian = np.diag(sums[2][:n] + sums[3][1:]) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
    value = float(losses.value(losses.ORDINAL, ratings, scores, lower, upper).sum())
    return Slope(value, np.asarray(sums[0][:n] + sums[1][1:], np.float64), hessian)


def refitted(cuts: Sequence[float], slope: Callable[[F64], Slope]) -> tuple[float, ...]:
    """Return *cuts* moved to where the loss is least, by Newton steps none of which raises it; *slope* sums over all ratings."""
    now = np.array(cuts, np.float64)
    here = slope(now)
    for _ in range(NEWTON_STEPS):
        step = -np.linalg.solve(here.hessian + np.diag(np.full(len(now), TINY + RIDGE * np.trace(here.hessian))), here.gradient)
        if -(here.gradient @ step) < ENOUGH * (1 + abs(here.value)):
            break
        for share in 0.5 ** np.arange(HALVINGS):
            there = now + share * step
            if (np.diff(there) > LEAST_GAP).all() and (found := slope(there)).value < here.value:
                now, here = there, found
                break
        else:
            break
    return tuple(now.tolist())


def _sigmoid(x: F64) -> F64:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def _shares(counts: Sequence[int]) -> NDArray[np.float64]:
    smoothed = np.array(counts, np.float64) + 1 / len(counts)
    shares: NDArray[np.float64] = smoothed / smoothed.sum()
    return shares
