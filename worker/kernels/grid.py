"""Ratings cut into blocks of a grid, those on one diagonal together: blocks of a diagonal share no row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, I32, I64
from factorstream.worker.kernels.compiled import compiled


class Grid(NamedTuple):
    """Ratings diagonal by diagonal, in each block by block, in each in the order they came."""

    user_rows: I32
    item_rows: I32
    ratings: F32
    starts: I64
    """``(n_bins² + 1,)``: where blocks begin. Block ``d n_bins + n`` has bin n of users and bin n + d of items, modulo n_bins."""


def grid_of(
    user_rows: I32, item_rows: I32, ratings: F32, user_bins: NDArray[np.int16], item_bins: NDArray[np.int16], n_bins: int
) -> Grid:
    """Return ratings as a `Grid`; *user_bins* and *item_bins* say for each row in which of *n_bins* bins it is."""
    columns = np.empty_like(user_rows), np.empty_like(item_rows), np.empty_like(ratings)
    starts = np.zeros(n_bins**2 + 1, np.int64)
    _count(user_rows, item_rows, user_bins, item_bins, n_bins, starts[1:])
    np.cumsum(starts, out=starts)
    _place(user_rows, item_rows, ratings, user_bins, item_bins, n_bins, starts[:-1].copy(), *columns)
    return Grid(*columns, starts)


@compiled
def _count(
    user_rows: I32, item_rows: I32, user_bins: NDArray[np.int16], item_bins: NDArray[np.int16], n_bins: int, counts: I64
) -> None:
    """Add to *counts* how many ratings each block has."""
    for j in range(len(user_rows)):
        counts[_block(user_bins[user_rows[j]], item_bins[item_rows[j]], n_bins)] += 1


@compiled
def _place(
    user_rows: I32,
    item_rows: I32,
    ratings: F32,
    user_bins: NDArray[np.int16],
    item_bins: NDArray[np.int16],
    n_bins: int,
    next_: I64,
    to_users: I32,
    to_items: I32,
    to_ratings: F32,
) -> None:
    """Write each rating to where its block goes on, which *next_* says and is moved to say."""
    for j in range(len(user_rows)):
        block = _block(user_bins[user_rows[j]], item_bins[item_rows[j]], n_bins)
        at = next_[block]
        to_users[at], to_items[at], to_ratings[at] = user_rows[j], item_rows[j], ratings[j]
        next_[block] = at + 1


@compiled
def _block(user_bin: int, item_bin: int, n_bins: int) -> int:
    """Return the block of two bins."""
    diagonal = item_bin - user_bin
    return (diagonal + n_bins if diagonal < 0 else diagonal) * n_bins + user_bin
