"""Reading the rating store: rows in canonical order (ascending by other row), whatever has been merged so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.compiled import Int, bare, inlined, plain
from factorstream.worker.kernels.store import USERS, Store, entry_in, is_held, row_in
from factorstream.worker.kernels.store_chain import chain_length, collect, put_in_order

HELD_ONLY, TOMBSTONES_TOO = plain(0), plain(1)
BEHIND_ALL = np.iinfo(np.int32).max


@bare
def row_size(store: Store, side: Int, row: Int) -> Int:
    """Return how many pairs a row has at most, tombstones and forgotten ones included."""
    record = (store.by_user if side == USERS else store.by_item).rows[row]
    return record.length + chain_length(store, side, record.head_0) + chain_length(store, side, record.head_1)


@inlined
def is_read(rating: np.float32, tombstones: Int) -> bool | np.bool:
    """Whether a pair is a rating held, or a tombstone when those are asked for."""
    return is_held(rating) or (tombstones == TOMBSTONES_TOO and np.isnan(rating))


@inlined
def read_row(
    store: Store,
    side: Int,
    row: Int,
    tombstones: Int,
    others: NDArray[np.int32],
    ratings: NDArray[np.float32],
    times: NDArray[np.int64],
    n: Int,
) -> Int:
    """Append a row to the first *n* of the columns, ascending by other row; return how many there are then.

    *times* may be empty (`by_item.times` is), and must be for items.
    """
    index, timed = store.by_user if side == USERS else store.by_item, times.size > 0
    record = index.rows[row]
    n_new = collect(store, side, record.head_1, collect(store, side, record.head_0, np.int64(0)))
    put_in_order(store, n_new)
    at, stop = record.start, record.start + record.length
    for k in range(n_new + 1):
        until = row_in(store.keys[k]) if k < n_new else np.int64(BEHIND_ALL)
        while at < stop and index.others[at] < until:
            if is_read(index.ratings[at], tombstones):
                others[n], ratings[n] = index.others[at], index.ratings[at]
                if timed:
                    times[n] = index.times[at]
                n += 1
            at += 1
        if k < n_new:
            entry = store.log[entry_in(store.keys[k])]
            if is_read(entry.rating, tombstones):
                others[n], ratings[n] = until, entry.rating
                if timed:
                    times[n] = entry.time_ms
                n += 1
    return n


@bare
def read_rows(
    store: Store,
    side: Int,
    rows: NDArray[np.int32],
    others: NDArray[np.int32],
    ratings: NDArray[np.float32],
) -> None:
    """Fill the columns with the ratings held by *rows*, one row after another."""
    n: Int = np.int64(0)
    for row in rows:
        n = read_row(store, side, np.int64(row), HELD_ONLY, others, ratings, store.by_item.times, n)


@bare
def read_pairs_of(store: Store, side: Int, row: Int, others: NDArray[np.int32], ratings: NDArray[np.float32]) -> Int:
    """Fill the columns with the pairs of one row, tombstones included; return their number."""
    return read_row(store, side, np.int64(row), TOMBSTONES_TOO, others, ratings, store.by_item.times, np.int64(0))


@bare
def count_pairs(store: Store, first: Int, stop: Int) -> Int:
    """Return an upper bound of the pairs of users ``first .. stop - 1``."""
    n: Int = np.int64(0)
    for row in range(first, stop):
        n += row_size(store, USERS, row)
    return n


@bare
def read_pairs(
    store: Store,
    first: Int,
    stop: Int,
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    ratings: NDArray[np.float32],
    times: NDArray[np.int64],
) -> Int:
    """Fill the columns with all pairs of users ``first .. stop - 1``, tombstones included; return their number."""
    n: Int = np.int64(0)
    for row in range(first, stop):
        end = read_row(store, USERS, row, TOMBSTONES_TOO, items, ratings, times, n)
        users[n:end] = row
        n = end
    return n


@inlined
def read_newest(store: Store, user: Int, limit: Int, items: NDArray[np.int32], times: NDArray[np.int64], n: Int) -> Int:
    """Append the user's newest items, newest first, at most *limit*, to the first *n* of the columns; return how many are there.

    Equal times: the larger item row first.
    """
    row, first = store.by_user.rows[user], n
    for at in range(row.start, row.start + row.length):
        if is_held(store.by_user.ratings[at]):
            n = offer(items, times, first, n, limit, store.by_user.others[at], store.by_user.times[at])
    for head in (row.head_0, row.head_1):
        while head:
            entry = store.log[head]
            if is_held(entry.rating):
                n = offer(items, times, first, n, limit, entry.item, entry.time_ms)
            head = entry.next_of_user
    for end in range(n - 1, first, -1):
        item, time_ms = items[end], times[end]
        items[end], times[end] = items[first], times[first]
        sink(items, times, first, end - first, item, time_ms)
    return n


@inlined
def offer(items: NDArray[np.int32], times: NDArray[np.int64], first: Int, n: Int, limit: Int, item: Int, time_ms: Int) -> Int:
    """Keep an item in the heap from *first* to before *n*, oldest on top, if it is among the newest *limit*; return its end."""
    if n - first == limit:
        if limit and (time_ms, item) > (times[first], items[first]):
            sink(items, times, first, limit, item, time_ms)
        return n
    at = n - first
    while at > 0:
        above = (at - 1) >> 1
        if (times[first + above], items[first + above]) <= (time_ms, item):
            break
        items[first + at], times[first + at] = items[first + above], times[first + above]
        at = above
    items[first + at], times[first + at] = item, time_ms
    return n + 1


@inlined
def sink(items: NDArray[np.int32], times: NDArray[np.int64], first: Int, n: Int, item: Int, time_ms: Int) -> None:
    """Put an item in the place of the top of a heap of *n*."""
    at = 0
    while 2 * at + 1 < n:
        below = 2 * at + 1
        if below + 1 < n and (times[first + below + 1], items[first + below + 1]) < (times[first + below], items[first + below]):
            below += 1
        if (time_ms, item) <= (times[first + below], items[first + below]):
            break
        items[first + at], times[first + at] = items[first + below], times[first + below]
        at = below
    items[first + at], times[first + at] = item, time_ms


@bare
def read_newest_of_all(
    store: Store,
    users: NDArray[np.int32],
    limit: Int,
    starts: NDArray[np.int64],
    items: NDArray[np.int32],
    times: NDArray[np.int64],
) -> None:
    """Fill *items* with the newest of each of *users*, and *starts* ``(len(users) + 1,)`` with where those of each begin."""
    n: Int = np.int64(0)
    for k in range(users.size):
        starts[k] = n
        n = read_newest(store, np.int64(users[k]), limit, items, times, n)
    starts[users.size] = n
