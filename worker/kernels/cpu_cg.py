"""Rows of high rank, solved by conjugate gradients: some passes over the row's ratings instead of a K × K matrix.

The system is that of `cpu_als`, bias included: ``(Σ z zᵀ + Λ) Δ = g`` with z = (v, 1), for the change Δ of the row as it is,
preconditioned by its diagonal D. A step of length α lowers the row's objective by ``½ α r·D⁻¹r``, where r is what is left of g;
the steps end when one gains less than `LITTLE` of what all have, and ``r·D⁻¹r`` is as small beside what it was at first. A row
that is not there after `MOST` steps is solved exactly.

A vector here is K factors, zeros up to ``padded(K)``, the bias, and zeros up to the next multiple of `LANES`.

Source: Hestenes and Stiefel 1952; for ALS: Takács, Pilászy and Tikk, RecSys 2011.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.compiled import LANES, Int, bare, inlined
from factorstream.worker.kernels.cpu_als import AHEAD, ONE, PIECE, length, load_old
from factorstream.worker.kernels.cpu_fold import padded
from factorstream.worker.kernels.simd import (
    add_rows,
    add_rows_and_squares,
    add_scaled,
    all_finite,
    ask_for,
    blend_weighted,
    clear,
    copy_padded,
    dot,
    dot_rows,
    invert,
    take_number,
    weighted_square,
)

LITTLE = np.float32(0.01)
MOST = 12
"""Steps; ordinary rows take three to five."""
FEWEST = 16
"""Up to so many ratings, their n × n system is cheaper."""
ROOM = 1 << 21
"""Floats of a row's ratings that are kept for all passes, 8 MB: a thread's share of the cache. Longer rows get a matrix."""


class Room(NamedTuple):
    """What one thread works on; vectors begin at cache lines."""

    gathered: NDArray[np.float32]
    """``(n, padded(K))``, n a multiple of `LANES`: the row's z, without their ones."""
    values: NDArray[np.float32]
    """``(n,)``: a number for each rating; zeros behind the last."""
    ones: NDArray[np.float32]
    old: NDArray[np.float32]
    change: NDArray[np.float32]
    rest: NDArray[np.float32]
    """What is left of g."""
    direction: NDArray[np.float32]
    turned: NDArray[np.float32]
    """The matrix times the direction."""
    inverse: NDArray[np.float32]
    """The diagonal's."""


def fitting(counts: NDArray[np.int64], rank: int) -> NDArray[np.int64]:
    """Return the entries whose number of ratings this is for, the longest first."""
    entries = np.flatnonzero((counts > FEWEST) & (counts <= min(PIECE, ROOM // _wide(rank))))
    return entries[np.argsort(-counts[entries], kind="stable")]


def room(rank: int, longest: int) -> Room:
    """Make room for one thread, and rows with up to *longest* ratings."""
    n, vector = -(-longest // LANES) * LANES, _wide(rank)
    return Room(*map(_line_aligned, (n * (vector - LANES), n, n)), *map(_line_aligned, [vector] * 6))


def _wide(rank: int) -> int:
    return -(-rank // LANES) * LANES + LANES


def _line_aligned(size: int) -> NDArray[np.float32]:
    """Return zeros that begin at a cache line: half of all vectors would lie on two."""
    floats = np.zeros(size + LANES, np.float32)
    first = -(floats.ctypes.data // 4) % LANES
    return floats[first : first + size]


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
    left: Any,
) -> None:
    """Solve one of *entries* after another, each the next that no thread has taken; *own*, *other* and *means* are flat.

    *numbers* as in `cpu_als.solve_groups`. Fills *gains*; clears *left* ``(rows,)`` where a row was solved.
    """
    rank = own.factors.shape[0] // own.biases.shape[0]
    room.ones[:] = 1
    while True:
        number = take_number(counter)
        if number >= entries.shape[0]:
            return
        entry = np.int64(entries[number])
        row = np.int64(rows[entry])
        left[entry] = not solve_row(own, other, rank, row, histories, means, entry, numbers, room, gains)


@inlined
def solve_row(
    own: Any, other: Any, rank: int, row: Int, histories: Any, means: Any, entry: Int, numbers: Any, room: Any, gains: Any
) -> bool:
    """Solve one row; return whether that went well."""
    intercept, penalty, bias_penalty, weighted = numbers
    n, vector = length(histories, entry), padded(rank)
    weight = np.float32(n) if weighted else ONE
    load_old(own, row, rank, room, 0)
    gather(other, rank, histories, entry, intercept, room)
    begin(n, vector, weight * penalty, weight * bias_penalty, room)
    if means.shape[0] > 0:
        add_scaled(room.rest, 0, weight * penalty, means, entry * (rank + 1), rank)
        room.rest[vector] += weight * bias_penalty * means[entry * (rank + 1) + rank]
    gained = descend(n, vector, weight * penalty, weight * bias_penalty, room)
    add_scaled(room.change, 0, ONE, room.old, 0, vector + LANES)
    if not (gained >= 0 and all_finite(room.change, 0, vector + LANES)):
        return False
    was_finite = all_finite(own.factors, row * rank, rank) and math.isfinite(own.biases[row])
    gains[entry] = gained if was_finite else np.inf
    for k in range(rank):
        own.factors[row * rank + k] = room.change[k]
    own.biases[row] = room.change[vector]
    return True


@inlined
def gather(other: Any, rank: int, histories: Any, entry: Int, intercept: Any, room: Any) -> None:
    """Lay the row's ratings side by side; what they are apart from the dot product and the row's bias into ``values``."""
    start, n, vector = histories.starts[entry], length(histories, entry), padded(rank)
    for t in range(n):
        if t + AHEAD < n:
            ask_for(other.factors, np.int64(histories.others[start + t + AHEAD]) * rank, rank)
        row = np.int64(histories.others[start + t])
        copy_padded(other.factors, row * rank, rank, room.gathered, t * vector)
        room.values[t] = histories.ratings[start + t] - intercept - other.biases[row]
    clear(room.gathered, n * vector, (padded(n) - n) * vector)
    clear(room.values, n, padded(n) - n)


@inlined
def begin(n: int, vector: int, penalty: Any, bias_penalty: Any, room: Any) -> None:
    """Set ``rest`` to g, the gradient downhill from the row as it is, and ``inverse`` to D⁻¹; both are 0 where no unknown is."""
    rest, inverse, old = room.rest, room.inverse, room.old
    clear(rest, 0, vector + LANES)
    clear(inverse, 0, vector + LANES)
    for t in range(0, n, LANES):
        dot_rows(room.gathered, t * vector, vector, old, 0, old[vector], room.turned, 0)
        add_scaled(room.values, t, -ONE, room.turned, 0, min(np.int64(LANES), n - t))
        add_rows_and_squares(room.gathered, t * vector, vector, room.values, t, rest, inverse)
    add_scaled(rest, 0, -penalty, old, 0, vector)
    rest[vector] = dot(room.values, 0, room.ones, 0, padded(n)) - bias_penalty * old[vector]
    invert(inverse, penalty, vector)
    inverse[vector] = ONE / (np.float32(n) + bias_penalty)


@inlined
def descend(n: int, vector: int, penalty: Any, bias_penalty: Any, room: Any) -> Any:
    """Leave Δ in ``change``; return by how much it lowers the objective, below zero if that takes too many steps."""
    rest, direction, size = room.rest, room.direction, vector + LANES
    clear(room.change, 0, size)
    clear(direction, 0, size)
    gained, keep, squares = np.float32(0), np.float32(0), weighted_square(rest, room.inverse, size)
    at_first = squares
    for _ in range(MOST):
        if squares == 0:
            return gained
        blend_weighted(direction, keep, room.inverse, rest, size)
        step = squares / multiply(n, vector, penalty, bias_penalty, room)
        add_scaled(room.change, 0, step, direction, 0, size)
        add_scaled(rest, 0, -step, room.turned, 0, size)
        gain = np.float32(0.5) * step * squares
        gained += gain
        before, squares = squares, weighted_square(rest, room.inverse, size)
        if gain <= LITTLE * gained and squares <= LITTLE * at_first:
            return gained
        keep = squares / before
    return np.float32(-1)


@inlined
def multiply(n: int, vector: int, penalty: Any, bias_penalty: Any, room: Any) -> Any:
    """Set ``turned`` to A p for the direction p; return ``p·A p``."""
    direction, turned, values = room.direction, room.turned, room.values
    bias = direction[vector]
    clear(turned, 0, vector + LANES)
    for t in range(0, n, LANES):
        dot_rows(room.gathered, t * vector, vector, direction, 0, bias, values, t)
        if t + LANES > n:
            clear(values, n, t + LANES - n)
        add_rows(room.gathered, t * vector, vector, values, t, turned, turned)
    add_scaled(turned, 0, penalty, direction, 0, vector)
    turned[vector] = dot(values, 0, room.ones, 0, padded(n)) + bias_penalty * bias
    length_squared = penalty * dot(direction, 0, direction, 0, vector) + bias_penalty * bias * bias
    return dot(values, 0, values, 0, padded(n)) + length_squared
