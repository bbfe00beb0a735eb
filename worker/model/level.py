"""The level and the spread of the ratings: what the score starts from, and the unit of everything that is scaled."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, repeat, takewhile

import numpy as np
from numpy.typing import NDArray

from factorstream.prediction import Link, link
from factorstream.rating import STEP_TOLERANCE
from factorstream.worker.kernels.api import Loss, LossName
from factorstream.worker.model import cuts

SETTLED_AFTER = 10_000
"""Accepted ratings after which level and spread stay as they are; biases carry the rest."""
_GROWN = accumulate(repeat(1), lambda due, _: due + max(1, due // 10))
DUE = (*takewhile(lambda due: due < SETTLED_AFTER, _GROWN), SETTLED_AFTER)
"""The numbers of ratings at which there is an estimate: each a tenth more than the one before."""
LINKS: dict[LossName, Link] = {"squared": "identity", "logistic": "sigmoid", "poisson": "exp", "ordinal": "ordinal"}


@dataclass(slots=True)
class Level:
    """Mean and standard deviation of the first ratings, estimated again when their number has grown by a tenth.

    Both in the unit of the score: the mean through the inverse of the loss's link, the deviation divided by its curvature there
    (squared: as they are). Ordinal: the mean is zero, and the cut points between the categories are estimated instead; after the
    first ratings these follow each rating, and take effect at fixed numbers.

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
    loss_name: LossName = "squared"
    centred: bool = True
    """Whether the score starts from the mean; else from zero."""
    curvature: float = 1.0
    """The loss's at the mean: what a rating weighs, where it is 1 for squared loss."""
    step: float = 1.0
    """Ordinal: the distance of categories, the first of which is at ``lowest``."""
    counts: tuple[int, ...] = ()
    """Ordinal: the first ratings in each category."""
    cuts: tuple[float, ...] = ()
    """Ordinal: the cut points in effect …"""
    next_cuts: tuple[float, ...] = ()
    """… and where they have moved meanwhile."""

    @classmethod
    def of_range(
        cls,
        lowest: float | None,
        highest: float | None,
        *,
        loss_name: LossName = "squared",
        centred: bool = True,
        step: float = 1.0,
    ) -> Level:
        """Return the level before any rating: the middle of the range, where it is known. Ordinal needs the range."""
        level = cls(lowest=lowest, highest=highest, loss_name=loss_name, centred=centred, step=step)
        if loss_name == "ordinal" and lowest is not None and highest is not None:
            level.counts = (0,) * (round((highest - lowest) / step) + 1)
            level.estimate()
        elif loss_name == "squared" and centred and lowest is not None and highest is not None:
            level.intercept = (lowest + highest) / 2
        return level

    @property
    def loss(self) -> Loss:
        """ℓ as of now."""
        return Loss(self.loss_name, self.lowest or 0.0, self.step, np.array(self.cuts, np.float64))

    @property
    def link(self) -> Link:
        """How a score becomes a prediction."""
        return LINKS[self.loss_name]

    @property
    def categories(self) -> tuple[float, ...]:
        """Ordinal: the ratings there are."""
        return tuple((self.lowest or 0.0) + self.step * j for j in range(len(self.counts)))

    def predictions(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the ratings to expect at *scores*."""
        return link(self.link, scores, self.categories, self.cuts)

    def learnable(self, ratings: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which of *ratings* the loss can learn from; before the first, a range is the one configured."""
        if self.loss_name in ("logistic", "ordinal") and self.lowest is not None and self.highest is not None:
            steps = (ratings.astype(np.float64) - self.lowest) / self.step
            whole = np.abs(steps - np.rint(steps)) <= STEP_TOLERANCE
            return whole & (ratings >= self.lowest) & (ratings <= self.highest)
        anything = self.loss_name == "squared" and self.centred
        return np.full(len(ratings), True) if anything else ratings >= 0

    @property
    def settled(self) -> bool:
        """Whether the estimates are final."""
        return self.n >= SETTLED_AFTER

    def until_next(self) -> int:
        """Ratings to add before the next estimate; 0 when there will be none."""
        if self.settled:
            return cuts.RENEWED_EVERY - self.n % cuts.RENEWED_EVERY if self.cuts else 0
        return DUE[bisect_right(DUE, self.n)] - self.n

    def clip(self, ratings: NDArray[np.float32], errors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return *errors* with each prediction clipped to the range known before its rating; take *ratings* into the range.

        NaN ratings (unrates) have NaN errors and leave the range as it is.
        """
        known = self._range_around(ratings)
        if known:
            return np.asarray(ratings - np.fmin(np.fmax(ratings - errors, known[0]), known[1]), np.float32)
        lowest = np.fmin.accumulate(np.append(_or_nan(self.lowest), ratings))
        highest = np.fmax.accumulate(np.append(_or_nan(self.highest), ratings))
        self.lowest, self.highest = _or_none(lowest[-1]), _or_none(highest[-1])
        # fmin and fmax, not clip: a bound that is NaN is no bound
        predictions = np.fmin(np.fmax(ratings - errors, lowest[:-1]), highest[:-1])
        return np.asarray(ratings - predictions, np.float32)

    def _range_around(self, ratings: NDArray[np.float32]) -> tuple[np.float32, np.float32] | None:
        """Return the range known, if *ratings* are numbers that leave it as it is."""
        if self.lowest is None or self.highest is None or not len(ratings):
            return None
        known = np.float32(self.lowest), np.float32(self.highest)
        return known if ratings.min() >= known[0] and ratings.max() <= known[1] else None

    def add(self, ratings: NDArray[np.float32]) -> None:
        """Count *ratings* but NaN, at most `until_next` of them; estimate anew when that many were added."""
        due = self.until_next()
        if not due:
            return
        ratings = ratings[~np.isnan(ratings)]
        if not self.settled:
            self._count(ratings)
        self.n += len(ratings)
        if len(ratings) == due and self.n <= SETTLED_AFTER:
            self.estimate()
        elif len(ratings) == due:
            self.cuts = self.next_cuts

    def follow(self, ratings: NDArray[np.float32], scores: NDArray[np.float64]) -> None:
        """Let the cut points, once settled, follow *ratings*, whose scores were taken before they were learned."""
        if self.settled and self.cuts:
            self.next_cuts = cuts.followed(self.next_cuts, ratings, scores, self.lowest or 0.0, self.step)

    def _count(self, ratings: NDArray[np.float32]) -> None:
        # cumsum: strictly one after another, so that the bits do not depend on the cuts
        self.total = float(np.cumsum(np.concatenate(([self.total], ratings.astype(np.float64))))[-1])
        self.squares = float(np.cumsum(np.concatenate(([self.squares], ratings.astype(np.float64) ** 2)))[-1])
        self.counts = tuple((self.counted(ratings) + self.counts).tolist())

    def counted(self, ratings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return how many of *ratings* are in each category; empty where there are no categories."""
        if not self.counts:
            return np.empty(0, np.int64)
        rows = np.rint((ratings.astype(np.float64) - (self.lowest or 0.0)) / self.step).astype(np.int64)
        return np.bincount(rows, minlength=len(self.counts)).astype(np.int64)

    def estimate(self, variance: float | None = None) -> None:
        """Set intercept, spread and curvature, or the cut points, from the sums; their *variance*, where it is known better."""
        if self.counts:
            self.cuts = self.next_cuts = cuts.of_counts(self.counts)
            self.curvature = cuts.curvature(self.counts)
            self.spread = self.curvature**-0.5
            return
        mean = self.total / self.n
        if variance is None:
            variance = self.squares / self.n - mean**2
            variance = variance if variance > (1e-6 * mean) ** 2 else 0.0  # else it is the rounding of a difference
        if self.loss_name == "logistic":
            share = (self.total + 0.5) / (self.n + 1)
            self.intercept, self.curvature = math.log(share / (1 - share)), share * (1 - share)
            self.spread = self.curvature**-0.5
        elif self.loss_name == "poisson":
            rate = (self.total + 0.5) / (self.n + 0.5)
            self.intercept, self.curvature = math.log(rate), rate
            self.spread = max(variance, rate) ** 0.5 / rate
        else:
            self.intercept = mean if self.centred else 0.0
            self.spread = variance**0.5 or abs(mean) or 1.0


def _or_nan(bound: float | None) -> np.float32:
    return np.float32(np.nan if bound is None else bound)


def _or_none(bound: np.float32) -> float | None:
    return None if np.isnan(bound) else float(bound)
