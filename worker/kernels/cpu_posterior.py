"""The posterior's kernels, compiled: events one after another, rows solved from all that they hold, effects of rows met.

`cpu_posterior_solve` says how a row is solved, and why several are side by side.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.beliefs import MEETINGS
from factorstream.worker.kernels.compiled import Int, bare, inlined, prefetch
from factorstream.worker.kernels.cpu_fold import padded
from factorstream.worker.kernels.cpu_posterior_solve import (
    AHEAD,
    ONE,
    PSEUDO,
    Room,
    Tables,
    ask,
    equations_size,
    extend,
    gather,
    is_fine,
    pack,
    put,
    ready,
    room_of,
    set_prior,
    solve,
    triangle,
)
from factorstream.worker.kernels.simd import (
    add_blend,
    add_scaled,
    all_finite,
    ask_for,
    clear,
    copy_padded,
    dot,
    quadratic_form,
    take_number,
)

GAIN, MISFIT, FACTORS, BIAS, TARGET, WEIGHT = range(6)
"""Columns of what `smooth` tells: the fields of `beliefs.Smoothed`."""

LEAST_INFORMATION = 1e-4
"""Share of the prior's precision below which ratings say nothing of a bias."""

TABLED = 4096
"""Counts whose roots and logarithms are looked up."""

TWO, NAN = np.float32(2), np.float32(np.nan)


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


class Group(NamedTuple):
    """Rows that events change which share no row: one entry for each row."""

    events: NDArray[np.int64]
    sides: NDArray[np.int64]
    """Whether the row is the event's user (0) or its item (1)."""
    whole: NDArray[np.bool_]
    """Whether the row was gathered from its history; else it is to be extended by one rating."""


class View(NamedTuple):
    """An event as one of its rows sees it."""

    own: Any
    row: Any
    other: Any
    other_row: Any
    count: Any
    histories: Any


def group(rooms: Room) -> Group:
    """Make room for what is learned in *rooms*."""
    n = len(rooms.work)
    return Group(np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.bool_))


@bare
def learn(
    users: Any,
    items: Any,
    batch: Any,
    intercept: Any,
    noise: Any,
    user_prior: Any,
    item_prior: Any,
    rooms: Any,
    panel: Any,
    group: Any,
    foreseen: Any,
) -> None:
    """Learn from *batch* in order, as `Filters.filter_batch` says, and fill *foreseen*; *users* and *items* are `Tables`.

    Events that follow each other and share no row are learned together: none can tell.
    """
    rank, n = users.factors.shape[0] // users.biases.shape[0], len(batch.ratings)
    stop: Int = np.int64(0)
    while stop < n:
        first = stop
        stop = end_of_group(batch, first, n, len(rooms.work) >> 1)
        for j in range(first, stop):
            foresee(users, items, batch, j, n, intercept, noise, foreseen, rank)
        n_rows = begin_rows(users, items, batch, first, stop, intercept, rooms, panel, group, rank)
        extend_rows(users, items, batch, n_rows, intercept, rooms, group, rank)
        for r in range(n_rows):
            view = view_of(users, items, batch, group.events[r], group.sides[r])
            set_prior(room_of(rooms, r), view.count, noise, item_prior if group.sides[r] else user_prior, rank)
        solve(rooms, n_rows, noise, rank)
        for r in range(n_rows):
            view = view_of(users, items, batch, group.events[r], group.sides[r])
            if is_fine(room_of(rooms, r), rank):
                put(room_of(rooms, r), view.own, view.row, rank)
            else:
                foreseen.errors[group.events[r]] = NAN


@inlined
def end_of_group(batch: Any, first: Int, n: Int, most: Int) -> Int:
    """Return where a group of at most *most* events from *first* on ends that share no row.

    What an event with a history reads are other rows too: it begins a group.
    """
    stop: Int = first + 1
    while stop < n and stop - first < most:
        of_user, of_item = batch.user_histories.starts, batch.item_histories.starts
        if of_user[stop + 1] > of_user[stop] or of_item[stop + 1] > of_item[stop]:
            return stop
        for j in range(first, stop):
            if batch.user_rows[j] == batch.user_rows[stop] or batch.item_rows[j] == batch.item_rows[stop]:
                return stop
        stop += 1
    return stop


@inlined
def view_of(users: Tables, items: Tables, batch: Any, j: Int, side: Int) -> View:
    """Return event *j* as its user sees it, or its item."""
    user, item = np.int64(batch.user_rows[j]), np.int64(batch.item_rows[j])
    if side:
        return View(items, item, users, user, np.int64(batch.item_counts[j]), batch.item_histories)
    return View(users, user, items, item, np.int64(batch.user_counts[j]), batch.user_histories)


@inlined
def foresee(
    users: Tables, items: Tables, batch: Any, j: Int, n: Int, intercept: Any, noise: Any, foreseen: Any, rank: int
) -> None:
    """Tell what is expected of an event, and ask for the rows of another soon to come."""
    if j + AHEAD < n:
        ask(users, np.int64(batch.user_rows[j + AHEAD]), rank)
        ask(items, np.int64(batch.item_rows[j + AHEAD]), rank)
    user, item = np.int64(batch.user_rows[j]), np.int64(batch.item_rows[j])
    product = dot(users.factors, user * rank, items.factors, item * rank, rank)
    user_bias, item_bias = users.biases[user], items.biases[item]
    foreseen.errors[j] = batch.ratings[j] - (intercept + user_bias + item_bias + product)
    foreseen.variances[j] = noise + uncertainty(users, user, items, item, rank)
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
def begin_rows(
    users: Tables,
    items: Tables,
    batch: Any,
    first: Int,
    stop: Int,
    intercept: Any,
    rooms: Room,
    panel: Any,
    group: Group,
    rank: int,
) -> Int:
    """Take the rows that events *first* to *stop* change into *group*, gathered or ready to be extended; return their number."""
    n = np.int64(0)
    for k in range(2 * first, 2 * stop):
        j, side, room = k >> 1, k & 1, room_of(rooms, n)
        view = view_of(users, items, batch, j, side)
        start, end = view.histories.starts[j], view.histories.starts[j + 1]
        whole = end > start or view.count == 0
        if not whole and math.isnan(batch.ratings[j]):
            continue
        clear(room.solution, 0, padded(rank + 2))
        if whole:
            gather(view.other, view.histories, start, end, intercept, room, panel, rank)
            pack(room, intercept, rank)
        else:
            ready(view.own, view.row, view.count, view.other, view.other_row, intercept, room, rank)
        group.events[n], group.sides[n], group.whole[n] = j, side, whole
        n += 1
    return n


@inlined
def extend_rows(users: Tables, items: Tables, batch: Any, n: Int, intercept: Any, rooms: Room, group: Group, rank: int) -> None:
    """Add their ratings to the rows that are ready for it; by now what `ready` stored can be read in another shape."""
    for r in range(n):
        if not group.whole[r]:
            view = view_of(users, items, batch, group.events[r], group.sides[r])
            y = batch.ratings[group.events[r]] - intercept - view.other.biases[view.other_row]
            extend(room_of(rooms, r), view.other, view.other_row, y, rank)


@bare
def smooth(
    own: Any,
    other: Any,
    rows: Any,
    histories: Any,
    counter: Any,
    intercept: Any,
    noise: Any,
    prior: Any,
    rooms: Any,
    panel: Any,
    told: Any,
) -> None:
    """Solve rows, some at a time, each time those that no thread has taken; fill *told* ``(len(rows), 6)``."""
    rank = own.factors.shape[0] // own.biases.shape[0]
    while True:
        first = take_number(counter) * len(rooms.work)
        if first >= len(rows):
            return
        n = min(len(rooms.work), len(rows) - first)
        for r in range(n):
            ask(own, np.int64(rows[first + r]), rank)
            gather(
                other,
                histories,
                histories.starts[first + r],
                histories.starts[first + r + 1],
                intercept,
                room_of(rooms, r),
                panel,
                rank,
            )
        for r in range(n):
            room = room_of(rooms, r)
            pack(room, intercept, rank)
            clear(room.solution, 0, padded(rank + 2))
        for r in range(n):
            set_prior(room_of(rooms, r), histories.starts[first + r + 1] - histories.starts[first + r], noise, prior, rank)
        solve(rooms, n, noise, rank)
        for r in range(n):
            room, row, j = room_of(rooms, r), np.int64(rows[first + r]), first + r
            if is_fine(room, rank):
                tell(own, row, histories.starts[j + 1] - histories.starts[j], noise, prior, room, told, j, rank)
                put(room, own, row, rank)


@inlined
def tell(own: Tables, row: Int, count: Int, noise: Any, prior: Any, room: Room, told: Any, j: Int, rank: int) -> None:
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
    told[j, MISFIT] = room.squares[0] - explained + noise * unexplained
    weigh_bias(variance, np.float64(prior.bias), mean, np.float64(room.prior[rank]), count, room, told, j, rank)
    told[j, GAIN] = gained(own, row, room, rank)


@inlined
def weigh_bias(
    variance: float, prior_variance: float, mean: float, prior_mean: float, count: Int, room: Room, told: Any, j: Int, rank: int
) -> None:
    """Tell what the ratings alone say of a row's bias."""
    information = 1.0 / variance - 1.0 / prior_variance
    if information * prior_variance > LEAST_INFORMATION:
        alone = (mean / variance - prior_mean / prior_variance) / information
        met = np.float64(room.system[triangle(rank) + 2 * rank + 1])
        told[j, TARGET] = alone - met / math.sqrt(count + MEETINGS)
        told[j, WEIGHT] = 1.0 / (1.0 / information + prior_variance)


@inlined
def gained(own: Tables, row: Int, room: Room, rank: int) -> float:
    """Return ``½ Δᵀ A Δ`` of a solved row, before it is written; ∞ if it was not finite."""
    copy_padded(own.factors, row * rank, rank, room.x, 0)
    room.x[rank] = own.biases[row]
    for a in range(rank + 1):
        room.x[a] = room.solution[a] - room.x[a]
    change = room.x[rank]
    total = np.float64(quadratic_form(room.system, 0, rank + 1, room.x)) + np.float64(room.weights[1] * change * change)
    total += np.float64(room.weights[0] * dot(room.x, 0, room.x, 0, rank))
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
    step: Any,
) -> None:
    """Re-estimate effects, as `Filters.explain` says; *outlook* is the rows' own, ridges are relative to the rows met.

    *step* is scratch, ``(padded(K + 2),)``.
    """
    rank = other.factors.shape[0] // other.biases.shape[0]
    for j in range(len(rows)):
        explain_row(outlook, np.int64(rows[j]), other, histories, j, counts, factor_ridge, bias_ridge, prior, shares, step, rank)


@inlined
def explain_row(
    outlook: Any,
    row: Int,
    other: Tables,
    histories: Any,
    j: Int,
    counts: Any,
    factor_ridge: Any,
    bias_ridge: Any,
    prior: Any,
    shares: Shares,
    step: Any,
    rank: int,
) -> None:
    """Take the coordinate step of one row's effects."""
    size, width, met = rank + 1, equations_size(rank), triangle(rank) + rank + 1
    begin, end = histories.starts[j], histories.starts[j + 1]
    clear(step, 0, padded(size))
    squares = biases = np.float32(0)
    for t in range(begin, end):
        if t + AHEAD < len(histories.others):
            ahead = np.int64(histories.others[t + AHEAD])
            prefetch(counts, ahead)
            ask_for(other.biases, ahead, 1)
            ask_for(other.factors, ahead * rank, rank)
            ask_for(other.equations, ahead * width + met, size)
        row_met = np.int64(histories.others[t])
        n = np.int64(counts[row_met])
        if n < TABLED:
            share, log = shares.roots[n], shares.logs[n]
        else:
            share, log = ONE / np.sqrt(np.float32(n) + PSEUDO), np.log1p(np.float32(n))
        add_blend(step, share, other.factors, row_met * rank, rank, -share * share, other.equations, row_met * width + met, size)
        biases += share * (other.biases[row_met] - prior.level - prior.slope * log)
        squares += share * share
    step[rank] += biases
    effects = row * (3 * rank + 2) + 2 * rank + 1
    for a in range(size):
        ridge = factor_ridge if a < rank else bias_ridge
        step[a] = (step[a] - ridge * outlook[effects + a]) / (squares + ridge)
    if not all_finite(step, 0, size):
        return
    add_scaled(outlook, effects, ONE, step, 0, size)
    for t in range(begin, end):
        add_scaled(other.equations, np.int64(histories.others[t]) * width + met, ONE, step, 0, size)
