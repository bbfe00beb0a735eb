"""Alternating least squares, compiled: exact rows, `LANES` systems of equations at a time, one a lane.

A group of rows is solved together. Each row's Gram matrix is summed in tiles that stay in registers, all are turned so that
element (r, c) of every system is one vector, and one Cholesky factorization then serves them all. A lane never sees its
neighbours, so a row's bits depend neither on its group nor on the thread.

- Rows with at least K ratings are *tall*: ``A Δu + g Δb = h``, ``g·Δu + (n + μ) Δb = ρ`` with ``A = Σ v vᵀ + λ I``, ``g = Σ v``,
  and h, ρ the residuals of the row as it is. Solving for the change makes a sweep refine what the last one left.
- The others are *short*: ``(V Vᵀ + λ I) α = x − … − b``, ``u = Vᵀ α``, n × n.

Both are one symmetric system with two right-hand sides, and the bias is their Schur complement.

The system of a row with more than `PIECE` ratings is summed in pieces of that length, which threads share, and the pieces' sums
are added in order: pieces depend on the row alone, so the number of threads changes no bit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.compiled import LANES, Int, bare, inlined
from factorstream.worker.kernels.cpu_fold import WEAK, padded
from factorstream.worker.kernels.simd import (
    BLOCK,
    add_border,
    add_scaled,
    add_tile,
    all_finite,
    ask_for,
    clear,
    copy_padded,
    dot,
    factor_block,
    factor_border,
    factor_diagonal,
    substitute_up,
    take_number,
    transpose_tile,
)

PANEL = 8192
"""Floats of gathered rows worked on at once: 32 KB stay in the first-level cache while every tile reads them."""

AHEAD = 8
"""Ratings between asking for a row and using it."""

PIECE = 1 << 15
"""Ratings of a long row that are one thread's work; more than a row has factors."""

CANCELLED = np.float32(64)
"""A change so many times larger than the row it leads to has cost float32 too many digits."""

ONE = np.float32(1)

SIZE, PENALTY, BIAS_PENALTY, RESIDUAL, HH, HG, GG, WEAKNESS, BIAS = range(9)
"""Rows of `Room.totals`.

A lane's number of unknowns, λ, μ and ρ; h·A⁻¹h, h·A⁻¹g and g·A⁻¹g; what its weakest pivot lost; its bias, or change of bias.
"""


class Room(NamedTuple):
    """What one thread works on; flat."""

    gathered: NDArray[np.float32]
    """``(panel, padded(K))``: rows of the other side."""
    turned: NDArray[np.float32]
    """``(padded(K), padded(K))``: the same, transposed."""
    residuals: NDArray[np.float32]
    """``(panel,)``."""
    systems: NDArray[np.float32]
    """``(LANES, padded(K) + 2, padded(K))``: each row's matrix, and its two right-hand sides below."""
    lanes: NDArray[np.float32]
    """The same, one system a lane (`simd.Lanes`)."""
    diagonal: NDArray[np.float32]
    """``(K, LANES)``, as it was before it was factored."""
    solution: NDArray[np.float32]
    """``(K, LANES)``."""
    old: NDArray[np.float32]
    """``(LANES, padded(K) + 1)``: rows as they were, each with its bias behind it."""
    new: NDArray[np.float32]
    """``(padded(K) + 1,)``."""
    totals: NDArray[np.float32]
    """``(9, LANES)``."""


def room(rank: int) -> Room:
    """Make room for one thread."""
    vector, height = -(-rank // LANES) * LANES, -(-rank // BLOCK) * BLOCK
    panel = max(vector, PANEL // vector)
    triangle = (height + 2) * (height + 3) // 2
    systems = LANES * (vector + 2) * vector
    column = height * LANES
    sizes = (
        panel * vector,
        vector**2,
        panel,
        systems,
        (triangle + LANES) * LANES,
        column,
        column,
        LANES * (vector + 1),
        vector + 1,
        9 * LANES,
    )
    return Room(*(np.zeros(size, np.float32) for size in sizes))


class Pieces(NamedTuple):
    """The long rows' systems, in pieces."""

    entries: NDArray[np.int32]
    """``(n,)``: whose piece it is."""
    first: NDArray[np.int64]
    """``(entries + 1,)``: an entry's pieces are ``first[entry]:first[entry + 1]``; none if it is not long."""
    systems: NDArray[np.float32]
    """``(n, padded(K) + 2, padded(K))``, flat: laid out as in `Room`."""
    residuals: NDArray[np.float64]
    """``(n,)``: their sum."""


def pieces(counts: NDArray[np.int64], rank: int) -> Pieces:
    """Cut entries that are longer than `PIECE`; their sums are to be made by `sum_pieces`."""
    n_pieces = np.where(counts > PIECE, -(-counts // PIECE), 0)
    first = np.concatenate([[0], np.cumsum(n_pieces)])
    n, vector = int(first[-1]), -(-rank // LANES) * LANES
    entries = np.repeat(np.arange(len(counts), dtype=np.int32), n_pieces)
    return Pieces(entries, first, np.zeros(n * (vector + 2) * vector, np.float32), np.zeros(n))


def groups(entries: NDArray[np.int64], counts: NDArray[np.int64], rank: int) -> NDArray[np.int32]:
    """Return ``(n, LANES)`` of *entries* to solve together, −1 where a lane is empty; *counts* are those of all entries.

    Long rows are dealt out, one to a group, since a group is one thread's work; short ones are put together by length.
    """
    entries = entries[np.argsort(-counts[entries], kind="stable")]
    is_tall = counts[entries] >= rank
    tall, short = _filled(entries[is_tall]), _filled(entries[~is_tall])
    return np.ascontiguousarray(np.concatenate([tall.reshape(LANES, -1).T, short.reshape(-1, LANES)]))


def _filled(entries: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.append(entries, np.full(-len(entries) % LANES, -1)).astype(np.int32)


@bare
def sum_pieces(own: Any, other: Any, rows: Any, histories: Any, pieces: Any, counter: Any, numbers: Any, room: Any) -> None:
    """Sum one piece after another, each the next that no thread has taken, until none is left; *own* and *other* are flat."""
    rank = own.factors.shape[0] // own.biases.shape[0]
    size = (padded(rank) + 2) * padded(rank)
    while True:
        piece = take_number(counter)
        if piece >= pieces.entries.shape[0]:
            return
        entry = np.int64(pieces.entries[piece])
        load_old(own, np.int64(rows[entry]), rank, room, 0)
        begin = histories.starts[entry] + (piece - pieces.first[entry]) * PIECE
        end = min(begin + PIECE, histories.starts[entry + 1])
        pieces.residuals[piece] = sum_by_factors(
            other, rank, histories, begin, end, numbers[0], room, 0, pieces.systems, piece * size
        )


@bare
def solve_groups(
    own: Any,
    other: Any,
    rows: Any,
    histories: Any,
    means: Any,
    pieces: Any,
    groups: Any,
    counter: Any,
    numbers: Any,
    room: Any,
    gains: Any,
    careful: Any,
) -> None:
    """Solve one group after another, each the next that no thread has taken, until none is left; tables are flat.

    *means* are the rows' prior means, none where all are zero; *numbers* are the intercept, λ, μ and whether these are
    weighted. Fills *gains*, and *careful* where a row needs more than float32 and stays as it is.
    """
    while True:
        number = take_number(counter)
        if number >= groups.shape[0]:
            return
        solve_group(own, other, rows, histories, means, pieces, groups[number], numbers, room, gains, careful)


@inlined
def solve_group(
    own: Any,
    other: Any,
    rows: Any,
    histories: Any,
    means: Any,
    pieces: Any,
    group: Any,
    numbers: Any,
    room: Any,
    gains: Any,
    careful: Any,
) -> None:
    """Solve the rows of one group, as many as it has."""
    intercept, penalty, bias_penalty, weighted = numbers
    rank = own.factors.shape[0] // own.biases.shape[0]
    size = 1
    for lane in range(LANES):
        if group[lane] >= 0:
            size = max(size, min(length(histories, group[lane]), rank))
    vector, height = padded(rank), (size + BLOCK - 1) // BLOCK * BLOCK
    for lane in range(LANES):
        entry = group[lane]
        n = length(histories, entry) if entry >= 0 else 0
        weight = np.float32(n) if weighted else ONE
        room.totals[PENALTY * LANES + lane] = weight * penalty
        room.totals[BIAS_PENALTY * LANES + lane] = weight * bias_penalty
        system = lane * (vector + 2) * vector
        clear(room.systems, system, padded(height) * vector)
        clear(room.systems, system + vector * vector, 2 * vector)
        if entry >= 0:
            load_old(own, np.int64(rows[entry]), rank, room, lane)
        if n >= rank:
            sum_tall(other, rank, histories, means, pieces, entry, intercept, room, lane)
        elif n > 0:
            sum_by_ratings(other, rank, histories, means, entry, intercept, room, lane)
        room.totals[SIZE * LANES + lane] = min(n, rank)
    turn(room, vector, height)
    add_penalty(room, height)
    factor(room.lanes, height)
    eliminate_bias(room, histories, group, rank, height)
    for p in range(height - 1, -1, -1):
        substitute_up(room.lanes, p, room.solution)
    for lane in range(LANES):
        if group[lane] >= 0:
            row = np.int64(rows[group[lane]])
            finish(own, other, rank, row, histories, means, group[lane], room, lane, gains, careful)


@inlined
def length(histories: Any, entry: Int) -> int:
    """Return how many ratings an entry holds."""
    return histories.starts[entry + 1] - histories.starts[entry]


@inlined
def load_old(own: Any, row: Int, rank: int, room: Any, lane: int) -> None:
    """Keep a row as it is; all zeros when it is not finite."""
    vector = padded(rank)
    at = lane * (vector + 1)
    copy_padded(own.factors, row * rank, rank, room.old, at)
    room.old[at + vector] = own.biases[row]
    if not all_finite(room.old, at, vector + 1):
        clear(room.old, at, vector + 1)


@inlined
def sum_tall(
    other: Any, rank: int, histories: Any, means: Any, pieces: Any, entry: Int, intercept: Any, room: Any, lane: int
) -> None:
    """Sum a tall row's system, penalties on what it is now included: ``Σ v vᵀ``, and below it h and g; ρ into the totals."""
    vector = padded(rank)
    size, old = (vector + 2) * vector, lane * (vector + 1)
    total, system = 0.0, lane * size
    if length(histories, entry) > PIECE:
        for piece in range(pieces.first[entry], pieces.first[entry + 1]):
            add_scaled(room.systems, system, ONE, pieces.systems, piece * size, size)
            total += pieces.residuals[piece]
    else:
        begin, end = histories.starts[entry], histories.starts[entry + 1]
        total = sum_by_factors(other, rank, histories, begin, end, intercept, room, lane, room.systems, system)
    penalty, bias_penalty = room.totals[PENALTY * LANES + lane], room.totals[BIAS_PENALTY * LANES + lane]
    add_scaled(room.systems, system + vector * vector, -penalty, room.old, old, vector)
    total -= bias_penalty * room.old[old + vector]
    if means.shape[0] > 0:
        mean = entry * (rank + 1)
        add_scaled(room.systems, system + vector * vector, penalty, means, mean, rank)
        total += bias_penalty * means[mean + rank]
    room.totals[RESIDUAL * LANES + lane] = total


@inlined
def sum_by_factors(
    other: Any,
    rank: int,
    histories: Any,
    begin: Int,
    end: Int,
    intercept: Any,
    room: Any,
    lane: int,
    systems: Any,
    system: Int,
) -> float:
    """Add ratings ``begin:end`` of a lane's row to its system, which begins at *system*; return the sum of their residuals."""
    vector = padded(rank)
    panel, old, border = len(room.residuals), lane * (vector + 1), system + vector * vector
    bias, total = room.old[old + vector], 0.0
    while begin < end:
        n = min(panel, end - begin)
        for t in range(n):
            if t + AHEAD < end - begin:
                ask_for(other.factors, np.int64(histories.others[begin + t + AHEAD]) * rank, rank)
            row = np.int64(histories.others[begin + t])
            copy_padded(other.factors, row * rank, rank, room.gathered, t * vector)
            score = intercept + other.biases[row] + bias + dot(room.gathered, t * vector, room.old, old, vector)
            room.residuals[t] = histories.ratings[begin + t] - score
            total += room.residuals[t]
        for i in range(0, vector, LANES):
            for j in range(0, i + 1, LANES):
                add_tile(room.gathered, n, vector, i, j, systems, system)
            add_border(room.gathered, room.residuals, n, vector, i, systems, border)
        begin += n
    return total


@inlined
def sum_by_ratings(other: Any, rank: int, histories: Any, means: Any, entry: Int, intercept: Any, room: Any, lane: int) -> None:
    """Sum a short row's system: ``V Vᵀ``, and below it the targets and ones."""
    vector, n = padded(rank), length(histories, entry)
    system, begin = lane * (vector + 2) * vector, histories.starts[entry]
    border = system + vector * vector
    for t in range(n):
        if t + AHEAD < n:
            ask_for(other.factors, np.int64(histories.others[begin + t + AHEAD]) * rank, rank)
        row = np.int64(histories.others[begin + t])
        copy_padded(other.factors, row * rank, rank, room.gathered, t * vector)
        room.systems[border + t] = histories.ratings[begin + t] - intercept - other.biases[row]
        if means.shape[0] > 0:
            mean = entry * (rank + 1)
            room.systems[border + t] -= means[mean + rank] + dot(means, mean, room.gathered, t * vector, rank)
        room.systems[border + vector + t] = 1
    clear(room.gathered, n * vector, (padded(n) - n) * vector)
    for t in range(0, n, LANES):
        for k in range(0, vector, LANES):
            transpose_tile(room.gathered, t * vector + k, vector, room.turned, k * vector + t, vector)
    for i in range(0, n, LANES):
        for j in range(0, i + 1, LANES):
            add_tile(room.turned, rank, vector, i, j, room.systems, system)


@inlined
def turn(room: Any, vector: int, height: int) -> None:
    """Turn the systems so that element (r, c) of all is one vector.

    The last tile of a row spills into the next row, which comes after.
    """
    system = (vector + 2) * vector
    for r in range(height + 2):
        source = r if r < height else vector + r - height
        target = r * (r + 1) // 2
        for c in range(0, min(r + 1, height), LANES):
            transpose_tile(room.systems, source * vector + c, system, room.lanes, (target + c) * LANES, LANES)


@inlined
def add_penalty(room: Any, height: int) -> None:
    """Add λ to every lane's diagonal, and make what is beyond a lane's own system the identity."""
    lanes, totals = room.lanes, room.totals
    for k in range(height):
        place = k * (k + 3) // 2 * LANES
        for lane in range(LANES):
            inside = np.float32(k) < totals[SIZE * LANES + lane]
            lanes[place + lane] += totals[PENALTY * LANES + lane] if inside else ONE
            room.diagonal[k * LANES + lane] = lanes[place + lane]


@inlined
def factor(lanes: Any, height: int) -> None:
    """Factor every lane's matrix, and carry the two right-hand sides below it along."""
    for i in range(0, height, BLOCK):
        for j in range(0, i, BLOCK):
            factor_block(lanes, i, j)
        factor_diagonal(lanes, i)
    for j in range(0, height, BLOCK):
        factor_border(lanes, height, j)


@inlined
def eliminate_bias(room: Any, histories: Any, group: Any, rank: int, height: int) -> None:
    """Find each lane's bias, and leave in ``solution`` what the factors have to solve for."""
    lanes, totals = room.lanes, room.totals
    left = height * (height + 1) // 2 * LANES
    right = left + (height + 1) * LANES
    for at in range(HH * LANES, BIAS * LANES):
        totals[at] = 0
    for k in range(height):
        for lane in range(LANES):
            h, g = lanes[left + k * LANES + lane], lanes[right + k * LANES + lane]
            inverse = lanes[k * (k + 3) // 2 * LANES + lane]
            totals[HH * LANES + lane] += h * h
            totals[HG * LANES + lane] += h * g
            totals[GG * LANES + lane] += g * g
            lost = inverse * inverse * room.diagonal[k * LANES + lane]
            # a pivot below zero has a root that is NaN, which must stay
            totals[WEAKNESS * LANES + lane] = totals[WEAKNESS * LANES + lane] if lost <= totals[WEAKNESS * LANES + lane] else lost
    for lane in range(LANES):
        n = length(histories, group[lane]) if group[lane] >= 0 else 0
        totals[BIAS * LANES + lane] = bias_of(totals, lane, n, n >= rank)
    for k in range(height):
        for lane in range(LANES):
            at = k * LANES + lane
            room.solution[at] = lanes[left + at] - totals[BIAS * LANES + lane] * lanes[right + at]


@inlined
def bias_of(totals: Any, lane: int, n: int, tall: bool) -> Any:
    """Return a tall row's change of bias, or a short row's bias."""
    penalty, bias_penalty = totals[PENALTY * LANES + lane], totals[BIAS_PENALTY * LANES + lane]
    hg, gg = totals[HG * LANES + lane], totals[GG * LANES + lane]
    if tall:
        return (totals[RESIDUAL * LANES + lane] - hg) / border_pivot(totals, lane, n)
    return penalty * hg / (penalty * gg + bias_penalty)


@inlined
def border_pivot(totals: Any, lane: int, n: int) -> Any:
    """Return the Schur complement of a tall row's bias."""
    return np.float32(n) + totals[BIAS_PENALTY * LANES + lane] - totals[GG * LANES + lane]


@inlined
def finish(
    own: Any,
    other: Any,
    rank: int,
    row: Int,
    histories: Any,
    means: Any,
    entry: Int,
    room: Any,
    lane: int,
    gains: Any,
    careful: Any,
) -> None:
    """Write a lane's row and by how much it lowered the objective, or mark it."""
    vector, n = padded(rank), length(histories, entry)
    new = room.new
    clear(new, 0, vector + 1)
    good = True
    if n >= rank:
        good = add_change(room, lane, rank, n)
    else:
        good = n == 0 or add_ratings(other, rank, histories, entry, room, lane)
        if means.shape[0] > 0:
            add_scaled(new, 0, ONE, means, entry * (rank + 1), rank)
            new[vector] += means[entry * (rank + 1) + rank]
    if not (good and all_finite(new, 0, vector + 1)):
        careful[entry] = True
        return
    if not (all_finite(own.factors, row * rank, rank) and math.isfinite(own.biases[row])):
        gains[entry] = np.inf
    elif n >= rank:
        rest = room.totals[RESIDUAL * LANES + lane] - room.totals[HG * LANES + lane]
        gains[entry] = 0.5 * (room.totals[HH * LANES + lane] + rest * rest / border_pivot(room.totals, lane, n))
    else:
        gains[entry] = gain_of(other, rank, histories, entry, room, lane)
    for k in range(rank):
        own.factors[row * rank + k] = new[k]
    own.biases[row] = new[vector]


@inlined
def add_change(room: Any, lane: int, rank: int, n: int) -> bool:
    """Make a tall row's new values; return whether float32 was good enough."""
    vector, old, new = padded(rank), lane * (padded(rank) + 1), room.new
    change = room.totals[BIAS * LANES + lane]
    new[vector] = room.old[old + vector] + change
    largest_change, largest = abs(change), abs(new[vector])
    for k in range(rank):
        change = room.solution[k * LANES + lane]
        new[k] = room.old[old + k] + change
        largest_change, largest = max(largest_change, abs(change)), max(largest, abs(new[k]))
    strong = room.totals[WEAKNESS * LANES + lane] <= ONE / WEAK and border_pivot(room.totals, lane, n) > WEAK * np.float32(n)
    return strong and largest_change <= CANCELLED * largest


@inlined
def add_ratings(other: Any, rank: int, histories: Any, entry: Int, room: Any, lane: int) -> bool:
    """Make a short row's new values ``Vᵀ α``; return whether float32 was good enough."""
    begin = histories.starts[entry]
    for t in range(length(histories, entry)):
        row = np.int64(histories.others[begin + t])
        add_scaled(room.new, 0, room.solution[t * LANES + lane], other.factors, row * rank, rank)
    room.new[padded(rank)] = room.totals[BIAS * LANES + lane]
    return room.totals[WEAKNESS * LANES + lane] <= ONE / WEAK


@inlined
def gain_of(other: Any, rank: int, histories: Any, entry: Int, room: Any, lane: int) -> float:
    """Return ``½ ΔᵀA Δ`` of a short row, rating by rating; what it was becomes Δ."""
    vector, begin = padded(rank), histories.starts[entry]
    change = lane * (vector + 1)
    for k in range(vector + 1):
        room.old[change + k] = room.new[k] - room.old[change + k]
    moved = room.old[change + vector]
    factors = dot(room.old, change, room.old, change, vector)
    total = room.totals[PENALTY * LANES + lane] * factors + room.totals[BIAS_PENALTY * LANES + lane] * moved * moved
    for t in range(length(histories, entry)):
        row = np.int64(histories.others[begin + t])
        difference = moved + dot(other.factors, row * rank, room.old, change, rank)
        total += difference * difference
    return 0.5 * total
