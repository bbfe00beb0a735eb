"""Writing to the rating store: events one after another, forgetting, and loading pairs in bulk."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.compiled import Int, bare, inlined, natural, prefetch
from factorstream.worker.kernels.store import (
    ACTIVE,
    FROZEN,
    ITEMS,
    MAIN,
    MERGE_ITEMS,
    N_OFFSETS,
    NEVER,
    NOWHERE,
    SORT_USERS,
    TOMBSTONE,
    USERS,
    Row,
    Store,
    append,
    find,
    find_in_pool,
    find_in_row,
    hash_of,
    head_of,
    is_held,
    is_merged,
    slot_of,
    value_of,
    write,
    write_main,
)
from factorstream.worker.kernels.store_merge import advance, freeze
from factorstream.worker.kernels.store_read import HELD_ONLY, read_row

UNRATE = 1
AT_ONCE = 512
"""Events between two pieces of merging."""
FAR, NEAR, SOON = 24, 12, 4
"""How many events ahead rows and slots are fetched into the cache, then what these point to, then what those point to. Events
up to `SOON` ahead are looked up in main."""


class Events(NamedTuple):
    """Events in order, columns of one length; kind 0 rates, 1 unrates."""

    kinds: NDArray[np.uint8]
    user_rows: NDArray[np.int32]
    item_rows: NDArray[np.int32]
    ratings: NDArray[np.float32]
    timestamps_ms: NDArray[np.int64]


class History(NamedTuple):
    """Histories of accepted events: those of the k-th are ``starts[k]:starts[k + 1]`` of the columns."""

    starts: NDArray[np.int64]
    others: NDArray[np.int32]
    ratings: NDArray[np.float32]


class Outcome(NamedTuple):
    """One entry per accepted event."""

    event_index: NDArray[np.int64]
    user_rows: NDArray[np.int32]
    item_rows: NDArray[np.int32]
    ratings: NDArray[np.float32]
    timestamps_ms: NDArray[np.int64]
    user_counts: NDArray[np.int32]
    item_counts: NDArray[np.int32]
    changes: NDArray[np.int8]
    of_users: History
    of_items: History


@bare
def accept(
    store: Store, events: Events, start: Int, limit: Int, fold_in: Int, fold_in_items: Int, rework: Int, outcome: Outcome
) -> tuple[Int, Int]:
    """Apply events from *start* until their end or *limit* accepted; return where it stopped and how many were accepted.

    It stops early before an event of a row that is not there.
    """
    n = paid = np.int64(0)
    outcome.of_users.starts[0] = outcome.of_items.starts[0] = 0
    j: Int = start
    seen: Int = start
    known: Int = start  # before this event, offsets in main are known
    end: Int = np.int64(events.kinds.size)
    while n < limit:
        while seen < end and seen <= j + FAR:
            end = seen if is_strange(store, events, seen) else end
            seen += 1
        if j >= end:
            break
        if is_full(store):  # whether or not this event will need a place
            write_items_side(store)
            freeze(store)
            known = j
        j, n = natural(j), natural(n)
        known = find_ahead(store, events, max(j, known), min(j + SOON + 1, end))
        fetch_ahead(store, events, j, end - 1, fold_in)
        user, item, time_ms = natural(events.user_rows[j]), natural(events.item_rows[j]), events.timestamps_ms[j]
        rating = (
            TOMBSTONE if events.kinds[j] == UNRATE else events.ratings[j] + np.float32(0)
        )  # -0 becomes 0: equal, so the same bits
        n_before = store.state[0].n_ratings
        if apply(store, user, item, rating, time_ms, store.offsets[j % N_OFFSETS]):
            outcome.event_index[n], outcome.user_rows[n], outcome.item_rows[n] = j, user, item
            outcome.ratings[n], outcome.timestamps_ms[n] = rating, time_ms
            outcome.changes[n] = change = store.state[0].n_ratings - n_before
            of_users, of_items = (fold_in, fold_in_items) if change > 0 else (max(fold_in, rework), max(fold_in_items, rework))
            outcome.user_counts[n] = add_history(store, USERS, user, of_users, outcome.of_users, n)
            outcome.item_counts[n] = add_history(store, ITEMS, item, of_items, outcome.of_items, n)
            n += 1
            if n - paid == AT_ONCE:
                write_items_side(store)
                advance(store, float(n - paid))
                paid, known = n, j + 1
        j += 1
    write_items_side(store)
    advance(store, float(n - paid))
    return j, n


@inlined
def add_history(store: Store, side: Int, row: Int, longest: Int, history: History, n: Int) -> Int:
    """Add the history of the n-th accepted event's row, empty if it holds more than *longest*; return how many it holds."""
    end, n_held = history.starts[n], (store.by_user if side == USERS else store.by_item).rows[row].count
    if 0 < n_held <= longest:
        if side == ITEMS:
            write_items_side(store)
        end = read_row(store, side, row, HELD_ONLY, history.others, history.ratings, store.by_item.times, end)
    history.starts[n + 1] = end
    return n_held


@inlined
def apply(store: Store, user: Int, item: Int, rating: np.float32, time_ms: Int, in_main: Int) -> bool:
    """Let an event apply unless it is old news; return whether it did.

    *in_main*: where the users' main has its pair, or -1. The active pool has room.
    """
    if store.state[0].n_floors and time_ms <= max(store.by_user.floors[user] ^ NEVER, store.by_item.floors[item] ^ NEVER):
        return False
    hashed = hash_of(user, item)
    place, at = find(store, user, item, hashed, in_main)
    change = 0 if np.isnan(rating) else 1
    if place == NOWHERE:
        append(store, user, item, hashed, rating, time_ms)
    else:
        held, held_ms = value_of(store, place, at)
        if not is_newer(time_ms, rating, held_ms, held):
            return False
        change -= 1 if is_held(held) else 0
        store.state[0].n_forgotten -= 1 if np.isinf(held) else 0
        if place == MAIN:
            write_main(store, USERS, at, rating, time_ms)
            add_rewrite(store, user, item, rating)
        else:
            write(store, user, item, place, at, rating, time_ms)
    user_row, item_row = store.by_user.rows[user], store.by_item.rows[item]
    user_row.newest_ms, item_row.newest_ms = max(user_row.newest_ms, time_ms), max(item_row.newest_ms, time_ms)
    count(store, user, item, change)
    return True


@inlined
def add_rewrite(store: Store, user: Int, item: Int, rating: np.float32) -> None:
    """Let the items' side of main wait for a rating that its pair has by now."""
    if store.state[0].n_rewrites == store.rewrites.size:
        write_items_side(store)
    rewrite = store.rewrites[natural(store.state[0].n_rewrites)]
    rewrite.user, rewrite.item, rewrite.rating = user, item, rating
    store.state[0].n_rewrites += 1


@inlined
def write_items_side(store: Store) -> None:
    """Write the ratings that wait for it into the items' side of main. Mostly none does, and a call passes the whole store."""
    if store.state[0].n_rewrites:
        write_rewrites(store)


@bare
def write_rewrites(store: Store) -> None:
    """Write all of `Store.rewrites` into the items' side of main.

    Its rows are long. All are searched at once, so that the memory of one search comes while the others go on.
    """
    n = store.state[0].n_rewrites
    longest = 0
    for k in range(n):
        rewrite = store.rewrites[k]
        row = store.by_item.rows[natural(rewrite.item)]
        rewrite.at, rewrite.length = row.start, row.length
        longest = max(longest, row.length)
    while longest > 1:
        for k in range(n):
            rewrite = store.rewrites[k]
            half = rewrite.length >> 1
            rewrite.at += half if store.by_item.others[natural(rewrite.at + half)] <= rewrite.user else 0
            rewrite.length -= half
        longest -= longest >> 1
    for k in range(n):
        write_main(store, ITEMS, store.rewrites[k].at, store.rewrites[k].rating, NEVER)
    store.state[0].n_rewrites = 0


@inlined
def is_newer(time_ms: Int, rating: np.float32, held_ms: Int, held: np.float32) -> bool | np.bool:
    """Whether (time, kind, rating) is greater than what is held; a NaN rating is an unrate, the greater kind."""
    if time_ms != held_ms:
        return time_ms > held_ms
    return rating > held or (np.isnan(rating) and not np.isnan(held))


@inlined
def is_full(store: Store) -> bool:
    """Whether the active pool cannot take another pair."""
    pool = store.pools[store.state[0].active]
    return pool.used == pool.capacity


@inlined
def count(store: Store, user: Int, item: Int, change: Int) -> None:
    """Change the number of ratings held by a pair's rows and in all."""
    store.by_user.rows[user].count += change
    store.by_item.rows[item].count += change
    store.state[0].n_ratings += change


@inlined
def is_strange(store: Store, events: Events, j: Int) -> bool:
    """Whether an event is of a row that is not there."""
    user, item = np.int64(events.user_rows[j]), np.int64(events.item_rows[j])
    return not (0 <= user < store.sides[USERS].n_rows and 0 <= item < store.sides[ITEMS].n_rows)


@inlined
def find_ahead(store: Store, events: Events, first: Int, stop: Int) -> Int:
    """Look up the pairs of events in the users' main, and ask for what those hold that are there; return *stop*."""
    for k in range(first, stop):
        at = find_in_row(store.by_user, store.by_user.rows[natural(events.user_rows[natural(k)])], events.item_rows[natural(k)])
        store.offsets[natural(k) % N_OFFSETS] = at
        if at >= 0:
            prefetch(store.by_user.ratings, at)
            prefetch(store.by_user.times, at)
    return stop


@inlined
def fetch_ahead(store: Store, events: Events, j: Int, last: Int, fold_in: Int) -> None:
    """Ask for the memory that the next events will look at: a store that is larger than the cache waits for it otherwise."""
    far, near, soon = natural(min(j + FAR, last)), natural(min(j + NEAR, last)), natural(min(j + SOON, last))
    fetch_rows(store, natural(events.user_rows[far]), natural(events.item_rows[far]))
    fetch_pairs(store, store.by_user.rows[natural(events.user_rows[near])], fold_in)
    row = store.by_user.rows[natural(events.user_rows[soon])]
    if row.count < fold_in:
        prefetch(store.log, store.log[row.head_0].next_of_user)
        prefetch(store.log, store.log[row.head_1].next_of_user)


@inlined
def fetch_rows(store: Store, user: Int, item: Int) -> None:
    """Ask for the rows and the slots of a pair."""
    hashed = hash_of(user, item)
    prefetch(store.by_user.rows, user)
    prefetch(store.by_item.rows, item)
    prefetch(store.slots, slot_of(hashed, store.pools[0]))
    prefetch(store.slots, slot_of(hashed, store.pools[1]))


@inlined
def fetch_pairs(store: Store, row: Row, fold_in: Int) -> None:
    """Ask for a user's pairs in main, and for the heads of its chains if all that it holds is about to be read."""
    for at in (row.start, row.start + (row.length >> 1), row.start + row.length):
        prefetch(store.by_user.others, at)
    if row.count < fold_in:
        prefetch(store.by_user.ratings, row.start)
        prefetch(store.log, row.head_0)
        prefetch(store.log, row.head_1)


@bare
def forget_row(store: Store, side: Int, row: Int, time_ms: Int, others: NDArray[np.int32]) -> Int:
    """Forget the pairs of *row* that are not later than *time_ms*, and accept none such again.

    *others* becomes the other rows of the ratings that were held, those in main first; returns their number.
    """
    floors = store.by_user.floors if side == USERS else store.by_item.floors
    if time_ms <= floors[row] ^ NEVER:
        return 0
    floors[row] = time_ms ^ NEVER
    store.state[0].n_floors += 1
    record = (store.by_user if side == USERS else store.by_item).rows[row]
    n_held = forget_main(store, side, row, time_ms, others)
    for number in range(2):
        entry = head_of(record, number)
        while entry:
            pair, place = store.log[entry], ACTIVE if number == store.state[0].active else FROZEN
            n_held = forget_pair(store, side, pair.user, pair.item, place, entry, time_ms, others, n_held)
            entry = pair.next_of_user if side == USERS else pair.next_of_item
    return n_held


@inlined
def forget_main(store: Store, side: Int, row: Int, time_ms: Int, others: NDArray[np.int32]) -> Int:
    """Forget those pairs of a row that its side of main holds; return how many ratings were held.

    Whether a pair is in the frozen pool too has to be looked up only where the row's part of that has been merged already.
    """
    index, state = store.by_user if side == USERS else store.by_item, store.state[0]
    start, stop = index.rows[row].start, index.rows[row].start + index.rows[row].length
    twice = SORT_USERS <= state.phase <= MERGE_ITEMS and is_merged(store, side, row)
    n_held: Int = 0
    for at in range(start, stop):
        fetch_other(store, side, row, start, at, stop)
        other = np.int64(index.others[at])
        user, item = (row, other) if side == USERS else (other, row)
        entry = find_in_pool(store, 1 - state.active, user, item, hash_of(user, item)) if twice else 0
        if entry:
            n_held = forget_pair(store, side, user, item, FROZEN, entry, time_ms, others, n_held)
        elif not np.isinf(index.ratings[at]):
            n_held = forget_in_main(store, side, user, item, at, time_ms, others, n_held)
    return n_held


@inlined
def fetch_other(store: Store, side: Int, row: Int, start: Int, at: Int, stop: Int) -> None:
    """Ask for what forgetting the next pairs of a row will look at on the other side of main."""
    index, across = (store.by_user, store.by_item) if side == USERS else (store.by_item, store.by_user)
    prefetch(across.rows, index.others[np.int64(min(at + FAR, stop - 1))])
    soon = across.rows[index.others[np.int64(min(at + NEAR, stop - 1))]]
    middle = soon.start + (soon.length >> 1)
    prefetch(across.others, middle)
    prefetch(across.ratings, middle)
    prefetch(store.by_user.times, middle if side == ITEMS else np.int64(min(at + FAR, stop - 1)))


@inlined
def forget_in_main(
    store: Store, side: Int, user: Int, item: Int, at: Int, time_ms: Int, others: NDArray[np.int32], n_held: Int
) -> Int:
    """Forget a pair that lives in main, on this *side* at *at*, unless it is later; return how many ratings were held by now."""
    if side == USERS:
        at_user, at_item = at, find_in_row(store.by_item, store.by_item.rows[item], user)
    else:
        at_user, at_item = find_in_row(store.by_user, store.by_user.rows[user], item), at
    if store.by_user.times[at_user] > time_ms:
        return n_held
    held, mark = store.by_user.ratings[at_user], np.float32(store.state[0].mark)
    write_main(store, USERS, at_user, mark, NEVER)
    write_main(store, ITEMS, at_item, mark, NEVER)
    return count_forgotten(store, side, user, item, held, others, n_held)


@inlined
def forget_pair(
    store: Store, side: Int, user: Int, item: Int, place: Int, at: Int, time_ms: Int, others: NDArray[np.int32], n_held: Int
) -> Int:
    """Forget a pair that was found in a pool, unless it is later or forgotten; return how many ratings were held by now."""
    held, held_ms = value_of(store, place, at)
    if held_ms > time_ms or np.isinf(held):
        return n_held
    write(store, user, item, place, at, np.float32(store.state[0].mark), NEVER)
    return count_forgotten(store, side, user, item, held, others, n_held)


@inlined
def count_forgotten(
    store: Store, side: Int, user: Int, item: Int, held: np.float32, others: NDArray[np.int32], n_held: Int
) -> Int:
    """Count a pair that was forgotten, and name its other row if it was a rating; return how many were."""
    store.state[0].n_forgotten += 1
    if not is_held(held):
        return n_held
    count(store, user, item, -1)
    others[n_held] = item if side == USERS else user
    return n_held + 1


@bare
def load(
    store: Store, users: NDArray[np.int32], items: NDArray[np.int32], ratings: NDArray[np.float32], times: NDArray[np.int64]
) -> bool:
    """Make pairs the main run of an empty store.

    False, and a store of no use, if they are not ascending by (user, item) or name unknown rows.
    """
    n_users, n_items = store.sides[USERS].n_rows, store.sides[ITEMS].n_rows
    for k in range(users.size):
        user, item = users[k], items[k]
        if not (0 <= user < n_users and 0 <= item < n_items):
            return False
        if k and (users[k - 1], items[k - 1]) >= (user, item):
            return False
        store.by_user.rows[user].length += 1
        store.by_item.rows[item].length += 1
    for side in (USERS, ITEMS):
        index, end = store.by_user if side == USERS else store.by_item, 0
        for row in range(store.sides[side].n_rows):
            index.rows[row].start = end
            end += index.rows[row].length
            index.rows[row].length = 0
        store.sides[side].end = end
    for k in range(users.size):
        place_pair(store, users[k], items[k], ratings[k], times[k])
    return True


@inlined
def place_pair(store: Store, user: Int, item: Int, rating: np.float32, time_ms: Int) -> None:
    """Put a pair behind those that its rows in main have already."""
    user_row, item_row = store.by_user.rows[user], store.by_item.rows[item]
    at = user_row.start + user_row.length
    store.by_user.others[at], store.by_user.ratings[at], store.by_user.times[at] = item, rating, time_ms
    at = item_row.start + item_row.length
    store.by_item.others[at], store.by_item.ratings[at] = user, rating
    user_row.length += 1
    item_row.length += 1
    user_row.newest_ms, item_row.newest_ms = max(user_row.newest_ms, time_ms), max(item_row.newest_ms, time_ms)
    if not np.isnan(rating):
        count(store, user, item, 1)
