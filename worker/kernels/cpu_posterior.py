"""One row's posterior, compiled: its normal equations gathered or extended, then solved by one elimination.

The matrix ``A = Σ E[x xᵀ] + noise P`` (D × D) lies in rows of `Room.work`, its upper triangle in place, the right-hand side in
column D. Row operations that clear what would be below the diagonal leave their multipliers there: with unit lower triangular
``M`` and the pivots ``d`` it ends as ``M A Mᵀ = diag(d)``, so ``A⁻¹ = Mᵀ diag(1 / d) M`` gives the mean, its variances and the
covariances with the bias in D vector operations each. No pivot is below the prior's share of it, whatever rounding did.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.beliefs import MEETINGS, equations_width, outlook_width
from factorstream.worker.kernels.compiled import Int, bare, inlined, inner
from factorstream.worker.kernels.cpu_fold import padded
from factorstream.worker.kernels.simd import (
    LANES,
    add_first,
    add_half_tile,
    add_scaled,
    all_finite,
    ask_for,
    clear,
    copy,
    copy_bordered,
    copy_padded,
    copy_scaled,
    dot,
    eliminate_below,
    lay_row,
    substitute_all,
    take_number,
)

AHEAD = 4
"""Ratings between asking for rows and using them."""

PANEL = 256
"""Rows gathered before their products are summed."""

ROWS_AT_ONCE = 8
"""Rows that a thread takes."""

GAIN, MISFIT, FACTORS, BIAS, TARGET, WEIGHT = range(6)
"""Columns of what `smooth` tells: the fields of `beliefs.Smoothed`."""

LEAST_INFORMATION = 1e-4
"""Share of the prior's precision below which ratings say nothing of a bias."""

TABLED = 4096
"""Counts whose roots and logarithms are looked up."""

ONE, TWO, NAN = np.float32(1), np.float32(2), np.float32(np.nan)
PSEUDO = np.float32(MEETINGS)


class Tables(NamedTuple):
    """One side, flat."""

    factors: Any
    biases: Any
    equations: Any
    outlook: Any


class Room(NamedTuple):
    """What one row is solved in; flat."""

    work: NDArray[np.float32]
    """``(D, padded(K + 2))`` and one vector more."""
    system: NDArray[np.float32]
    """``(equations_width,)``: the row's equations as they will be."""
    outlook: NDArray[np.float32]
    """``(outlook_width,)``: its variances as they will be; effects are not touched."""
    solution: NDArray[np.float32]
    """``(D,)``."""
    prior: NDArray[np.float32]
    """``(D,)``: the prior's mean."""
    x: NDArray[np.float32]
    panel: NDArray[np.float32]
    """``(PANEL, padded(K + 2))``: other rows as ``[v, 1, y]``."""
    gram: NDArray[np.float32]
    """``(padded(K + 2), padded(K + 2))``: products summed; rows of factors and the bias alone, from the diagonal on."""
    seen: NDArray[np.float32]
    """``(outlook_width,)``: the sum of the other rows' outlooks."""


class Shares(NamedTuple):
    """What a row with n ratings, n below `TABLED`, is multiplied by and added to in `explain`."""

    roots: NDArray[np.float32]
    """``1 / √(n + MEETINGS)``."""
    logs: NDArray[np.float32]
    """``ln (1 + n)``."""


def shares() -> Shares:
    """Return the tables."""
    n = np.arange(TABLED)
    return Shares((1 / np.sqrt(n + MEETINGS)).astype(np.float32), np.log1p(n).astype(np.float32))


def room(rank: int) -> Room:
    """Make room for rows of *rank* factors."""
    vector = -(-(rank + 2) // LANES) * LANES
    sizes = (
        (rank + 1) * vector + 2 * LANES,
        equations_width(rank) + LANES,
        outlook_width(rank) + LANES,
        vector,
        vector,
        vector,
        PANEL * vector,
        vector**2,
        outlook_width(rank) + LANES,
    )
    return Room(*(np.empty(size, np.float32) for size in sizes))


@inlined
def triangle(rank: int) -> int:
    """Return how many numbers the upper triangle of a row's matrix has."""
    return (rank + 1) * (rank + 2) // 2


@inlined
def equations_size(rank: int) -> int:
    """`beliefs.equations_width`."""
    return triangle(rank) + 2 * (rank + 1) + 1


@bare
def learn(
    users: Any, items: Any, batch: Any, intercept: Any, noise: Any, user_prior: Any, item_prior: Any, rooms: Any, foreseen: Any
) -> None:
    """Learn from *batch* in order, as `Filters.filter_batch` says, and fill *foreseen*; *users* and *items* are `Tables`."""
    rank, n = users.factors.shape[0] // users.biases.shape[0], len(batch.ratings)
    for j in range(n):
        if j + AHEAD < n:
            ask(users, np.int64(batch.user_rows[j + AHEAD]), rank)
            ask(items, np.int64(batch.item_rows[j + AHEAD]), rank)
        user, item, rating = np.int64(batch.user_rows[j]), np.int64(batch.item_rows[j]), batch.ratings[j]
        product = dot(users.factors, user * rank, items.factors, item * rank, rank)
        user_bias, item_bias = users.biases[user], items.biases[item]
        error = rating - (intercept + user_bias + item_bias + product)
        foreseen.variances[j] = noise + uncertainty(users, user, items, item, rank)
        changes_user = prepare(
            users, user, np.int64(batch.user_counts[j]), items, item, batch.user_histories, j, rating, intercept, rooms[0], rank
        )
        changes_item = prepare(
            items, item, np.int64(batch.item_counts[j]), users, user, batch.item_histories, j, rating, intercept, rooms[1], rank
        )
        fine = True
        if changes_user:
            fine = solve(rooms[0], np.int64(batch.user_counts[j]), noise, user_prior, rank)
            if fine:
                put(rooms[0], users, user, rank)
        if changes_item:
            if solve(rooms[1], np.int64(batch.item_counts[j]), noise, item_prior, rank):
                put(rooms[1], items, item, rank)
            else:
                fine = False
        foreseen.errors[j] = error if fine else NAN
        foreseen.user_biases[j], foreseen.item_biases[j], foreseen.products[j] = user_bias, item_bias, product


@inlined
def uncertainty(users: Tables, user: Int, items: Tables, item: Int, rank: int) -> Any:
    """Return the variance of a pair's score under both posteriors."""
    up, down = user * (3 * rank + 2), item * (3 * rank + 2)
    total = users.outlook[up + 2 * rank] + items.outlook[down + 2 * rank]
    for k in range(rank):
        u, v = users.factors[user * rank + k], items.factors[item * rank + k]
        of_u, of_v = users.outlook[up + k], items.outlook[down + k]
        total += v * (v * of_u + TWO * users.outlook[up + rank + k]) + u * (u * of_v + TWO * items.outlook[down + rank + k])
        total += of_u * of_v
    return total


@inlined
def ask(side: Tables, row: Int, rank: int) -> None:
    """Ask for all of a row."""
    ask_for(side.factors, row * rank, rank)
    ask_for(side.biases, row, 1)
    ask_for(side.equations, row * equations_size(rank), equations_size(rank))
    ask_for(side.outlook, row * (3 * rank + 2), 3 * rank + 2)


@inner
def prepare(
    own: Any,
    row: Int,
    count: Int,
    other: Any,
    other_row: Int,
    histories: Any,
    j: Int,
    rating: Any,
    intercept: Any,
    room: Any,
    rank: int,
) -> bool:
    """Make the equations of an event's row as they are after it, and its start in `Room.solution`; return whether they change."""
    clear(room.solution, 0, padded(rank + 2))
    begin, end = histories.starts[j], histories.starts[j + 1]
    if end > begin or count == 0:
        gather(other, histories, begin, end, intercept, room, rank)
        return True
    if math.isnan(rating):
        return False
    copy(own.equations, row * equations_size(rank), equations_size(rank), room.system, 0)
    recenter(room.system, intercept, rank)
    extend(room, other, other_row, rating - intercept - other.biases[other_row], rank)
    if count == 1:
        copy(own.factors, row * rank, rank, room.solution, 0)
    return True


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
def extend(room: Any, other: Tables, row: Int, y: Any, rank: int) -> None:
    """Add one rating to the equations; *y* is it without the intercept and the other row's bias."""
    size, outlook = rank + 1, row * (3 * rank + 2)
    copy_padded(other.factors, row * rank, rank, room.x, 0)
    room.x[rank] = ONE
    at = np.int64(0)
    for a in range(size):
        add_scaled(room.system, at, room.x[a], room.x, a, size - a)
        if a < rank:
            room.system[at] += other.outlook[outlook + a]
        at += size - a
    add_scaled(room.system, at, y, room.x, 0, size)
    add_scaled(room.system, at, -ONE, other.outlook, outlook + rank, rank)
    add_scaled(room.system, at + size, ONE, other.outlook, outlook + 2 * rank + 1, size)


@inlined
def gather(other: Tables, histories: Any, begin: Int, end: Int, intercept: Any, room: Any, rank: int) -> Any:
    """Make the equations of a row with the ratings *begin* to *end*; return ``Σ E[y²]``."""
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
            row, place = np.int64(histories.others[t]), (t - first) * vector
            y = histories.ratings[t] - intercept - other.biases[row]
            copy_bordered(other.factors, row * rank, rank, ONE, y, room.panel, place)
            add_first(room.seen, 0, ONE, other.outlook, row * width, width)
            squares += np.float64(y) * np.float64(y)
            total += np.float64(y)
        for i in range(0, rank, LANES // 2):
            for k in range(i & -LANES, vector, LANES):
                add_half_tile(room.panel, stop - first, vector, i, k, room.gram, 0)
    room.gram[rank * vector + rank], room.gram[rank * vector + size] = np.float32(end - begin), np.float32(total)
    at: Int = np.int64(0)
    for a in range(size):
        copy(room.gram, a * vector + a, size - a, room.system, at)
        if a < rank:
            room.system[at] += room.seen[a]
        at += size - a
    for a in range(size):
        room.system[at + a] = room.gram[a * vector + size]
        if a < rank:
            room.system[at + a] -= room.seen[rank + a]
    copy(room.seen, 2 * rank + 1, size, room.system, at + size)
    room.system[at + 2 * size] = intercept
    return squares + np.float64(room.seen[2 * rank])


@inner
def solve(room: Any, count: Int, noise: Any, prior: Any, rank: int) -> bool:
    """Solve `Room.system`, into solution and outlook; return whether all of it is finite. The solution holds the row's start."""
    size, vector = rank + 1, padded(rank + 2)
    set_prior(room, count, prior, rank)
    fill(room, noise / prior.factors, noise / prior.bias, rank)
    eliminate(room, noise / prior.factors, noise / prior.bias, rank)
    substitute_all(room.work, size, vector, room.x, noise, room.solution, room.outlook)
    inverse = noise * room.x[rank]
    copy_scaled(room.work, rank * vector, inverse, rank, room.outlook, rank)
    room.outlook[2 * rank] = inverse
    return (
        all_finite(room.solution, 0, size)
        and all_finite(room.outlook, 0, 2 * rank + 1)
        and all_finite(room.system, 0, equations_size(rank))
    )


@inlined
def set_prior(room: Any, count: Int, prior: Any, rank: int) -> None:
    """Set the prior's mean: the row's start, what the rows met add, and the level of its bias."""
    n = np.float32(count)
    copy_padded(room.solution, 0, rank, room.prior, 0)
    room.prior[rank] = np.float32(0)
    add_first(room.prior, 0, ONE / np.sqrt(n + PSEUDO), room.system, triangle(rank) + rank + 1, rank + 1)
    room.prior[rank] += prior.level
    if prior.slope != 0:
        room.prior[rank] += prior.slope * np.log1p(n)


@inlined
def fill(room: Any, factor_weight: Any, bias_weight: Any, rank: int) -> None:
    """Lay out the matrix and the right-hand side with the prior's share in them."""
    size, vector, at, right = rank + 1, padded(rank + 2), np.int64(0), triangle(rank)
    for a in range(size):
        weight = factor_weight if a < rank else bias_weight
        target = room.system[right + a] + weight * room.prior[a]
        lay_row(room.system, at, a, size, weight, target, room.work, a * vector, vector)
        at += size - a


@inlined
def eliminate(room: Any, factor_weight: Any, bias_weight: Any, rank: int) -> None:
    """Clear the matrix below its diagonal; the inverse pivots go to ``Room.x``, the multipliers where zeros would be."""
    size, vector = rank + 1, padded(rank + 2)
    for k in range(size):
        least = factor_weight if k < rank else bias_weight
        inverse = ONE / max(room.work[k * vector + k], least)
        room.x[k] = inverse
        eliminate_below(room.work, k, size, inverse, vector)


@inlined
def put(room: Any, side: Tables, row: Int, rank: int) -> None:
    """Write a solved row to its tables."""
    copy(room.solution, 0, rank, side.factors, row * rank)
    side.biases[row] = room.solution[rank]
    copy(room.system, 0, equations_size(rank), side.equations, row * equations_size(rank))
    copy(room.outlook, 0, 2 * rank + 1, side.outlook, row * (3 * rank + 2))


@bare
def smooth(
    own: Any, other: Any, rows: Any, histories: Any, counter: Any, intercept: Any, noise: Any, prior: Any, room: Any, told: Any
) -> None:
    """Solve rows, some at a time, each time those that no thread has taken; fill *told* ``(len(rows), 6)``."""
    rank = own.factors.shape[0] // own.biases.shape[0]
    while True:
        first = take_number(counter) * ROWS_AT_ONCE
        if first >= len(rows):
            return
        for j in range(first, min(first + ROWS_AT_ONCE, len(rows))):
            if j + 1 < len(rows):
                ask(own, np.int64(rows[j + 1]), rank)
            smooth_row(own, np.int64(rows[j]), other, histories, j, intercept, noise, prior, room, told, rank)


@inner
def smooth_row(
    own: Any,
    row: Int,
    other: Any,
    histories: Any,
    j: Int,
    intercept: Any,
    noise: Any,
    prior: Any,
    room: Any,
    told: Any,
    rank: int,
) -> None:
    """Solve one row."""
    begin, end = histories.starts[j], histories.starts[j + 1]
    squares = gather(other, histories, begin, end, intercept, room, rank)
    clear(room.solution, 0, padded(rank + 2))
    if solve(room, end - begin, noise, prior, rank):
        tell(own, row, end - begin, squares, noise, prior, room, told, j, rank)
        put(room, own, row, rank)


@inlined
def tell(
    own: Tables, row: Int, count: Int, squares: float, noise: Any, prior: Any, room: Any, told: Any, j: Int, rank: int
) -> None:
    """Fill entry *j* of *told* from a solved row, before it is written."""
    size = rank + 1
    explained, strayed, variances, off = 0.0, 0.0, 0.0, 0.0
    for a in range(rank):
        mean = np.float64(room.solution[a])
        away = mean - np.float64(room.prior[a])
        explained += mean * np.float64(room.system[triangle(rank) + a])
        strayed += mean * away
        off += away * away
        variances += np.float64(room.outlook[a])
    mean, variance = np.float64(room.solution[rank]), np.float64(room.outlook[2 * rank])
    away, precision = mean - np.float64(room.prior[rank]), 1.0 / np.float64(prior.bias)
    explained += mean * np.float64(room.system[triangle(rank) + rank])
    told[j, FACTORS], told[j, BIAS] = off + variances, away * away + variance
    # Σ E[(y − x·w)²], with the solved equations in the place of the quadratic form
    unexplained = size - (strayed + variances) / np.float64(prior.factors) - (mean * away + variance) * precision
    told[j, MISFIT] = squares - explained + noise * unexplained
    weigh_bias(variance, np.float64(prior.bias), mean, np.float64(room.prior[rank]), count, room, told, j, rank)
    told[j, GAIN] = gained(own, row, noise, prior, room, rank)


@inlined
def weigh_bias(
    variance: float, prior_variance: float, mean: float, prior_mean: float, count: Int, room: Any, told: Any, j: Int, rank: int
) -> None:
    """Tell what the ratings alone say of a row's bias."""
    information = 1.0 / variance - 1.0 / prior_variance
    if information * prior_variance > LEAST_INFORMATION:
        alone = (mean / variance - prior_mean / prior_variance) / information
        met = np.float64(room.system[triangle(rank) + 2 * rank + 1])
        told[j, TARGET] = alone - met / math.sqrt(count + MEETINGS)
        told[j, WEIGHT] = 1.0 / (1.0 / information + prior_variance)


@inlined
def gained(own: Tables, row: Int, noise: Any, prior: Any, room: Any, rank: int) -> float:
    """Return ``½ Δᵀ A Δ`` of a solved row, before it is written; ∞ if it was not finite."""
    size, at, total = rank + 1, np.int64(0), 0.0
    for a in range(rank):
        room.x[a] = room.solution[a] - own.factors[row * rank + a]
    room.x[rank] = room.solution[rank] - own.biases[row]
    for a in range(size):
        change, weight = room.x[a], noise / (prior.factors if a < rank else prior.bias)
        products = dot(room.system, at, room.x, a, size - a)
        total += np.float64(change) * (2.0 * products - (room.system[at] - weight) * change)
        at += size - a
    return 0.5 * total if math.isfinite(total) else math.inf


@bare
def explain(
    outlook: Any,
    other: Any,
    rows: Any,
    histories: Any,
    counts: Any,
    factor_ridge: Any,
    bias_ridge: Any,
    prior: Any,
    shares: Any,
    room: Any,
) -> None:
    """Re-estimate effects, as `Filters.explain` says; *outlook* is the rows' own, ridges are relative to the rows met."""
    rank = other.factors.shape[0] // other.biases.shape[0]
    for j in range(len(rows)):
        explain_row(outlook, np.int64(rows[j]), other, histories, j, counts, factor_ridge, bias_ridge, prior, shares, room, rank)


@inner
def explain_row(
    outlook: Any,
    row: Int,
    other: Any,
    histories: Any,
    j: Int,
    counts: Any,
    factor_ridge: Any,
    bias_ridge: Any,
    prior: Any,
    shares: Any,
    room: Any,
    rank: int,
) -> None:
    """Take the coordinate step of one row's effects."""
    size, width, met = rank + 1, equations_size(rank), triangle(rank) + rank + 1
    begin, end = histories.starts[j], histories.starts[j + 1]
    clear(room.x, 0, padded(size))
    squares = np.float32(0)
    for t in range(begin, end):
        if t + AHEAD < len(histories.others):
            ahead = np.int64(histories.others[t + AHEAD])
            ask_for(other.biases, ahead, 1)
            ask_for(other.factors, ahead * rank, rank)
            ask_for(other.equations, ahead * width + met, size)
        row_met = np.int64(histories.others[t])
        n = np.int64(counts[row_met])
        if n < TABLED:
            share, log = shares.roots[n], shares.logs[n]
        else:
            share, log = ONE / np.sqrt(np.float32(n) + PSEUDO), np.log1p(np.float32(n))
        add_first(room.x, 0, share, other.factors, row_met * rank, rank)
        add_first(room.x, 0, -share * share, other.equations, row_met * width + met, size)
        room.x[rank] += share * (other.biases[row_met] - prior.level - prior.slope * log)
        squares += share * share
    effects = row * (3 * rank + 2) + 2 * rank + 1
    for a in range(size):
        ridge = factor_ridge if a < rank else bias_ridge
        room.x[a] = (room.x[a] - ridge * outlook[effects + a]) / (squares + ridge)
    if not all_finite(room.x, 0, size):
        return
    add_scaled(outlook, effects, ONE, room.x, 0, size)
    for t in range(begin, end):
        add_scaled(other.equations, np.int64(histories.others[t]) * width + met, ONE, room.x, 0, size)
