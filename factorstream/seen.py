"""A user's seen items: little-endian u32 item slots, newest first; slot n is row ``n % 1024`` of block ``n // 1024``."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from factorstream.errors import UnreadableValue


def pack_seen(slots: NDArray[np.uint32], starts: NDArray[np.int64]) -> list[bytes]:
    """Pack several users' slots: those of user j are ``slots[starts[j]:starts[j + 1]]``."""
    packed = slots.astype("<u4").tobytes()
    cuts = (starts * 4).tolist()
    return [packed[start:stop] for start, stop in pairwise(cuts)]


def unpack_seen(value: bytes) -> NDArray[np.uint32]:
    """Return the slots of one user. Raises `UnreadableValue`."""
    if len(value) % 4:
        raise UnreadableValue(f"seen items of {len(value)} bytes: not a whole number of 4-byte slots")
    return np.frombuffer(value, "<u4")
