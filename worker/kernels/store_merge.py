"""Merging a pool into the main run of the rating store: in place, in small steps, paid for by the events that arrive.

The frozen entries are sorted by row. Then main grows at its end by their number and is moved up behind them, from its last pair
to its first: what lies between two of them is moved as one piece, so nothing that is still to be moved is overwritten. First
the users' side, then the items'. A step ends between two rows, and readers see every row whole.

Forgotten pairs stay where they are until they are many; then both sides are squeezed, from the first row to the last.

Source: the backward merge of an ordered array with room at its end (Knuth, TAOCP 3, section 5.2.4); radix sort (ibid., 5.2.5).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.compiled import Int, bare, count_above, inlined, move, move_line, prefetch
from factorstream.worker.kernels.store import (
    CLEAR,
    DIGIT_BITS,
    IDLE,
    ITEMS,
    MERGE_ITEMS,
    MERGE_USERS,
    N_DIGITS,
    SORT_ITEMS,
    SORT_USERS,
    SQUEEZE_ITEMS,
    SQUEEZE_USERS,
    USERS,
    Index,
    Row,
    Store,
    entry_in,
    key_of,
    open_pool,
    row_in,
    row_of,
    set_head,
)
from factorstream.worker.kernels.store_chain import put_in_order

ROW_WORK, ENTRY_WORK, SORT_WORK, SQUEEZE_WORK = 2, 16, 4, 4
"""What a row, merging an entry, looking at one to sort it, looking at a pair to squeeze it: moving a pair costs 1."""
SLOTS_PER_WORK = 16
"""Slots that are cleared for what moving a pair costs."""
LINE, MANY = 16, 256
"""Pairs whose other rows fill a cache line; and so many that a call is worth it."""
MOST_AT_ONCE = 1 << 16
DIGIT = (1 << DIGIT_BITS) - 1
AHEAD, PAIRS_AHEAD = 16, 128
"""Entries of the log, and pairs of main, asked for in advance."""


@bare
def freeze(store: Store) -> None:
    """Make the other pool the active one and begin to merge this one; finish the merge under way, should there be one."""
    advance(store, np.inf)
    state = store.state[0]
    frozen = state.active
    open_pool(store, 1 - frozen)
    pool = store.pools[frozen]
    work = pool.n_slots // SLOTS_PER_WORK
    for side in (USERS, ITEMS):
        work += store.sides[side].end + ROW_WORK * store.sides[side].n_rows + (ENTRY_WORK + N_DIGITS * SORT_WORK) * pool.used
    state.order = 0
    begin(store, SORT_USERS)
    set_pace(store, work)


@inlined
def set_pace(store: Store, work: Int) -> None:
    """Spread *work* over the events that fill half of the room that the active pool has."""
    state = store.state[0]
    pool = store.pools[state.active]
    state.pace = work / max(1.0, 0.5 * (pool.capacity - pool.used))
    state.credit = 0.0


@bare
def advance(store: Store, n_events: float) -> None:
    """Do the work that *n_events* accepted events pay for. What a step does too much (rows are whole), later events work off."""
    state = store.state[0]
    if state.phase != IDLE:
        state.credit += max(1.0, state.pace) * n_events
    while state.phase != IDLE and state.credit > 0:
        state.credit -= step(store, np.int64(min(state.credit, MOST_AT_ONCE)) + 1)


@inlined
def step(store: Store, work: Int) -> Int:
    """Sort, merge, clear or squeeze for about *work*; return what it cost, at least 1."""
    phase = store.state[0].phase
    if phase in (SORT_USERS, SORT_ITEMS):
        return sort_some(store, USERS if phase == SORT_USERS else ITEMS, work // SORT_WORK + 1)
    if phase in (MERGE_USERS, MERGE_ITEMS):
        return merge_some(store, USERS if phase == MERGE_USERS else ITEMS, work)
    if phase == CLEAR:
        return clear_some(store, SLOTS_PER_WORK * work)
    return squeeze_some(store, USERS if phase == SQUEEZE_USERS else ITEMS, work)


@inlined
def begin(store: Store, phase: Int) -> None:
    """Enter *phase* at its beginning."""
    state = store.state[0]
    state.phase, state.cursor = phase, 0
    if phase in (SORT_USERS, SORT_ITEMS):
        state.digit = -1
        store.digit_ends[:] = 0
    elif phase in (MERGE_USERS, MERGE_ITEMS):
        side = store.sides[USERS if phase == MERGE_USERS else ITEMS]
        state.cursor, state.stop, state.left = side.n_rows, side.end, store.pools[1 - state.active].used
        side.end += state.left
    elif phase in (SQUEEZE_USERS, SQUEEZE_ITEMS):
        state.stop = 0


@inlined
def sort_some(store: Store, side: Int, n: Int) -> Int:
    """Make keys of the next *n* frozen entries, counting all digits at once, or sort them by the digit under way."""
    state = store.state[0]
    used = store.pools[1 - state.active].used
    stop = min(state.cursor + n, used)
    if state.digit < 0:
        make_keys(store, side, stop, used)
    else:
        scatter_keys(store, stop)
    state.cursor = stop
    if stop == used:
        end_pass(store, side)
    return SORT_WORK * n


@inlined
def end_pass(store: Store, side: Int) -> None:
    """Go on to the next digit that tells rows apart; after the last, merge."""
    state = store.state[0]
    if state.digit < 0:
        add_up(store.digit_ends)
    else:
        state.order = 1 - state.order
    state.digit += 1
    state.cursor = 0
    if (store.sides[side].n_rows - 1) >> (state.digit * DIGIT_BITS) == 0:
        begin(store, MERGE_USERS if side == USERS else MERGE_ITEMS)


@inlined
def add_up(counts: NDArray[np.int64]) -> None:
    """Turn the counts of each digit's values into where each value begins."""
    for digit in range(counts.shape[0]):
        total = 0
        for value in range(counts.shape[1]):
            n = counts[digit, value]
            counts[digit, value] = total
            total += n


@inlined
def make_keys(store: Store, side: Int, stop: Int, used: Int) -> None:
    """Make keys by this side's rows: the users' in the order of the log, the items' in the order that the users' have."""
    state = store.state[0]
    order, base = store.orders[0] if state.order == 0 else store.orders[1], store.pools[1 - state.active].base
    for k in range(state.cursor, stop):
        entry = base + 1 + k
        if side == ITEMS:
            prefetch(store.log, entry_in(order[np.int64(min(k + AHEAD, used - 1))]))
            entry = entry_in(order[k])
        row = row_of(store, side, entry)
        order[k] = key_of(row, entry)
        for digit in range(N_DIGITS):
            store.digit_ends[digit, (row >> (digit * DIGIT_BITS)) & DIGIT] += 1


@inlined
def scatter_keys(store: Store, stop: Int) -> None:
    """Put keys where their digit says, those of one value in the order they have."""
    state = store.state[0]
    order, target = (store.orders[0], store.orders[1]) if state.order == 0 else (store.orders[1], store.orders[0])
    ends, shift = store.digit_ends[state.digit], state.digit * DIGIT_BITS
    for k in range(state.cursor, stop):
        value = (row_in(order[k]) >> shift) & DIGIT
        target[ends[value]] = order[k]
        ends[value] += 1


@inlined
def merge_some(store: Store, side: Int, work: Int) -> Int:
    """Merge rows below the cursor until *work* is done; end the phase when no frozen entry is left."""
    state, index = store.state[0], store.by_user if side == USERS else store.by_item
    order = store.orders[0] if state.order == 0 else store.orders[1]
    cost, boundary = 0, state.stop
    while state.left and cost < work:
        state.cursor -= 1
        row = index.rows[state.cursor]
        if row.length == 0:
            row.start = boundary
        boundary = row.start
        cost += ROW_WORK + row.length
        if row_in(order[state.left - 1]) == state.cursor:
            cost += ENTRY_WORK * merge_row(store, side, index, order, row)
        else:
            fetch_below(index, boundary, state.left)
        row.start += state.left
    move_up(index, boundary, state.stop - boundary, state.left)
    state.stop = boundary
    if state.left == 0:
        begin(store, state.phase + 1)
    return cost + 1


@inlined
def fetch_below(index: Index, at: Int, by: Int) -> None:
    """Ask for pairs of main below *at*, and where they go: so many columns downward are more than the processor foresees."""
    for place in (at - PAIRS_AHEAD, at - PAIRS_AHEAD + by):
        prefetch(index.others, place)
        prefetch(index.ratings, place)
        if index.times.size:
            prefetch(index.times, place)
            prefetch(index.times, place - LINE // 2)


@inlined
def merge_row(store: Store, side: Int, index: Index, order: NDArray[np.uint64], row: Row) -> Int:
    """Put the frozen entries of the row at the cursor into main, the last first; return their number."""
    state = store.state[0]
    n = take_entries(store, side, order)
    stop = row.start + row.length
    for k in range(n - 1, -1, -1):
        other, entry = row_in(store.keys[k]), store.log[entry_in(store.keys[k])]
        stop = first_above(index.others, row.start, stop, other)
        move_up(index, stop, state.stop - stop, state.left)
        state.stop = stop
        state.left -= 1
        index.others[stop + state.left], index.ratings[stop + state.left] = other, entry.rating
        if side == USERS:
            index.times[stop + state.left] = entry.time_ms
    row.length += n
    set_head(row, 1 - state.active, 0)
    return n


@inlined
def take_entries(store: Store, side: Int, order: NDArray[np.uint64]) -> Int:
    """Put the frozen entries of the row at the cursor into `keys`, ascending by other row; return their number."""
    state = store.state[0]
    first = state.left
    while first and row_in(order[first - 1]) == state.cursor:
        first -= 1
        prefetch(store.log, entry_in(order[max(first - AHEAD, 0)]))
    for k in range(first, state.left):
        store.keys[k - first] = key_of(row_of(store, ITEMS if side == USERS else USERS, entry_in(order[k])), entry_in(order[k]))
    if side == USERS:  # the items' order comes from the users', so it is ascending by user already
        put_in_order(store, state.left - first)
    return state.left - first


@inlined
def move_up(index: Index, at: Int, n: Int, by: Int) -> None:
    """Move *n* pairs of main up *by* some; what lies below the place they come to is free, as far as the place they come from."""
    if n > MANY or by < 2 * LINE or at < LINE:
        move(index.others, at + by, at, n)
        move(index.ratings, at + by, at, n)
        if index.times.size:
            move(index.times, at + by, at, n)
        return
    top = at + n
    while top > at:  # the last line takes some pairs too many along, into what is free
        top -= LINE
        fetch_below(index, top, by)
        move_line(index.others, top + by, top)
        move_line(index.ratings, top + by, top)
        if index.times.size:
            move_line(index.times, top + by + LINE // 2, top + LINE // 2)
            move_line(index.times, top + by, top)


@inlined
def first_above(others: NDArray[np.int32], start: Int, stop: Int, other: Int) -> Int:
    """Return the first of the ascending ``start .. stop - 1`` whose other row is greater than *other*; *stop* if none is.

    Looks from *stop* downward, a line at a time: entries come a few pairs apart, and what lies between is moved anyway.
    """
    while stop > start and stop >= LINE:
        n_above = count_above(others, stop - LINE, start, other)
        stop -= n_above
        if n_above < LINE:
            return stop
    while stop > start and others[stop - 1] > other:
        stop -= 1
    return stop


@inlined
def clear_some(store: Store, n: Int) -> Int:
    """Clear the next *n* slots of the merged pool's table; after the last, squeeze or rest."""
    state = store.state[0]
    pool = store.pools[1 - state.active]
    stop = min(state.cursor + n, pool.n_slots)
    store.slots[pool.table + state.cursor : pool.table + stop] = 0
    state.cursor = stop
    if stop == pool.n_slots:
        pool.used = 0
        state.phase = IDLE
        if state.n_forgotten > max(state.least_capacity, store.sides[USERS].end) // 16:
            begin_squeeze(store)
    return n // SLOTS_PER_WORK


@inlined
def begin_squeeze(store: Store) -> None:
    """Begin to drop the pairs forgotten so far. Those forgotten from now on have the other mark, and both sides keep them."""
    state = store.state[0]
    state.mark = -state.mark
    begin(store, SQUEEZE_USERS)
    work = 0
    for side in (USERS, ITEMS):
        work += SQUEEZE_WORK * store.sides[side].end + ROW_WORK * store.sides[side].n_rows
    set_pace(store, work)


@inlined
def squeeze_some(store: Store, side: Int, work: Int) -> Int:
    """Pack the next rows behind those before, without the pairs to be dropped; after the last, go to the other side or rest."""
    state, index = store.state[0], store.by_user if side == USERS else store.by_item
    cost = 0
    while state.cursor < store.sides[side].n_rows and cost < work:
        row = index.rows[state.cursor]
        cost += ROW_WORK + SQUEEZE_WORK * row.length
        n_dropped = squeeze_row(store, index, row)
        state.n_forgotten -= n_dropped if side == USERS else 0
        state.cursor += 1
    if state.cursor == store.sides[side].n_rows:
        store.sides[side].end = state.stop
        if side == USERS:
            begin(store, SQUEEZE_ITEMS)
        else:
            state.phase = IDLE
    return cost + 1


@inlined
def squeeze_row(store: Store, index: Index, row: Row) -> Int:
    """Pack one row; return how many pairs were dropped."""
    state = store.state[0]
    to = state.stop
    for at in range(row.start, row.start + row.length):
        if index.ratings[at] != -state.mark:
            index.others[to], index.ratings[to] = index.others[at], index.ratings[at]
            if index.times.size:
                index.times[to] = index.times[at]
            to += 1
    n_dropped = row.length - (to - state.stop)
    row.start, row.length = state.stop, to - state.stop
    state.stop = to
    return n_dropped
