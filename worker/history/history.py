"""A history of ratings: columns, one entry a rating, in order of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

I32 = NDArray[np.int32]

AT_ONCE = 1 << 22
"""Codes that are looked through at once, so that what that takes is nothing beside the columns."""


@dataclass(frozen=True, slots=True)
class History:
    """Ratings by time, ties in the order of their source; ids as codes, in order of first appearance."""

    user_codes: I32
    """``(n,)``: the user of rating j is ``user_names[user_codes[j]]``."""
    item_codes: I32
    ratings: NDArray[np.float32]
    timestamps_ms: NDArray[np.int64]
    user_names: list[str]
    item_names: list[str]

    def __len__(self) -> int:
        return len(self.ratings)


def in_order(
    users: tuple[I32, Sequence[str]],
    items: tuple[I32, Sequence[str]],
    ratings: NDArray[np.float32],
    timestamps_ms: NDArray[np.int64],
    limit: int | None,
) -> History:
    """Return the earliest *limit* ratings, all for None, of columns in any order.

    Args:
        users: A code for each rating, and the id of each code.
        items: The same.
    """
    ascending = bool((timestamps_ms[1:] >= timestamps_ms[:-1]).all())
    order: slice | NDArray[np.int64]
    order = slice(limit) if ascending else np.argsort(timestamps_ms, kind="stable")[:limit]  # stable: ties stay as they are
    user_codes, user_names = _by_appearance(users[0][order], users[1])
    item_codes, item_names = _by_appearance(items[0][order], items[1])
    return History(user_codes, item_codes, ratings[order], timestamps_ms[order], user_names, item_names)


def _by_appearance(codes: I32, names: Sequence[str]) -> tuple[I32, list[str]]:
    """Return *codes* and *names* numbered anew by first appearance, names that do not appear left out."""
    n = len(codes)
    first = np.full(len(names), n, np.int64)
    for stop in range(n, 0, -AT_ONCE):
        start = max(0, stop - AT_ONCE)
        first[codes[start:stop][::-1]] = np.arange(stop - 1, start - 1, -1)  # of several entries the last stays: the earliest
    order = np.argsort(first, kind="stable")
    order = order[first[order] < n]
    renumbered = np.empty(len(names), np.int32)
    renumbered[order] = np.arange(len(order), dtype=np.int32)
    return renumbered[codes], [names[code] for code in order.tolist()]
