"""Test, then train: what a rule predicted of ratings before it learned them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, Scored

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
