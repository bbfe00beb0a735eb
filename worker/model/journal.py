"""What happened, in the order it was learned: the model is a function of this and of nothing else."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Kind(IntEnum):
    """What an entry of the journal says; the first four are also the kinds of events."""

    RATE = 0
    UNRATE = 1
    FORGET_USER = 2
    REMOVE_ITEM = 3
    IDLE_BLOCK = 4
    """A block of the sweep that was solved because there was time, not because it was due."""


ENTRY = np.dtype([("kind", "u1"), ("user", "<i4"), ("item", "<i4"), ("rating", "<f4"), ("time", "<i8")])
"""One entry, 21 bytes; -1 and NaN where a field has no meaning. Rows, never ids: forgetting one leaves the journal as it is."""

Entries = NDArray[np.void]
"""``(n,)`` of `ENTRY`."""
