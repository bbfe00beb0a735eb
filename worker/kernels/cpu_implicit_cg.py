"""Clicks at high ranks: conjugate gradients in coordinates in which all that rows share is the identity.

With ``L Lᵀ = VᵀV + λ I``, ``z = Lᵀ u`` and ``w = L⁻¹ v`` the row's system is ``(I + Σ α x w wᵀ) z = Σ (1 + α x) w``: what
the whole other side says costs nothing more, and few steps are needed, for a row's own pairs change the identity little. The
steps end when one gains less than `LITTLE` of what all have, and what is left is as small beside what it was at first. A row
that is not there after `MOST` steps is solved exactly.

Source: Hestenes and Stiefel 1952; Takács, Pilászy and Tikk, RecSys 2011.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F64
from factorstream.worker.kernels.compiled import LANES, Int, bare, inlined
from factorstream.worker.kernels.cpu_als import AHEAD, PIECE, length
from factorstream.worker.kernels.cpu_fold import padded
from factorstream.worker.kernels.cpu_implicit import LEAST, ONE
from factorstream.worker.kernels.simd import (
    add_rows,
    add_scaled,
    all_finite,
    ask_for,
    clear,
    copy_padded,
    copy_scaled,
    dot,
    dot_rows,
    take_number,
)

LITTLE = np.float32(0.01)
MOST = 12
"""Steps; ordinary rows take two to four."""
ROOM = 1 << 21
"""Floats of a row's pairs that are kept for all passes, 8 MB: a thread's share of the cache. Longer rows get a matrix."""
CHUNK = 64
"""Rows turned by one thread at once."""


class Room(NamedTuple):
    """What one thread works on."""

    gathered: NDArray[np.float32]
    """``(n, padded(K))``, n a multiple of `LANES`: each ``w √(α x)``."""
    values: NDArray[np.float32]
    """``(n,)``: a number for each pair; zeros behind the last."""
    change: NDArray[np.float32]
    rest: NDArray[np.float32]
    """What is left of the right-hand side."""
    direction: NDArray[np.float32]
    turned: NDArray[np.float32]
    """The matrix times the direction."""


def room(rank: int, longest: int) -> Room:
    """Make room for one thread, and rows with up to *longest* pairs."""
    n, width = -(-longest // LANES) * LANES, -(-rank // LANES) * LANES
    return Room(*map(_line_aligned, (n * width, n, width, width, width, width)))


def _line_aligned(size: int) -> NDArray[np.float32]:
    """Return zeros that begin at a cache line: half of all vectors would lie on two."""
    floats = np.zeros(size + LANES, np.float32)
    first = -(floats.ctypes.data // 4) % LANES
    return floats[first : first + size]


def fitting(counts: NDArray[np.int64], rank: int) -> NDArray[np.int64]:
    """Return the entries whose number of pairs this is for, the longest first."""
    entries = np.flatnonzero((counts > 0) & (counts <= min(PIECE, ROOM // (-(-rank // LANES) * LANES))))
    return entries[np.argsort(-counts[entries], kind="stable")]


def whitening(gram: F64, penalty: float) -> tuple[NDArray[np.float32], ...] | None:
    """Return ``L``, ``L⁻ᵀ`` and ``L⁻¹``, each ``(K, padded(K))`` and flat; None where there is no L in double precision."""
    rank = len(gram)
    try:
        lower = np.asarray(np.linalg.cholesky(gram + penalty * np.eye(rank)), np.float64)
    except np.linalg.LinAlgError:
        return None
    inverse = np.asarray(np.linalg.inv(lower), np.float64)
    if not np.isfinite(inverse).all():
        return None
    return _padded(lower), _padded(inverse.T), _padded(inverse)


def _padded(matrix: F64) -> NDArray[np.float32]:
    rank = len(matrix)
    found = np.zeros((rank, -(-rank // LANES) * LANES), np.float32)
    found[:, :rank] = matrix
    return found.reshape(-1)


@bare
def turn_rows(factors: Any, stride: int, rank: int, rows: Any, matrix: Any, counter: Any, out: Any) -> None:
    """Set row j of *out*, ``(n, padded(K))``, to row ``rows[j]`` of *factors*, ``(…, stride)``, times *matrix*; all flat.

    Some rows after others, each the next that no thread has taken.
    """
    width = padded(rank)
    while True:
        first = take_number(counter) * CHUNK
        if first >= rows.shape[0]:
            return
        for j in range(first, min(first + CHUNK, rows.shape[0])):
            at = np.int64(rows[j]) * stride
            clear(out, j * width, width)
            for k in range(rank):
                add_scaled(out, j * width, factors[at + k], matrix, k * width, width)


@bare
def solve_rows(
    turned: Any,
    rank: int,
    histories: Any,
    entries: Any,
    counter: Any,
    alpha: Any,
    solution: Any,
    room: Any,
    gains: Any,
    left: Any,
) -> None:
    """Solve one of *entries* after another, each the next that no thread has taken.

    *turned* are the rows w that histories name, *solution* ``(n, padded(K))`` each entry's z, as it is and as it becomes; both
    flat. Fills *gains*; clears *left* ``(n,)`` where an entry was solved.
    """
    width = padded(rank)
    while True:
        number = take_number(counter)
        if number >= entries.shape[0]:
            return
        entry = np.int64(entries[number])
        begin(turned, histories, entry, width, alpha, solution, room)
        gained = descend(length(histories, entry), width, room)
        if gained >= 0 and all_finite(room.change, 0, width):
            add_scaled(solution, entry * width, ONE, room.change, 0, width)
            gains[entry] = gained
            left[entry] = False


@inlined
def begin(turned: Any, histories: Any, entry: Int, width: int, alpha: Any, solution: Any, room: Any) -> None:
    """Lay the entry's pairs side by side, and set ``rest`` to ``Σ (1 + α x − α x s) w − z``."""
    start, n = histories.starts[entry], length(histories, entry)
    for t in range(n):
        if t + AHEAD < n:
            ask_for(turned, np.int64(histories.others[start + t + AHEAD]) * width, width)
        at, strength = np.int64(histories.others[start + t]) * width, histories.ratings[start + t]
        weight = max(alpha * strength, LEAST)
        root = np.sqrt(weight) if strength > 0 else np.float32(0)
        score = dot(turned, at, solution, entry * width, width)
        room.values[t] = (ONE + weight - weight * score) / root if strength > 0 else np.float32(0)
        copy_scaled(turned, at, root, width, room.gathered, t * width)
    clear(room.gathered, n * width, (padded(n) - n) * width)
    clear(room.values, n, padded(n) - n)
    clear(room.rest, 0, width)
    for t in range(0, n, LANES):
        add_rows(room.gathered, t * width, width, room.values, t, room.rest, room.rest)
    add_scaled(room.rest, 0, -ONE, solution, entry * width, width)


@inlined
def descend(n: int, width: int, room: Any) -> Any:
    """Leave the change of z in ``change``; return by how much it lowers the objective, below zero after too many steps."""
    rest, direction, turned, values = room.rest, room.direction, room.turned, room.values
    clear(room.change, 0, width)
    copy_padded(rest, 0, width, direction, 0)
    gained, squares = np.float32(0), dot(rest, 0, rest, 0, width)
    at_first = squares
    for _ in range(MOST):
        if squares == 0:
            return gained
        copy_padded(direction, 0, width, turned, 0)
        for t in range(0, n, LANES):
            dot_rows(room.gathered, t * width, width, direction, 0, np.float32(0), values, t)
            add_rows(room.gathered, t * width, width, values, t, turned, turned)
        step = squares / dot(direction, 0, turned, 0, width)
        add_scaled(room.change, 0, step, direction, 0, width)
        add_scaled(rest, 0, -step, turned, 0, width)
        gain = np.float32(0.5) * step * squares
        gained += gain
        before, squares = squares, dot(rest, 0, rest, 0, width)
        if gain <= LITTLE * gained and squares <= LITTLE * at_first:
            return gained
        add_scaled(direction, 0, squares / before - ONE, direction, 0, width)
        add_scaled(direction, 0, ONE, rest, 0, width)
    return np.float32(-1)
