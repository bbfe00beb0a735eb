"""Least squares of rows with few ratings, one row after another: a group's tiles would be mostly empty for them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.compiled import Int, bare, inlined
from factorstream.worker.kernels.cpu_fold import ONE, fold_in, padded
from factorstream.worker.kernels.simd import add_scaled, ask_for, copy_padded, dot, take_number

MOST = 12
"""Ratings of such a row, and no more than it has factors."""

SHARE = 64
"""Rows that a thread takes at once."""

AHEAD = 8
"""Ratings between asking for a row and using it."""


def fitting(counts: NDArray[np.int64], rank: int) -> NDArray[np.int64]:
    """Return the entries whose number of ratings this is for."""
    return np.flatnonzero((counts > 0) & (counts <= min(MOST, rank)))


@bare
def solve_rows(
    own: Any,
    other: Any,
    rows: Any,
    histories: Any,
    means: Any,
    entries: Any,
    counter: Any,
    numbers: Any,
    room: Any,
    gains: Any,
    careful: Any,
) -> None:
    """Solve *entries*, each time the next that no thread has taken, as `cpu_als.solve_groups` does; *room* is a fold-in's."""
    while True:
        first = take_number(counter) * SHARE
        if first >= entries.shape[0]:
            return
        for j in range(first, min(first + SHARE, entries.shape[0])):
            entry = np.int64(entries[j])
            row = np.int64(rows[entry])
            careful[entry] = not solve_row(own, other, row, histories, means, entry, numbers, room, gains)


@inlined
def solve_row(
    own: Any, other: Any, row: Int, histories: Any, means: Any, entry: Int, numbers: Any, room: Any, gains: Any
) -> bool:
    """Solve one row and say what that gained; return whether float32 was good enough."""
    intercept, penalty, bias_penalty, weighted = numbers
    rank, new = own.factors.shape[0] // own.biases.shape[0], room.new_user
    begin, end = histories.starts[entry], histories.starts[entry + 1]
    for h in range(begin + AHEAD, min(end + AHEAD, histories.others.shape[0])):
        ask_for(other.factors, np.int64(histories.others[h]) * rank, rank)
    weight = np.float32(end - begin) if weighted else ONE
    penalty, bias_penalty = weight * penalty, weight * bias_penalty
    others, ratings = histories.others, histories.ratings
    if not fold_in(
        other.factors,
        other.biases,
        rank,
        others,
        ratings,
        begin,
        end,
        means,
        entry * (rank + 1),
        intercept,
        penalty,
        bias_penalty,
        room,
        new,
    ):
        return False
    gains[entry] = gain(own, row, rank, end - begin, penalty, bias_penalty, room)
    for k in range(rank):
        own.factors[row * rank + k] = new[k]
    own.biases[row] = new[padded(rank)]
    return True


@inlined
def gain(own: Any, row: Int, rank: int, n: Int, penalty: Any, bias_penalty: Any, room: Any) -> float:
    """Return ``½ Δᵀ A Δ`` of a row about to become ``new_user``, or ∞ if it was not finite."""
    vector, change = padded(rank), room.new_item
    copy_padded(own.factors, row * rank, rank, change, 0)
    add_scaled(change, 0, -ONE, room.new_user, 0, vector)
    moved = own.biases[row] - room.new_user[vector]
    total = penalty * dot(change, 0, change, 0, vector) + bias_penalty * moved * moved
    for t in range(n):
        difference = moved + dot(room.vectors, t * vector, change, 0, vector)
        total += difference * difference
    return 0.5 * total if math.isfinite(total) else np.inf
