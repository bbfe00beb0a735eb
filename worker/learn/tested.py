"""Test, then train: what a rule predicted of ratings before it learned them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels import losses
from factorstream.worker.kernels.api import F32, Scored
from factorstream.worker.model.level import Level

NO_ROWS = np.empty(0, np.int32)


class Tested(NamedTuple):
    """One entry per accepted event, and what else changed."""

    targets: F32
    """What was to be predicted; NaN for an unrate."""
    errors: F32
    """``target − prediction``, taken before the event was learned; NaN for an unrate."""
    scored: Scored | None = None
    """What the errors come from, where scores have biases: for a calibrator."""
    hits: F32 | None = None
    """Whether the item was among the ten best of sampled ones, 1 or 0; NaN where that was not asked. None: it never is."""
    also_users: NDArray[np.int32] = NO_ROWS
    """Rows that were changed beside those of the events."""
    also_items: NDArray[np.int32] = NO_ROWS
    likelihoods: F32 | None = None
    """ℓ of the score; None: squared loss, ½ error²."""
    variances: F32 | None = None
    """What the square of each error was expected to be, where the learner knows how sure it is."""

    @property
    def losses(self) -> F32:
        """ℓ of each; NaN for an unrate."""
        if self.likelihoods is not None:
            return self.likelihoods
        with np.errstate(over="ignore"):
            return np.float32(0.5) * self.errors * self.errors


def tested(level: Level, targets: F32, scores: NDArray[np.float64]) -> Tested:
    """Return what *scores* say of *targets*."""
    exact = targets.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = (exact - level.predictions(scores)).astype(np.float32)
        return Tested(targets, errors, likelihoods=losses.values(level.loss, exact, scores).astype(np.float32))
