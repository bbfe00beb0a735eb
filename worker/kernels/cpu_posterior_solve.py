"""Rows' posteriors, compiled: their normal equations gathered or extended, then solved by elimination, several side by side.

The matrix ``A = Σ E[x xᵀ] + noise P`` (D × D) lies in rows of `Room.work`, its upper triangle in place, the right-hand side in
column D. Row operations that clear what would be below the diagonal leave their multipliers there: with unit lower triangular
``M`` and the pivots ``d`` it ends as ``M A Mᵀ = diag(d)``, so ``A⁻¹ = Mᵀ diag(1 / d) M`` gives the mean, its variances and the
covariances with the bias in D vector operations each. No pivot is below the prior's share of it, whatever rounding did.

Each step of this waits for the step before, and for what that stored to be readable in another shape. So several rows take
each step in turn, and no bit of a row depends on which others these are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.beliefs import MEETINGS, equations_width, outlook_width
from factorstream.worker.kernels.compiled import LANES, Int, inlined, inner
from factorstream.worker.kernels.cpu_fold import padded
from factorstream.worker.kernels.simd import (
    add_first,
    add_half_tile,
    add_scaled,
    all_finite,
    ask_for,
    clear,
    copy,
    copy_bordered,
    copy_padded,
    copy_raised,
    copy_scaled,
    eliminate_below,
    extend_padded,
    lay_row,
    substitute_all,
)

AHEAD = 4
"""Ratings between asking for rows and using them."""

PANEL = 256
"""Rows gathered before their products are summed."""

TOGETHER, WIDEST_TOGETHER = 8, 128
"""Rows that are solved side by side, at most, and the floats that one row of each of their matrices takes together: with more
the matrices would leave the first-level cache. So 8 rows up to 14 factors, 4 up to 30, then 2."""

ONE, ZERO = np.float32(1), np.float32(0)
PSEUDO = np.float32(MEETINGS)


class Tables(NamedTuple):
    """One side, flat."""

    factors: Any
    biases: Any
    equations: Any
    outlook: Any


class Room(NamedTuple):
    """What rows are solved in: each has its own row of each array (`room_of`)."""

    work: NDArray[np.float32]
    """``(D, padded(K + 2))``, flat."""
    system: NDArray[np.float32]
    """``(equations_width,)``: the row's equations as they will be."""
    outlook: NDArray[np.float32]
    """``(outlook_width,)``: its variances as they will be; effects are not touched."""
    solution: NDArray[np.float32]
    """``(D,)``; before, the row's start."""
    prior: NDArray[np.float32]
    """``(D,)``: the prior's mean."""
    weights: NDArray[np.float32]
    """``(2,)``: noise over the prior's variances, of factors and of the bias."""
    x: NDArray[np.float32]
    """``(D,)``: another row as it is seen; then the inverses of the pivots."""
    shares: NDArray[np.float32]
    """``(padded(K + 2),)``: scratch of the elimination."""
    gram: NDArray[np.float32]
    """``(padded(K + 2), padded(K + 2))``: products summed; rows of factors and the bias alone, from the diagonal on. Or the
    row's equations before they are extended."""
    seen: NDArray[np.float32]
    """``(outlook_width,)``: the sum of the other rows' outlooks."""
    squares: NDArray[np.float64]
    """``(1,)``: ``Σ E[y²]``."""


def room(rank: int) -> Room:
    """Make room for `TOGETHER` rows of *rank* factors, or as many as there should be."""
    vector = vector_width(rank)
    n = max(2, min(TOGETHER, WIDEST_TOGETHER // vector))
    widths = {
        "work": (rank + 1) * vector,
        "system": equations_width(rank) + LANES,
        "outlook": outlook_width(rank) + LANES,
        "gram": vector**2,
        "seen": outlook_width(rank) + LANES,
    }
    floats = {name: np.empty((n, width), np.float32) for name, width in widths.items()}
    vectors = {name: np.empty((n, vector), np.float32) for name in ("solution", "prior", "weights", "x", "shares")}
    return Room(**floats, **vectors, squares=np.empty((n, 1)))


def panel(rank: int) -> NDArray[np.float32]:
    """Make room for other rows as ``[v, 1, y]``: ``(PANEL, padded(K + 2))``, flat."""
    return np.empty(PANEL * vector_width(rank), np.float32)


def vector_width(rank: int) -> int:
    """Return ``padded(K + 2)``."""
    return -(-(rank + 2) // LANES) * LANES


@inlined
def room_of(rooms: Room, r: Int) -> Room:
    """Return the room of the r-th row."""
    return Room(
        rooms.work[r],
        rooms.system[r],
        rooms.outlook[r],
        rooms.solution[r],
        rooms.prior[r],
        rooms.weights[r],
        rooms.x[r],
        rooms.shares[r],
        rooms.gram[r],
        rooms.seen[r],
        rooms.squares[r],
    )


@inlined
def triangle(rank: int) -> int:
    """Return how many numbers the upper triangle of a row's matrix has."""
    return (rank + 1) * (rank + 2) // 2


@inlined
def equations_size(rank: int) -> int:
    """`beliefs.equations_width`."""
    return triangle(rank) + 2 * (rank + 1) + 1


@inlined
def ask(side: Tables, row: Int, rank: int) -> None:
    """Ask for all of a row."""
    ask_for(side.factors, row * rank, rank)
    ask_for(side.biases, row, 1)
    ask_for(side.equations, row * equations_size(rank), equations_size(rank))
    ask_for(side.outlook, row * (3 * rank + 2), 3 * rank + 2)


@inlined
def ready(own: Tables, row: Int, count: Int, other: Tables, other_row: Int, intercept: Any, room: Room, rank: int) -> None:
    """Make a row's equations, and the other row as it is seen, ready for `extend`; *count* is the row's with that rating."""
    copy(own.equations, row * equations_size(rank), equations_size(rank), room.gram, 0)
    recenter(room.gram, intercept, rank)
    copy_padded(other.factors, other_row * rank, rank, room.x, 0)
    room.x[rank] = ONE
    if count == 1:
        copy(own.factors, row * rank, rank, room.solution, 0)


@inlined
def recenter(system: Any, intercept: Any, rank: int) -> None:
    """Take *intercept* out of the ratings in the place of what was."""
    size, last = rank + 1, equations_size(rank) - 1
    shift = intercept - system[last]
    if shift != 0:
        at = rank
        for a in range(size):
            system[triangle(rank) + a] -= shift * system[at]
            at += rank - a
        system[last] = intercept


@inlined
def extend(room: Room, other: Tables, row: Int, y: Any, rank: int) -> None:
    """Add one rating to the equations; *y* is it without the intercept and the other row's bias."""
    size, outlook, at = rank + 1, row * (3 * rank + 2), np.int64(0)
    for a in range(size):
        variance = other.outlook[outlook + a] if a < rank else ZERO
        extend_padded(room.gram, at, room.x[a], room.x, a, variance, size - a, room.system, at)
        at += size - a
    extend_padded(room.gram, at, y, room.x, 0, ZERO, size, room.system, at)
    extend_padded(room.gram, at + size, ONE, other.outlook, outlook + 2 * rank + 1, ZERO, size, room.system, at + size)
    room.system[at + 2 * size] = room.gram[at + 2 * size]
    add_scaled(room.system, at, -ONE, other.outlook, outlook + rank, rank)


@inlined
def gather(other: Tables, histories: Any, begin: Int, end: Int, intercept: Any, room: Room, panel: Any, rank: int) -> None:
    """Sum what a row with the ratings *begin* to *end* has to know of them."""
    size, vector, width = rank + 1, padded(rank + 2), 3 * rank + 2
    clear(room.gram, 0, vector * vector)
    clear(room.seen, 0, width)
    squares, total = 0.0, 0.0
    for first in range(begin, end, PANEL):
        stop = min(first + PANEL, end)
        for t in range(first, stop):
            if t + AHEAD < len(histories.others):
                ahead = np.int64(histories.others[t + AHEAD])
                ask_for(other.factors, ahead * rank, rank)
                ask_for(other.biases, ahead, 1)
                ask_for(other.outlook, ahead * width, width)
            row, at = np.int64(histories.others[t]), (t - first) * vector
            y = histories.ratings[t] - intercept - other.biases[row]
            copy_bordered(other.factors, row * rank, rank, ONE, y, panel, at)
            add_first(room.seen, 0, ONE, other.outlook, row * width, width)
            squares += np.float64(y) * np.float64(y)
            total += np.float64(y)
        for i in range(0, rank, LANES // 2):
            for k in range(i & -LANES, vector, LANES):
                add_half_tile(panel, stop - first, vector, i, k, room.gram, 0)
    room.gram[rank * vector + rank], room.gram[rank * vector + size] = np.float32(end - begin), np.float32(total)
    room.squares[0] = squares + np.float64(room.seen[2 * rank])


@inlined
def pack(room: Room, intercept: Any, rank: int) -> None:
    """Make the equations of what was gathered."""
    size, vector, at = rank + 1, padded(rank + 2), np.int64(0)
    for a in range(size):
        copy_raised(room.gram, a * vector + a, size - a, room.seen[a] if a < rank else ZERO, room.system, at)
        at += size - a
    for a in range(size):
        room.system[at + a] = room.gram[a * vector + size]
        if a < rank:
            room.system[at + a] -= room.seen[rank + a]
    copy(room.seen, 2 * rank + 1, size, room.system, at + size)
    room.system[at + 2 * size] = intercept


@inlined
def set_prior(room: Room, count: Int, noise: Any, prior: Any, rank: int) -> None:
    """Set the prior's weights and its mean: the row's start, what the rows met add, and the level of its bias."""
    n = np.float32(count)
    room.weights[0], room.weights[1] = noise / prior.factors, noise / prior.bias
    copy_padded(room.solution, 0, rank + 1, room.prior, 0)
    add_first(room.prior, 0, ONE / np.sqrt(n + PSEUDO), room.system, triangle(rank) + rank + 1, rank + 1)
    room.prior[rank] += prior.level
    if prior.slope != 0:
        room.prior[rank] += prior.slope * np.log1p(n)


@inner
def solve(rooms: Any, n: Int, noise: Any, rank: int) -> None:
    """Solve `Room.system` in the first *n* rooms, into solution and outlook; what is not finite is found by `is_fine`."""
    for r in range(n):
        fill(room_of(rooms, r), rank)
    eliminate(rooms, n, rank)
    for r in range(n):
        substitute(room_of(rooms, r), noise, rank)


@inlined
def fill(room: Room, rank: int) -> None:
    """Lay out the matrix and the right-hand side with the prior's share in them."""
    size, vector, at, right = rank + 1, padded(rank + 2), np.int64(0), triangle(rank)
    for a in range(size):
        weight = room.weights[0 if a < rank else 1]
        target = room.system[right + a] + weight * room.prior[a]
        lay_row(room.system, at, a, size, weight, target, room.work, a * vector, vector)
        at += size - a


@inlined
def eliminate(rooms: Room, n: Int, rank: int) -> None:
    """Clear *n* matrices below their diagonals; inverse pivots go to ``Room.x``, the multipliers where zeros would be."""
    size, vector = rank + 1, padded(rank + 2)
    for k in range(size):
        for r in range(n):
            room = room_of(rooms, r)
            inverse = ONE / max(room.work[k * vector + k], room.weights[0 if k < rank else 1])
            room.x[k] = inverse
            eliminate_below(room.work, k, size, inverse, vector, room.shares)


@inlined
def substitute(room: Room, noise: Any, rank: int) -> None:
    """Solve what was eliminated, into solution and outlook."""
    size, vector = rank + 1, padded(rank + 2)
    substitute_all(room.work, size, vector, room.x, noise, room.solution, room.outlook)
    inverse = noise * room.x[rank]
    copy_scaled(room.work, rank * vector, inverse, rank, room.outlook, rank)
    room.outlook[2 * rank] = inverse


@inlined
def is_fine(room: Room, rank: int) -> bool:
    """Whether all that was solved is finite."""
    return (
        all_finite(room.solution, 0, rank + 1)
        and all_finite(room.outlook, 0, 2 * rank + 1)
        and all_finite(room.system, 0, equations_size(rank))
    )


@inlined
def put(room: Room, side: Tables, row: Int, rank: int) -> None:
    """Write a solved row to its tables."""
    copy(room.solution, 0, rank, side.factors, row * rank)
    side.biases[row] = room.solution[rank]
    copy(room.system, 0, equations_size(rank), side.equations, row * equations_size(rank))
    copy(room.outlook, 0, 2 * rank + 1, side.outlook, row * (3 * rank + 2))
