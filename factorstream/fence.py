"""The fence of a bucket: who may write there, and how often they have. Text, so that ``redis-cli GET`` shows it: ``7 1234``."""

from __future__ import annotations

import re
from typing import NamedTuple

from factorstream.errors import UnreadableValue

_FENCE = re.compile(rb"(0|[1-9][0-9]{0,9}) (0|[1-9][0-9]{0,19})")


class Fence(NamedTuple):
    """Epoch of the one worker that may write, and the number of its last publication in this bucket."""

    epoch: int
    """u32; a worker with a smaller epoch stops."""
    sequence: int
    """u64."""


def pack_fence(fence: Fence) -> bytes:
    """Return epoch and sequence as decimal text with one blank between."""
    return b"%d %d" % fence


def unpack_fence(value: bytes) -> Fence:
    """Read a fence. Raises `UnreadableValue`."""
    match = _FENCE.fullmatch(value)
    if match is None:
        raise UnreadableValue(
            f"fence {value[:64]!r} is not 'EPOCH SEQUENCE': another program wrote this key; delete it, or rename the model"
        )
    return Fence(int(match[1]), int(match[2]))
