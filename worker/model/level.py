"""The level and the spread of the ratings: what the score starts from, and the unit of everything that is scaled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SETTLED_AFTER = 10_000
"""Accepted ratings after which level and spread stay as they are; biases carry the rest."""


@dataclass(slots=True)
class Level:
    """Mean and standard deviation of the first ratings, estimated again when their number has grown by a tenth.

    Estimates change only at fixed numbers of ratings, so that they do not depend on how the stream is cut.
    """

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    intercept: float = 0.0
    spread: float = 1.0
    lowest: float | None = None
    highest: float | None = None
    """Smallest and largest rating accepted so far, or the configured range; None when nothing is known."""
    centred: bool = True
    """Whether the intercept is the ratings' mean; else it stays 0."""

    @classmethod
    def of_range(cls, lowest: float | None, highest: float | None) -> Level:
        """Return the level before any rating: the middle of the range, where it is known."""
        middle = 0.0 if lowest is None or highest is None else (lowest + highest) / 2
        return cls(intercept=middle, lowest=lowest, highest=highest)

    @property
    def settled(self) -> bool:
        """Whether the estimates are final."""
        return self.n >= SETTLED_AFTER

    def until_next(self) -> int:
        """Ratings to add before the next estimate; 0 when settled."""
        if self.settled:
            return 0
        due = 1
        while due <= self.n:
            due += max(1, due // 10)
        return min(due, SETTLED_AFTER) - self.n

    def clip(self, ratings: NDArray[np.float32], errors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return *errors* with each prediction clipped to the range known before its rating; take *ratings* into the range.

        NaN ratings (unrates) have NaN errors and leave the range as it is.
        """
        lowest = np.fmin.accumulate(np.append(_or_nan(self.lowest), ratings))
        highest = np.fmax.accumulate(np.append(_or_nan(self.highest), ratings))
        self.lowest, self.highest = _or_none(lowest[-1]), _or_none(highest[-1])
        # fmin and fmax, not clip: a bound that is NaN is no bound
        predictions = np.fmin(np.fmax(ratings - errors, lowest[:-1]), highest[:-1])
        return np.asarray(ratings - predictions, np.float32)

    def add(self, ratings: NDArray[np.float32]) -> None:
        """Count *ratings* but NaN, at most `until_next` of them; estimate anew when that many were added."""
        due = self.until_next()
        if not due:
            return
        ratings = ratings[~np.isnan(ratings)]
        # cumsum: strictly one after another, so that the bits do not depend on the cuts
        self.total = float(np.cumsum(np.concatenate(([self.total], ratings.astype(np.float64))))[-1])
        self.squares = float(np.cumsum(np.concatenate(([self.squares], ratings.astype(np.float64) ** 2)))[-1])
        self.n += len(ratings)
        if len(ratings) == due:
            mean = self.total / self.n
            self.intercept = mean if self.centred else 0.0
            variance = self.squares / self.n - mean**2
            self.spread = variance**0.5 if variance > (1e-6 * mean) ** 2 else abs(mean) or 1.0


def _or_nan(bound: float | None) -> np.float32:
    return np.float32(np.nan if bound is None else bound)


def _or_none(bound: np.float32) -> float | None:
    return None if np.isnan(bound) else float(bound)
