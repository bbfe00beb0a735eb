"""The ratings held: both directions, last write wins; compact in memory, readable at any moment in one canonical order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, I32, I64, Histories
from factorstream.worker.kernels.layout import column
from factorstream.worker.kernels.store import ITEMS, NEVER, USERS, new_store, open_pool
from factorstream.worker.kernels.store_read import count_pairs, read_newest_of_all, read_pairs, read_pairs_of, read_rows, row_size
from factorstream.worker.kernels.store_write import Events, History, Outcome, accept, forget_row, load

LEAST_CAPACITY = 1 << 12
"""Pairs gathered at least before they are merged: chains of so many are read as fast as they are merged."""
KEPT_ROOM = 1 << 14
"""Events whose room to be accepted in is kept for the next call: fresh memory costs more than what is written to it."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Events that applied, in order, as columns of one length; what comes after an event does not show in its entry."""

    stop: int
    """The first event that was not looked at."""
    event_index: I64
    """Which of the events given."""
    user_rows: I32
    item_rows: I32
    ratings: F32
    """NaN: an unrate."""
    timestamps_ms: I64
    user_counts: I32
    """Ratings that the event's user holds just after it."""
    item_counts: I32
    changes: NDArray[np.int8]
    """1: the event's pair was not held before it; 0: it held another rating; −1: it no longer is."""
    user_histories: Histories
    """All ratings of the event's user just after it, if they are at most what `Ratings.accept` was told; else an empty entry."""
    item_histories: Histories

    def __len__(self) -> int:
        return len(self.event_index)


class Held(NamedTuple):
    """All pairs, ascending by (user, item): the canonical content of a store."""

    user_rows: I32
    item_rows: I32
    ratings: F32
    """NaN: a tombstone."""
    timestamps_ms: I64


class Newest(NamedTuple):
    """Items of several users, newest first: those of entry j are ``item_rows[starts[j]:starts[j + 1]]``."""

    starts: I64
    item_rows: I32


class Ratings:
    """All ratings held, with their times. Owned by one thread.

    An event ``(timestamp_ms, kind, rating)`` applies iff it is greater than what its pair holds (unrate > rate) and later than
    the floors of both rows. So the content depends on which events came, not on their order, and repeating some changes nothing.
    """

    def __init__(self, *, least_capacity: int = LEAST_CAPACITY) -> None:
        """Hold nothing. *least_capacity*: pairs gathered at least before they are merged into the main run."""
        self._store = new_store(least_capacity)
        self._room = _outcome(0, (0, 0))

    @property
    def n_ratings(self) -> int:
        """Pairs held now, tombstones not counted."""
        return int(self._store.state["n_ratings"][0])

    @property
    def n_users(self) -> int:
        """Rows of users."""
        return int(self._store.sides["n_rows"][USERS])

    @property
    def n_items(self) -> int:
        """Rows of items."""
        return int(self._store.sides["n_rows"][ITEMS])

    @property
    def user_counts(self) -> I32:
        """Ratings held by each user, ``(n_users,)``; this and the times of the newest are live views, not to be written to."""
        return self._store.by_user.rows["count"][: self.n_users]

    @property
    def item_counts(self) -> I32:
        """Ratings held by each item."""
        return self._store.by_item.rows["count"][: self.n_items]

    @property
    def user_newest_ms(self) -> I64:
        """Time of the newest event accepted for each user; 0: none. Never decreases."""
        return self._store.by_user.rows["newest_ms"][: self.n_users]

    @property
    def item_newest_ms(self) -> I64:
        """Time of the newest event accepted for each item; 0: none."""
        return self._store.by_item.rows["newest_ms"][: self.n_items]

    @property
    def user_floor_ms(self) -> I64:
        """What is not later is not accepted for a user; the least int64 where nothing was forgotten. A copy."""
        return self._store.by_user.floors[: self.n_users] ^ NEVER

    @property
    def item_floor_ms(self) -> I64:
        """What is not later is not accepted for an item. A copy."""
        return self._store.by_item.floors[: self.n_items] ^ NEVER

    def grow(self, n_users: int, n_items: int) -> None:
        """Have at least that many rows."""
        for side, index, n in ((USERS, self._store.by_user, n_users), (ITEMS, self._store.by_item, n_items)):
            n_now = int(self._store.sides["n_rows"][side])
            if n > len(index.rows):
                raise MemoryError(f"{n} rows do not fit: address space was reserved for {len(index.rows)}")
            self._store.sides["n_rows"][side] = max(n, n_now)

    def raise_user_floors(self, rows: NDArray[np.integer[Any]], timestamps_ms: I64) -> None:
        """From now on accept for each of the users *rows* only what is later than its entry of *timestamps_ms*, too."""
        self._raise_floors(USERS, rows, timestamps_ms)

    def raise_item_floors(self, rows: NDArray[np.integer[Any]], timestamps_ms: I64) -> None:
        """From now on accept for each of the items *rows* only what is later than its entry of *timestamps_ms*, too."""
        self._raise_floors(ITEMS, rows, timestamps_ms)

    def _raise_floors(self, side: int, rows: NDArray[np.integer[Any]], timestamps_ms: I64) -> None:
        _check_rows(rows, (self.n_users, self.n_items)[side])
        floors = self._store.by_user.floors if side == USERS else self._store.by_item.floors
        raised = timestamps_ms != NEVER  # the others' memory stays untouched
        rows, times = rows[raised], timestamps_ms[raised]
        floors[rows] = np.maximum(floors[rows] ^ NEVER, times) ^ NEVER
        self._store.state["n_floors"] += len(rows)

    def accept(
        self,
        kinds: NDArray[np.uint8],
        user_rows: I32,
        item_rows: I32,
        ratings: F32,
        timestamps_ms: I64,
        *,
        start: int = 0,
        limit: int = np.iinfo(np.int64).max,
        fold_in: int = 0,
        fold_in_items: int | None = None,
        rework: int = 0,
    ) -> Accepted:
        """Apply events in order, from *start* until *limit* of them were accepted or there are no more.

        Args:
            kinds: 0 rates, 1 unrates. The columns are of one length.
            ratings: Finite; ignored where unrating. -0 is taken as 0.
            fold_in: Rows that hold at most so many ratings after an event have their histories in the result.
            fold_in_items: The same for items, where it is another number.
            rework: The same for an event in whose place a rating was held, which it replaces or takes back.

        Raises `IndexError` for a row that `grow` did not make; what came before it has been applied.
        """
        events = Events(
            column(kinds, np.uint8),
            column(user_rows, np.int32),
            column(item_rows, np.int32),
            column(ratings, np.float32),
            column(timestamps_ms, np.int64),
        )
        n = max(0, min(len(events.kinds) - start, limit))
        most_of_items = fold_in if fold_in_items is None else fold_in_items
        room = n * min(max(fold_in, rework), self.n_items), n * min(max(most_of_items, rework), self.n_users)
        self._check_room(n)
        outcome = self._room_for(n, room)
        stop, n_accepted = accept(self._store, events, start, limit, fold_in, most_of_items, rework, outcome)
        if stop < len(events.kinds) and n_accepted < limit:
            _check_rows(events.user_rows[stop:], self.n_users)
            _check_rows(events.item_rows[stop:], self.n_items)
        return _accepted(outcome, int(stop), int(n_accepted))

    def forget_user(self, row: int, timestamp_ms: int) -> I32:
        """Drop the user's pairs that are not later than *timestamp_ms*, and accept none such again.

        Returns: The item rows whose ratings were dropped, ascending.
        """
        return self._forget(USERS, row, timestamp_ms)

    def remove_item(self, row: int, timestamp_ms: int) -> I32:
        """Drop the item's pairs that are not later than *timestamp_ms*, and accept none such again.

        Returns: The user rows whose ratings were dropped, ascending.
        """
        return self._forget(ITEMS, row, timestamp_ms)

    def user_is_empty(self, row: int) -> bool:
        """Whether nothing at all is remembered of a user's ratings, not even that one was taken back."""
        return self._is_empty(USERS, row)

    def item_is_empty(self, row: int) -> bool:
        """Whether nothing at all is remembered of an item's ratings, not even that one was taken back."""
        return self._is_empty(ITEMS, row)

    def _is_empty(self, side: int, row: int) -> bool:
        _check_rows(np.array([row]), (self.n_users, self.n_items)[side])
        n = row_size(self._store, side, row)
        return not read_pairs_of(self._store, side, row, np.empty(n, np.int32), np.empty(n, np.float32))

    def histories_of_users(self, rows: I32) -> Histories:
        """Return what each of the users *rows* holds, ascending by item row."""
        return self._histories(USERS, rows, self.user_counts)

    def all_histories(self) -> Histories:
        """Return what every user holds, ascending by item row: views of the store until it changes, if it can.

        It can where all is merged and nothing was taken back or forgotten, as in a history loaded at once; else copies.
        """
        store = self._store
        if store.state["phase"][0] or store.pools["used"].any() or store.sides["end"][USERS] != self.n_ratings:
            return self.histories_of_users(np.arange(self.n_users, dtype=np.int32))
        starts = np.zeros(self.n_users + 1, np.int64)
        np.cumsum(self.user_counts, out=starts[1:])
        return Histories(starts, store.by_user.others[: self.n_ratings], store.by_user.ratings[: self.n_ratings])

    def histories_of_items(self, rows: I32) -> Histories:
        """Return what each of the items *rows* holds, ascending by user row."""
        return self._histories(ITEMS, rows, self.item_counts)

    def newest_items(self, user_rows: I32, limit: int) -> Newest:
        """Return the items whose ratings are the newest each user holds, at most *limit*; at equal times the larger row first."""
        user_rows = column(user_rows, np.int32)
        _check_rows(user_rows, self.n_users)
        room = int(np.minimum(self.user_counts[user_rows], limit).sum(dtype=np.int64))
        newest = Newest(np.empty(len(user_rows) + 1, np.int64), np.empty(room, np.int32))
        read_newest_of_all(self._store, user_rows, limit, newest.starts, newest.item_rows, np.empty(room, np.int64))
        return newest

    def entries(self, first_user: int = 0, stop_user: int | None = None) -> Held:
        """Return all pairs of the users from *first_user* to before *stop_user*, tombstones included; copies."""
        stop = self.n_users if stop_user is None else min(stop_user, self.n_users)
        n = count_pairs(self._store, first_user, stop)
        entries = Held(np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.int64))
        n = read_pairs(self._store, first_user, stop, *entries)
        return Held(entries.user_rows[:n], entries.item_rows[:n], entries.ratings[:n], entries.timestamps_ms[:n])

    @classmethod
    def from_entries(
        cls,
        entries: Held,
        *,
        user_floor_ms: I64,
        item_floor_ms: I64,
        user_newest_ms: I64 | None = None,
        item_newest_ms: I64 | None = None,
        least_capacity: int = LEAST_CAPACITY,
    ) -> Ratings:
        """Return a store that holds *entries*, with as many rows as there are floors.

        Newest times not given are those of the entries. Raises `ValueError` when the entries are not ascending by (user, item),
        or name a row that has no floor.
        """
        ratings = cls(least_capacity=least_capacity)
        ratings.grow(len(user_floor_ms), len(item_floor_ms))
        users, items, values, times = entries
        ratings._check_room(len(users))
        columns = (column(users, np.int32), column(items, np.int32), column(values, np.float32), column(times, np.int64))
        if not load(ratings._store, *columns):
            raise ValueError("entries of ratings are not ascending by (user, item), or name rows that do not exist")
        open_pool(ratings._store, 0)
        ratings.raise_user_floors(np.arange(len(user_floor_ms)), user_floor_ms)
        ratings.raise_item_floors(np.arange(len(item_floor_ms)), item_floor_ms)
        if user_newest_ms is not None:
            ratings.user_newest_ms[:] = user_newest_ms
        if item_newest_ms is not None:
            ratings.item_newest_ms[:] = item_newest_ms
        return ratings

    def _room_for(self, n: int, room: tuple[int, int]) -> Outcome:
        """Return columns for at least *n* accepted events, whose users' and items' histories are at most *room* pairs."""
        last = self._room
        if n <= len(last.event_index) and room[0] <= len(last.of_users.others) and room[1] <= len(last.of_items.others):
            return last
        outcome = _outcome(n, room)
        if n <= KEPT_ROOM:
            self._room = outcome
        return outcome

    def _check_room(self, n: int) -> None:
        """Raise `MemoryError` unless *n* more pairs fit; only where address space is limited may they not."""
        index, store = self._store.by_user, self._store
        room = min(len(index.others), len(index.ratings), len(index.times), len(store.by_item.others), len(store.by_item.ratings))
        n_pairs = int(store.sides["end"].max() + store.pools["used"].sum()) + n
        if n_pairs > room:
            raise MemoryError(f"{n_pairs} ratings do not fit: address space was reserved for {room} (is there a `ulimit -v`?)")

    def _forget(self, side: int, row: int, timestamp_ms: int) -> I32:
        _check_rows(np.array([row]), (self.n_users, self.n_items)[side])
        others = np.empty(row_size(self._store, side, row), np.int32)
        return np.sort(others[: forget_row(self._store, side, row, timestamp_ms, others)])

    def _histories(self, side: int, rows: I32, counts: I32) -> Histories:
        rows = column(rows, np.int32)
        _check_rows(rows, len(counts))
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(counts[rows], out=starts[1:])
        histories = Histories(starts, np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32))
        read_rows(self._store, side, rows, histories.others, histories.ratings)
        return histories


def rows_in_blocks(counts: I32, most: int) -> list[I32]:
    """Return the rows that hold ratings, ascending, in blocks of about *most* ratings; *counts* are of all rows."""
    rows = np.flatnonzero(counts).astype(np.int32)
    block = np.cumsum(counts[rows], dtype=np.int64) // most
    return np.split(rows, np.flatnonzero(np.diff(block)) + 1)


def _check_rows(rows: NDArray[np.integer], n_rows: int) -> None:
    """Raise `IndexError` unless all *rows* are in ``0 .. n_rows - 1``."""
    if len(rows) and not (rows.min() >= 0 and rows.max() < n_rows):
        raise IndexError(f"row {rows.min()} or {rows.max()} is not one of {n_rows}: grow the store first")


def _outcome(n: int, room: tuple[int, int]) -> Outcome:
    """Return columns for at most *n* accepted events, whose users' and items' histories are at most *room* pairs."""
    of_users, of_items = room
    return Outcome(
        event_index=np.empty(n, np.int64),
        user_rows=np.empty(n, np.int32),
        item_rows=np.empty(n, np.int32),
        ratings=np.empty(n, np.float32),
        timestamps_ms=np.empty(n, np.int64),
        user_counts=np.empty(n, np.int32),
        item_counts=np.empty(n, np.int32),
        changes=np.empty(n, np.int8),
        of_users=History(np.empty(n + 1, np.int64), np.empty(of_users, np.int32), np.empty(of_users, np.float32)),
        of_items=History(np.empty(n + 1, np.int64), np.empty(of_items, np.int32), np.empty(of_items, np.float32)),
    )


def _accepted(outcome: Outcome, stop: int, n: int) -> Accepted:
    """Return copies of the first *n* events of *outcome*."""
    return Accepted(
        stop,
        event_index=outcome.event_index[:n].copy(),
        user_rows=outcome.user_rows[:n].copy(),
        item_rows=outcome.item_rows[:n].copy(),
        ratings=outcome.ratings[:n].copy(),
        timestamps_ms=outcome.timestamps_ms[:n].copy(),
        user_counts=outcome.user_counts[:n].copy(),
        item_counts=outcome.item_counts[:n].copy(),
        changes=outcome.changes[:n].copy(),
        user_histories=_histories(outcome.of_users, n),
        item_histories=_histories(outcome.of_items, n),
    )


def _histories(history: History, n: int) -> Histories:
    """Return copies of the histories of *n* events."""
    total = int(history.starts[n])
    return Histories(history.starts[: n + 1].copy(), history.others[:total].copy(), history.ratings[:total].copy())
