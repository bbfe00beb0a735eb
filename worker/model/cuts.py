"""Cut points between ordered categories: where they begin, and how they follow the ratings.

The probability of a category at or below level j is σ(θ_j − s): see the ordinal loss in `kernels.losses`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.cuts import follow

RENEWED_EVERY = 1_000
"""Ratings after which cut points that follow take effect: within a batch they are constant, so that rows alone order it."""
RATE = 0.002
"""η of the cut points: they remember some thousands of ratings."""


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


def _shares(counts: Sequence[int]) -> NDArray[np.float64]:
    smoothed = np.array(counts, np.float64) + 1 / len(counts)
    shares: NDArray[np.float64] = smoothed / smoothed.sum()
    return shares
