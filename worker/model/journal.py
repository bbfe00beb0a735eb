"""What happened, in the order it was learned: the model is a function of this and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.model.ratings import Held, Ratings


class Kind(IntEnum):
    """What an entry of the journal says; the first four are also the kinds of events."""

    RATE = 0
    UNRATE = 1
    FORGET_USER = 2
    REMOVE_ITEM = 3
    IDLE_BLOCK = 4
    """A block of the sweep that was solved because there was time, not because it was due."""


ENTRY = np.dtype([("kind", "u1"), ("user", "<i4"), ("item", "<i4"), ("rating", "<f4"), ("time", "<i8")])
"""One entry, 21 bytes; -1 and NaN where a field has no meaning. Rows, never ids: forgetting one leaves the journal as it is."""

Entries = NDArray[np.void]
"""``(n,)`` of `ENTRY`."""


@dataclass(frozen=True, slots=True)
class Events:
    """Events as columns of one length, ids resolved to rows; -1 and NaN where a kind has no such field."""

    kinds: NDArray[np.uint8]
    user_rows: NDArray[np.int32]
    item_rows: NDArray[np.int32]
    ratings: NDArray[np.float32]
    timestamps_ms: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, part: slice) -> Events:
        return Events(self.kinds[part], self.user_rows[part], self.item_rows[part], self.ratings[part], self.timestamps_ms[part])

    @classmethod
    def of_entries(cls, entries: Entries) -> Events:
        """Return journal *entries* as the events that they were."""
        columns = (np.ascontiguousarray(entries[name]) for name in ("kind", "user", "item", "rating", "time"))
        return cls(*columns)


def concatenated(parts: Sequence[Entries]) -> Entries:
    """Return *parts* as one; copies. As bytes: numpy takes records field by field, and holds the interpreter's lock meanwhile."""
    return np.concatenate([np.empty(0, np.uint8), *(part.view(np.uint8) for part in parts)]).view(ENTRY)


def base_of(ratings: Ratings) -> Entries:
    """Return what *ratings* hold as the entries that a journal may begin with."""
    columns = ratings.entries()
    entries = np.zeros(len(columns[0]), ENTRY)
    for name, column in zip(("user", "item", "rating", "time"), columns, strict=True):
        entries[name] = column
    return entries


def ratings_of(base: Entries, journal: Sequence[Entries], n_users: int, n_items: int) -> Ratings:
    """Return the ratings that *base* and the *journal* after it leave, in rows that *n_users* and *n_items* suffice for."""
    held = Held(*(np.ascontiguousarray(base[name]) for name in ("user", "item", "rating", "time")))
    never = np.iinfo(np.int64).min
    ratings = Ratings.from_entries(
        held, user_floor_ms=np.full(n_users, never, np.int64), item_floor_ms=np.full(n_items, never, np.int64)
    )
    for entries in journal:
        hold(ratings, entries)
    return ratings


def hold(ratings: Ratings, entries: Entries) -> None:
    """Hold what journal *entries* say, without learning from it."""
    start = 0
    for at in np.append(np.flatnonzero(entries["kind"] >= Kind.FORGET_USER), len(entries)):
        events = Events.of_entries(entries[start:at])
        if len(events):
            ratings.accept(
                events.kinds,
                events.user_rows,
                events.item_rows,
                events.ratings,
                events.timestamps_ms,
                start=0,
                limit=len(events),
                fold_in=0,
            )
        if at < len(entries) and entries["kind"][at] == Kind.FORGET_USER:
            ratings.forget_user(int(entries["user"][at]), int(entries["time"][at]))
        elif at < len(entries) and entries["kind"][at] == Kind.REMOVE_ITEM:
            ratings.remove_item(int(entries["item"][at]), int(entries["time"][at]))
        start = int(at) + 1
