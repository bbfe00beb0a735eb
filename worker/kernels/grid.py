"""Ratings cut into blocks of a grid, those on one diagonal together: blocks of a diagonal share no row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, I32, I64, Histories
from factorstream.worker.kernels.compiled import compiled
from factorstream.worker.kernels.cpu import in_threads
from factorstream.worker.kernels.layout import strided
from factorstream.worker.kernels.simd import take_number

PIECE = 1 << 20
"""Ratings that a thread sorts at once, about: users are whole."""


class Grid(NamedTuple):
    """Ratings diagonal by diagonal, in each block by block, in each by user and then as the user's history has them."""

    user_rows: I32
    item_rows: I32
    ratings: F32
    user_counts: I32
    """Ratings that the user has; so of the item."""
    item_counts: I32
    starts: I64
    """``(n_bins² + 1,)``: where blocks begin. Block ``d n_bins + n`` has bin n of users and bin n + d of items, modulo n_bins."""


def grid_of(
    histories: Histories, item_counts: I32, user_bins: NDArray[np.int16], item_bins: NDArray[np.int16], n_bins: int
) -> Grid:
    """Return the ratings of all users as a `Grid`; *user_bins* and *item_bins* say for each row in which of *n_bins* bins it is.

    A counting sort in pieces, which threads share: where a piece's ratings go follows from all counts, so threads change nothing.
    """
    n, firsts = len(histories.ratings), _firsts(histories.starts)
    counts = np.zeros((len(firsts) - 1, n_bins**2), np.int64)
    ratings, taken = (histories, user_bins, item_bins, n_bins, firsts), np.zeros((2, 1), np.int64)
    in_threads(lambda: _count(*ratings, taken[0], counts), n)
    ends = np.cumsum(counts.T).reshape(counts.T.shape)
    next_ = np.ascontiguousarray((ends - counts.T).T)
    starts = np.concatenate([[0], ends[:, -1]]) if n else np.zeros(n_bins**2 + 1, np.int64)
    users, items, counts_of_users, counts_of_items = (np.empty(n, np.int32) for _ in range(4))
    grid = Grid(users, items, np.empty(n, np.float32), counts_of_users, counts_of_items, starts)
    held = strided(item_counts)
    in_threads(lambda: _place(*ratings, held, taken[1], next_, grid), n)
    return grid


def _firsts(starts: I64) -> I64:
    """Return the first user of each piece, and the number of users."""
    firsts = np.searchsorted(starts, np.arange(0, starts[-1], PIECE))
    return np.unique(np.append(firsts, len(starts) - 1))


@compiled
def _count(
    histories: Histories,
    user_bins: NDArray[np.int16],
    item_bins: NDArray[np.int16],
    n_bins: int,
    firsts: I64,
    taken: I64,
    counts: I64,
) -> None:
    """Count in *counts*, ``(pieces, blocks)``, how many ratings of each piece each block has; pieces are the next not *taken*."""
    piece = take_number(taken)
    while piece < len(counts):
        for user in range(firsts[piece], firsts[piece + 1]):
            for j in range(histories.starts[user], histories.starts[user + 1]):
                counts[piece, _block(user_bins[user], item_bins[histories.others[j]], n_bins)] += 1
        piece = take_number(taken)


@compiled
def _place(
    histories: Histories,
    user_bins: NDArray[np.int16],
    item_bins: NDArray[np.int16],
    n_bins: int,
    firsts: I64,
    item_counts: I32,
    taken: I64,
    next_: I64,
    grid: Grid,
) -> None:
    """Write each rating to where its block goes on for its piece, which *next_* says and is moved to say."""
    piece = take_number(taken)
    while piece < len(next_):
        for user in range(firsts[piece], firsts[piece + 1]):
            begin, end = histories.starts[user], histories.starts[user + 1]
            for j in range(begin, end):
                item = histories.others[j]
                block = _block(user_bins[user], item_bins[item], n_bins)
                at = next_[piece, block]
                grid.user_rows[at], grid.item_rows[at], grid.ratings[at] = user, item, histories.ratings[j]
                grid.user_counts[at], grid.item_counts[at] = end - begin, item_counts[item]
                next_[piece, block] = at + 1
        piece = take_number(taken)


@compiled
def _block(user_bin: int, item_bin: int, n_bins: int) -> int:
    """Return the block of two bins."""
    diagonal = item_bin - user_bin
    return (diagonal + n_bins if diagonal < 0 else diagonal) * n_bins + user_bin
