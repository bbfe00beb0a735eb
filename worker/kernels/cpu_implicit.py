"""Confidence-weighted least squares over all pairs, compiled: exact rows, `LANES` systems of equations at a time, one a lane.

As in `cpu_als`, but each row's system begins with the Gram matrix of the whole other side, and only the pairs with a rating
are added to it: ``(VᵀV + Σ α x v vᵀ + λ I) Δu = h`` with ``h = Σ (1 + α x − α x s) v − (VᵀV + λ I) u``, s and u being the row's
as it is. Solving for the change makes a sweep refine what the last one left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.compiled import LANES, Int, bare, inlined
from factorstream.worker.kernels.cpu_als import AHEAD, PANEL, factor, length, turn
from factorstream.worker.kernels.cpu_fold import padded
from factorstream.worker.kernels.simd import (
    BLOCK,
    add_border,
    add_scaled,
    add_tile,
    all_finite,
    ask_for,
    clear,
    copy_padded,
    copy_scaled,
    dot,
    substitute_up,
    take_number,
)

WEAK = np.float32(1e-5)
"""A pivot that shrinks below this share of its diagonal has lost too many of float32's digits: float64 has to do it."""

LEAST = np.float32(1e-30)
"""Of a pair's weight: its root divides the target."""

ONE = np.float32(1)

GAIN, WEAKNESS, PENALTY = range(3)
"""Rows of `Room.totals`: h·A⁻¹h, what a lane's weakest pivot lost, and its λ."""


class Room(NamedTuple):
    """What one thread works on; flat."""

    gathered: NDArray[np.float32]
    """``(panel, padded(K))``: rows of the other side, each times the root of its weight."""
    targets: NDArray[np.float32]
    """``(panel,)``: what they add to h, over that root."""
    systems: NDArray[np.float32]
    """``(LANES, padded(K) + 2, padded(K))``: each row's matrix, and h below it; the last line means nothing."""
    lanes: NDArray[np.float32]
    """The same, one system a lane (`simd.Lanes`)."""
    diagonal: NDArray[np.float32]
    """``(K, LANES)``, as it was before it was factored."""
    solution: NDArray[np.float32]
    """``(K, LANES)``."""
    old: NDArray[np.float32]
    """``(LANES, padded(K))``: rows as they were."""
    new: NDArray[np.float32]
    """``(padded(K),)``."""
    totals: NDArray[np.float32]
    """``(3, LANES)``."""


def room(rank: int) -> Room:
    """Make room for one thread."""
    vector, height = -(-rank // LANES) * LANES, -(-rank // BLOCK) * BLOCK
    panel = max(vector, PANEL // vector)
    triangle = (height + 2) * (height + 3) // 2
    column = height * LANES
    sizes = (
        panel * vector,
        panel,
        LANES * (vector + 2) * vector,
        (triangle + LANES) * LANES,
        column,
        column,
        LANES * vector,
        vector,
        3 * LANES,
    )
    return Room(*(np.zeros(size, np.float32) for size in sizes))


def groups(entries: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return ``(n, LANES)`` of *entries* to solve together, −1 where a lane is empty; long ones are dealt out, one to a group."""
    entries = entries[np.argsort(-counts[entries], kind="stable")]
    filled = np.append(entries, np.full(-len(entries) % LANES, -1)).astype(np.int32)
    return np.ascontiguousarray(filled.reshape(LANES, -1).T)


def padded_gram(gram: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return *gram* as ``(padded(K), padded(K))`` float32, flat, zeros around it."""
    rank = len(gram)
    vector = -(-rank // LANES) * LANES
    found = np.zeros((vector, vector), np.float32)
    found[:rank, :rank] = gram
    return found.reshape(-1)


@bare
def solve_groups(
    own: Any,
    other: Any,
    rows: Any,
    histories: Any,
    groups: Any,
    counter: Any,
    gram: Any,
    alpha: Any,
    penalties: Any,
    room: Any,
    gains: Any,
    careful: Any,
) -> None:
    """Solve one group after another, each the next that no thread has taken, until none is left; factors are flat.

    Fills *gains*, and *careful* where a row needs more than float32 and stays as it is.
    """
    while True:
        number = take_number(counter)
        if number >= groups.shape[0]:
            return
        solve_group(own, other, rows, histories, groups[number], gram, alpha, penalties, room, gains, careful)


@inlined
def solve_group(
    own: Any,
    other: Any,
    rows: Any,
    histories: Any,
    group: Any,
    gram: Any,
    alpha: Any,
    penalties: Any,
    room: Any,
    gains: Any,
    careful: Any,
) -> None:
    """Solve the rows of one group, as many as it has."""
    rank = own.factors.shape[0] // own.biases.shape[0]
    vector, height = padded(rank), (rank + BLOCK - 1) // BLOCK * BLOCK
    for lane in range(LANES):
        room.totals[PENALTY * LANES + lane] = 1
        system = lane * (vector + 2) * vector
        copy_padded(gram, 0, vector * vector, room.systems, system)
        clear(room.systems, system + vector * vector, 2 * vector)
        if group[lane] >= 0:
            load_old(own, np.int64(rows[group[lane]]) * rank, rank, room, lane)
            room.totals[PENALTY * LANES + lane] = penalties[group[lane]]
            sum_row(other, rank, histories, group[lane], gram, alpha, penalties[group[lane]], room, lane)
    turn(room, vector, height)
    add_penalties(room, rank, height)
    factor(room.lanes, height)
    take_border(room, height)
    for p in range(height - 1, -1, -1):
        substitute_up(room.lanes, p, room.solution)
    for lane in range(LANES):
        if group[lane] >= 0:
            finish(own, rank, np.int64(rows[group[lane]]), histories, group[lane], room, lane, gains, careful)


@inlined
def load_old(own: Any, at: Int, rank: int, room: Any, lane: int) -> None:
    """Keep a row as it is; all zeros when it is not finite."""
    vector = padded(rank)
    copy_padded(own.factors, at, rank, room.old, lane * vector)
    if not all_finite(room.old, lane * vector, vector):
        clear(room.old, lane * vector, vector)


@inlined
def sum_row(other: Any, rank: int, histories: Any, entry: Int, gram: Any, alpha: Any, penalty: Any, room: Any, lane: int) -> None:
    """Add a row's pairs to its system, and below it h."""
    vector = padded(rank)
    panel, system, old = len(room.targets), lane * (vector + 2) * vector, lane * vector
    border = system + vector * vector
    begin, end = histories.starts[entry], histories.starts[entry + 1]
    while begin < end:
        n = min(panel, end - begin)
        for t in range(n):
            if t + AHEAD < n:
                ask_for(other.factors, np.int64(histories.others[begin + t + AHEAD]) * rank, rank)
            at = np.int64(histories.others[begin + t]) * rank
            strength = histories.ratings[begin + t]
            weight = max(alpha * strength, LEAST)
            root = np.sqrt(weight) if strength > 0 else np.float32(0)
            score = dot(other.factors, at, room.old, old, rank)
            room.targets[t] = (ONE + weight - weight * score) / root if strength > 0 else np.float32(0)
            copy_scaled(other.factors, at, root, rank, room.gathered, t * vector)
        for i in range(0, vector, LANES):
            for j in range(0, i + 1, LANES):
                add_tile(room.gathered, n, vector, i, j, room.systems, system)
            add_border(room.gathered, room.targets, n, vector, i, room.systems, border)
        begin += n
    for k in range(rank):
        add_scaled(room.systems, border, -room.old[old + k], gram, k * vector, vector)
    add_scaled(room.systems, border, -penalty, room.old, old, vector)


@inlined
def add_penalties(room: Any, rank: int, height: int) -> None:
    """Add λ to every lane's diagonal, and make what is beyond K the identity."""
    for k in range(height):
        place = k * (k + 3) // 2 * LANES
        for lane in range(LANES):
            room.lanes[place + lane] += room.totals[PENALTY * LANES + lane] if k < rank else ONE
            room.diagonal[k * LANES + lane] = room.lanes[place + lane]


@inlined
def take_border(room: Any, height: int) -> None:
    """Move h, which forward substitution has finished, into ``solution``; add up what it gains and what pivots lost."""
    lanes, totals = room.lanes, room.totals
    left = height * (height + 1) // 2 * LANES
    for at in range(2 * LANES):
        totals[at] = 0
    for k in range(height):
        for lane in range(LANES):
            h = lanes[left + k * LANES + lane]
            inverse = lanes[k * (k + 3) // 2 * LANES + lane]
            room.solution[k * LANES + lane] = h
            totals[GAIN * LANES + lane] += h * h
            lost = inverse * inverse * room.diagonal[k * LANES + lane]
            # a pivot below zero has a root that is NaN, which must stay
            totals[WEAKNESS * LANES + lane] = totals[WEAKNESS * LANES + lane] if lost <= totals[WEAKNESS * LANES + lane] else lost


@inlined
def finish(own: Any, rank: int, row: Int, histories: Any, entry: Int, room: Any, lane: int, gains: Any, careful: Any) -> None:
    """Write a lane's row and by how much it lowered the objective, or mark it."""
    vector, new = padded(rank), room.new
    clear(new, 0, vector)
    if length(histories, entry) > 0:
        for k in range(rank):
            new[k] = room.old[lane * vector + k] + room.solution[k * LANES + lane]
    if not (room.totals[WEAKNESS * LANES + lane] <= ONE / WEAK and all_finite(new, 0, vector)):
        careful[entry] = True
        return
    whole = all_finite(own.factors, row * rank, rank)
    gains[entry] = 0.5 * room.totals[GAIN * LANES + lane] if whole else np.inf
    for k in range(rank):
        own.factors[row * rank + k] = new[k]
