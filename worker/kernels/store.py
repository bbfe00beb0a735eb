"""The rating store's layout, and how a pair is found and written. `store_merge`, `store_read` and `store_write` work on it.

A pair (user, item) lives in one place: in the *main run*, or in one of two *pools* of newer pairs.

- The main run holds 24 bytes a pair. By user: rows without slack between them, each ascending by item; item, rating and
  time in three columns. By item the same, ascending by user, without times.
- A pool is an append log of `ENTRY` with a hash table over it. The entries of one user, and of one item, are linked, newest
  first, from the heads in `ROW`. One pool is *active*: new pairs go there. When it is full it is *frozen*, the other becomes
  active, and the frozen one is merged into main row by row, from the last to the first, in place (`store_merge`).
- What a pair is, its rating says: a finite number is a rating held, NaN a tombstone (unrated; its time still counts), an infinity
  a pair that was forgotten, older than any event, until main is squeezed.

While a merge is under way, rows below its cursor have their frozen entries in the chain, the others have them in main.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from factorstream.worker.kernels.compiled import LANES, Int, bare, find_among, inlined, natural, plain
from factorstream.worker.kernels.memory import reserve

USERS, ITEMS = plain(0), plain(1)
NOWHERE, ACTIVE, FROZEN, MAIN = 0, 1, 2, 3
IDLE, SORT_USERS, MERGE_USERS, SORT_ITEMS, MERGE_ITEMS, CLEAR, SQUEEZE_USERS, SQUEEZE_ITEMS = map(plain, range(8))
"""What is going on beside accepting, in this order."""
DIGIT_BITS, N_DIGITS = 11, 3
"""Row numbers are sorted by three digits of eleven bits."""
N_OFFSETS, N_REWRITES = 8, 64
"""Events whose pairs' offsets in main are kept, a power of two and more than are looked up ahead; and pairs, at most, that wait
for the items' side of main."""
MAIN_PER_POOL, ROWS_PER_POOL = 16, 8
"""Pairs in main, and rows, for one pair in a full pool: more cost time to merge, fewer cost memory and readers' time."""
FEW_OF_ROW = 48
"""Pairs of a row that are looked through line by line: the processor cannot foresee where a search by halves goes."""
TOMBSTONE = np.float32(np.nan)
NEVER = plain(np.iinfo(np.int64).min)

ROW = np.dtype(
    [
        ("start", np.int64),  # in main
        ("newest_ms", np.int64),  # newest event accepted; 0: none
        ("length", np.int32),  # in main, tombstones and forgotten pairs included
        ("count", np.int32),  # ratings held, wherever they live
        ("head_0", np.int32),  # newest entry in pool 0; 0: none
        ("head_1", np.int32),
    ],
    align=True,
)
ENTRY = np.dtype(
    [
        ("time_ms", np.int64),
        ("user", np.int32),
        ("item", np.int32),
        ("rating", np.float32),
        ("next_of_user", np.int32),  # the entry before this one of the same user and pool; 0: none
        ("next_of_item", np.int32),
    ],
    align=True,
)
POOL = np.dtype(
    [
        ("base", np.int64),  # entries are log[base + 1], log[base + 2] …
        ("used", np.int64),
        ("capacity", np.int64),
        ("table", np.int64),  # the hash table is slots[table : table + n_slots]
        ("n_slots", np.int64),
        ("mask", np.int64),  # of the bits of a slot that number the entry; the others are a part of the hash
    ]
)
REWRITE = np.dtype(
    [
        ("user", np.int32),
        ("item", np.int32),
        ("rating", np.float32),
        ("length", np.int32),  # pairs of the item's row that it may still be
        ("at", np.int64),  # the first of them
    ],
    align=True,
)
SIDE = np.dtype([("n_rows", np.int64), ("end", np.int64)])  # main is [0 : end] of the columns
STATE = np.dtype(
    [
        ("n_ratings", np.int64),
        ("n_rewrites", np.int64),  # those that wait in `rewrites`
        ("least_capacity", np.int64),
        ("active", np.int64),
        ("phase", np.int64),
        ("cursor", np.int64),  # MERGE: rows from here on are done; else: rows, slots or entries before are done
        ("stop", np.int64),  # MERGE: main is moved from here on; SQUEEZE: main is packed up to here
        ("left", np.int64),  # MERGE: frozen entries that are not in main yet
        ("digit", np.int64),  # SORT: the digit being sorted by; -1: counting
        ("order", np.int64),  # which of `orders` holds the frozen entries, as sorted so far
        ("pace", np.float64),  # work to be done for one accepted event
        ("credit", np.float64),  # work due now
        ("n_floors", np.int64),  # rows that have a floor
        ("n_forgotten", np.int64),  # forgotten pairs not yet squeezed out
        ("mark", np.float64),  # ±infinity, which marks pairs forgotten now; a squeeze drops those with the other sign
    ]
)

Row: TypeAlias = Any
Pool: TypeAlias = Any
"""Elements of arrays of `ROW` and `POOL`: compiled code reads and writes their fields as attributes."""


class Index(NamedTuple):
    """The main run as one side sees it; `times` is empty on the items' side."""

    rows: NDArray[np.void]
    floors: NDArray[np.int64]
    """What is not later is not accepted for a row: a time ^ `NEVER`, so that memory never written says `NEVER`."""
    others: NDArray[np.int32]
    ratings: NDArray[np.float32]
    times: NDArray[np.int64]


class Store(NamedTuple):
    """All arrays of a store. The big ones are reservations (`memory.reserve`)."""

    state: NDArray[np.void]
    sides: NDArray[np.void]
    pools: NDArray[np.void]
    by_user: Index
    by_item: Index
    log: NDArray[np.void]
    slots: NDArray[np.uint32]
    keys: NDArray[np.uint64]
    """Scratch: ``other row << 32 | entry`` of a chain."""
    spare: NDArray[np.uint64]
    """Scratch of the same length, for sorting."""
    ends: NDArray[np.int64]
    """Scratch of one radix pass, ``(257,)``."""
    orders: tuple[NDArray[np.uint64], NDArray[np.uint64]]
    """The frozen entries, ``row << 32 | entry``, sorted by row."""
    digit_ends: NDArray[np.int64]
    """Where the next frozen entry of each digit's value goes, ``(N_DIGITS, 2 ** DIGIT_BITS)``."""
    offsets: NDArray[np.int64]
    """Where in the users' main the pairs of the next events are, by event number modulo `N_OFFSETS`; -1: not there."""
    rewrites: NDArray[np.void]
    """Pairs of main whose ratings are new by user, and not yet by item; none waits when the items' main is read or moved."""


def column(kind: DTypeLike) -> NDArray[Any]:
    """Return room for a column that is read and moved piece by piece."""
    return reserve((), kind, huge_pages=False)


def new_store(least_capacity: Int) -> Store:
    """Return an empty store whose pools hold at least *least_capacity* pairs."""
    log, slots = reserve((), ENTRY), reserve((), np.uint32)
    store = Store(
        np.zeros(1, STATE),
        np.zeros(2, SIDE),
        np.zeros(2, POOL),
        Index(reserve((), ROW), column(np.int64), reserve((), np.int32), column(np.float32), column(np.int64)),
        Index(reserve((), ROW), column(np.int64), column(np.int32), column(np.float32), np.empty(0, np.int64)),
        log,
        slots,
        column(np.uint64),
        column(np.uint64),
        np.zeros(257, np.int64),
        (column(np.uint64), column(np.uint64)),
        np.zeros((N_DIGITS, 1 << DIGIT_BITS), np.int64),
        np.zeros(N_OFFSETS, np.int64),
        np.zeros(N_REWRITES, REWRITE),
    )
    store.state["mark"] = np.inf
    store.state["least_capacity"] = least_capacity
    store.pools["base"][1], store.pools["table"][1] = len(log) // 2, len(slots) // 2
    open_pool(store, 0)
    return store


@bare
def open_pool(store: Store, number: Int) -> None:
    """Make the empty pool *number* the active one, a share of main and of rows: a merge has so much to do for each pair."""
    state, pool = store.state[0], store.pools[number]
    n_rows = store.sides[USERS].n_rows + store.sides[ITEMS].n_rows  # a merge goes through all of them
    worth_it = max(store.sides[USERS].end // MAIN_PER_POOL, n_rows // ROWS_PER_POOL)
    pool.capacity = min(max(state.least_capacity, worth_it), store.log.size // 2 - 2, store.slots.size // 4)
    pool.n_slots = pool.capacity + pool.capacity // 2 + 1
    pool.used = 0
    pool.mask = 1
    while pool.mask <= pool.capacity:
        pool.mask = 2 * pool.mask + 1
    state.active = number


@inlined
def is_held(rating: np.float32) -> bool | np.bool:
    """Whether a pair's rating is one: neither a tombstone nor forgotten."""
    return abs(rating) < np.inf


@inlined
def head_of(row: Row, pool_number: Int) -> Int:
    """Return the newest entry of *row* in a pool, 0 if there is none."""
    return row.head_0 if pool_number == 0 else row.head_1


@inlined
def set_head(row: Row, pool_number: Int, entry: Int) -> None:
    """Let the chain of *row* in a pool begin at *entry*."""
    if pool_number == 0:
        row.head_0 = entry
    else:
        row.head_1 = entry


@inlined
def row_of(store: Store, side: Int, entry: Int) -> Int:
    """Return the row of an entry on one side."""
    return store.log[entry].user if side == USERS else store.log[entry].item


@inlined
def key_of(row: Int, entry: Int) -> np.uint64:
    """Return a key that sorts by row and names an entry."""
    return (np.uint64(row) << np.uint64(32)) | np.uint64(entry)


@inlined
def row_in(key: np.uint64) -> Int:
    """Return the row of a key."""
    return np.int64(key >> np.uint64(32))


@inlined
def entry_in(key: np.uint64) -> Int:
    """Return the entry that a key names."""
    return np.int64(key & np.uint64(0xFFFFFFFF))


@inlined
def hash_of(user: Int, item: Int) -> np.uint64:
    """Return 64 mixed bits of a pair (the finaliser of murmur3)."""
    h = (np.uint64(user) << np.uint64(32)) | np.uint64(item)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@inlined
def slot_of(hashed: np.uint64, pool: Pool) -> Int:
    """Return where in `slots` the search for a hash begins."""
    return natural(pool.table + np.int64(((hashed >> np.uint64(32)) * np.uint64(pool.n_slots)) >> np.uint64(32)))


@inlined
def find_in_pool(store: Store, pool_number: Int, user: Int, item: Int, hashed: np.uint64) -> Int:
    """Return the entry of a pair in a pool, 0 if there is none."""
    pool = store.pools[pool_number]
    end = pool.table + pool.n_slots
    mask, tag = np.uint32(pool.mask), np.uint32(hashed & np.uint64(0xFFFFFFFF))
    at = slot_of(hashed, pool)
    while True:
        value = store.slots[natural(at)]
        if value == 0:
            return 0
        if ((value ^ tag) & ~mask) == 0:
            number = natural(pool.base + np.int64(value & mask))
            entry = store.log[number]
            if entry.user == user and entry.item == item:
                return number
        at = at + 1 if at + 1 < end else pool.table


@inlined
def find_in_row(index: Index, row: Row, other: Int) -> Int:
    """Return where in main the pair of *row* with *other* is, -1 if it is not there."""
    at, stop = row.start, row.start + row.length
    while stop - at > FEW_OF_ROW:
        middle = at + ((stop - at) >> 1)
        if index.others[natural(middle)] <= other:
            at = middle
        else:
            stop = middle
    line = at & -LANES  # where memory has lines: none is touched that the row is not in
    while line < stop:
        lane = find_among(index.others, line, at, stop, other)
        if lane < LANES:
            return line + lane
        line += LANES
    return -1


@inlined
def find(store: Store, user: Int, item: Int, hashed: np.uint64, in_main: Int) -> tuple[Int, Int]:
    """Return the place a pair lives in, or `NOWHERE`, and where there: an entry of the log, or an offset of the users' main.

    *in_main* is what `find_in_row` found in the user's row.
    """
    state = store.state[0]
    entry = find_in_pool(store, state.active, user, item, hashed)
    if entry:
        return ACTIVE, entry
    if SORT_USERS <= state.phase <= MERGE_ITEMS:
        entry = find_in_pool(store, 1 - state.active, user, item, hashed)
        if entry:
            return FROZEN, entry
    return (NOWHERE, 0) if in_main < 0 else (MAIN, in_main)


@inlined
def value_of(store: Store, place: Int, at: Int) -> tuple[np.float32, Int]:
    """Return rating and time of a pair that was found."""
    if place == MAIN:
        return store.by_user.ratings[at], store.by_user.times[at]
    return store.log[at].rating, store.log[at].time_ms


@inlined
def write(store: Store, user: Int, item: Int, place: Int, at: Int, rating: np.float32, time_ms: Int) -> None:
    """Write rating and time of a pair that was found in a pool, and into main where a copy of it is by now."""
    store.log[at].rating, store.log[at].time_ms = rating, time_ms
    if place == FROZEN and is_merged(store, USERS, user):
        write_main(store, USERS, find_in_row(store.by_user, store.by_user.rows[user], item), rating, time_ms)
    if place == FROZEN and is_merged(store, ITEMS, item):
        write_main(store, ITEMS, find_in_row(store.by_item, store.by_item.rows[item], user), rating, time_ms)


@inlined
def write_main(store: Store, side: Int, at: Int, rating: np.float32, time_ms: Int) -> None:
    """Write a pair into one side of main."""
    index = store.by_user if side == USERS else store.by_item
    index.ratings[at] = rating
    if side == USERS:
        index.times[at] = time_ms


@inlined
def is_merged(store: Store, side: Int, row: Int) -> bool:
    """Whether the frozen entries of *row* are in this side's main; only asked while a merge is under way."""
    state = store.state[0]
    phase = MERGE_USERS if side == USERS else MERGE_ITEMS
    return state.phase > phase or (state.phase == phase and row >= state.cursor)


@inlined
def add_slot(store: Store, pool: Pool, hashed: np.uint64, local: Int) -> None:
    """Enter number *local* of *pool* into its hash table."""
    mask = np.uint32(pool.mask)
    tag = np.uint32(hashed & np.uint64(0xFFFFFFFF))
    end = pool.table + pool.n_slots
    at = slot_of(hashed, pool)
    while store.slots[natural(at)] != 0:
        at = at + 1 if at + 1 < end else pool.table
    store.slots[natural(at)] = np.uint32(local) | (tag & ~mask)


@inlined
def append(store: Store, user: Int, item: Int, hashed: np.uint64, rating: np.float32, time_ms: Int) -> None:
    """Add a new pair to the active pool, which has room."""
    number = store.state[0].active
    pool = store.pools[number]
    pool.used += 1
    add_slot(store, pool, hashed, pool.used)
    at = natural(pool.base + pool.used)
    entry = store.log[at]
    entry.user, entry.item, entry.rating, entry.time_ms = user, item, rating, time_ms
    user_row, item_row = store.by_user.rows[user], store.by_item.rows[item]
    entry.next_of_user, entry.next_of_item = head_of(user_row, number), head_of(item_row, number)
    set_head(user_row, number, at)
    set_head(item_row, number, at)
