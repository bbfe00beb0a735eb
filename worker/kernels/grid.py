"""Ratings cut into blocks of a grid, those on one diagonal together: blocks of a diagonal share no row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, I32, I64
from factorstream.worker.kernels.compiled import compiled
from factorstream.worker.kernels.cpu import in_threads
from factorstream.worker.kernels.simd import take_number

PIECE = 1 << 20
"""Ratings that a thread sorts at once."""


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
    """Return ratings as a `Grid`; *user_bins* and *item_bins* say for each row in which of *n_bins* bins it is.

    A counting sort in pieces, which threads share: where a piece's ratings go follows from all counts, so threads change nothing.
    """
    n, columns = len(user_rows), (np.empty_like(user_rows), np.empty_like(item_rows), np.empty_like(ratings))
    counts = np.zeros((-(-n // PIECE), n_bins**2), np.int64)
    bins, taken = (user_rows, item_rows, user_bins, item_bins, n_bins), np.zeros((2, 1), np.int64)
    in_threads(lambda: _count(*bins, taken[0], counts), n)
    ends = np.cumsum(counts.T).reshape(counts.T.shape)
    next_ = np.ascontiguousarray((ends - counts.T).T)
    in_threads(lambda: _place(*bins, ratings, taken[1], next_, *columns), n)
    return Grid(*columns, np.concatenate([[0], ends[:, -1]]) if n else np.zeros(n_bins**2 + 1, np.int64))


@compiled
def _count(
    user_rows: I32,
    item_rows: I32,
    user_bins: NDArray[np.int16],
    item_bins: NDArray[np.int16],
    n_bins: int,
    taken: I64,
    counts: I64,
) -> None:
    """Count in *counts*, ``(pieces, blocks)``, how many ratings of each piece each block has; pieces are the next not *taken*."""
    piece = take_number(taken)
    while piece < len(counts):
        for j in range(piece * PIECE, min((piece + 1) * PIECE, len(user_rows))):
            counts[piece, _block(user_bins[user_rows[j]], item_bins[item_rows[j]], n_bins)] += 1
        piece = take_number(taken)


@compiled
def _place(
    user_rows: I32,
    item_rows: I32,
    user_bins: NDArray[np.int16],
    item_bins: NDArray[np.int16],
    n_bins: int,
    ratings: F32,
    taken: I64,
    next_: I64,
    to_users: I32,
    to_items: I32,
    to_ratings: F32,
) -> None:
    """Write each rating to where its block goes on for its piece, which *next_* says and is moved to say."""
    piece = take_number(taken)
    while piece < len(next_):
        for j in range(piece * PIECE, min((piece + 1) * PIECE, len(user_rows))):
            block = _block(user_bins[user_rows[j]], item_bins[item_rows[j]], n_bins)
            at = next_[piece, block]
            to_users[at], to_items[at], to_ratings[at] = user_rows[j], item_rows[j], ratings[j]
            next_[piece, block] = at + 1
        piece = take_number(taken)


@compiled
def _block(user_bin: int, item_bin: int, n_bins: int) -> int:
    """Return the block of two bins."""
    diagonal = item_bin - user_bin
    return (diagonal + n_bins if diagonal < 0 else diagonal) * n_bins + user_bin
