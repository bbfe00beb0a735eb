"""What ids mean: rows, given at first sight, and taken back when an id is forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from factorstream.codec import Decoded
from factorstream.worker.checkpoint import NAMES_IN_CHUNK
from factorstream.worker.model.forgotten import Forgotten
from factorstream.worker.model.ids import Ids
from factorstream.worker.model.journal import Events, Kind
from factorstream.worker.model.ratings import Ratings
from factorstream.worker.pending import Pending


class Identities:
    """The ids of both sides."""

    def __init__(self, users: Ids, items: Ids) -> None:
        self.users = users
        self.items = items

    @classmethod
    def new(cls, key: bytes) -> Identities:
        """Know nobody; *key* hashes ids that will be forgotten."""
        return cls(Ids(key), Ids(key))

    @classmethod
    def restored(cls, key: bytes, names: Mapping[str, Sequence[str]], arrays: Mapping[str, NDArray[Any]]) -> Identities:
        """Return those of a checkpoint: its *names*, and of its *arrays* who was forgotten."""
        users, items = (Ids(key, names[side], Forgotten(arrays[f"{side}.forgotten"])) for side in ("users", "items"))
        return cls(users, items)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return who was forgotten, for a checkpoint."""
        return {"users.forgotten": self.users.forgotten.array(), "items.forgotten": self.items.forgotten.array()}

    def take_chunks(self) -> dict[str, dict[int, list[str]]]:
        """Return the names that changed since the last call, by side and chunk."""
        return {"users": _take_chunks(self.users), "items": _take_chunks(self.items)}

    def events(self, decoded: Decoded, held: Ratings, pending: Pending) -> Iterator[Events]:
        """Yield what was decoded, ids turned into rows; learn each part before drawing the next.

        A forgetting is a part of its own: it changes what the ids after it mean. An id of which then nothing is *held* is erased,
        and *pending* gets it as removed.
        """
        start = 0
        for at in np.flatnonzero(decoded.kinds >= Kind.FORGET_USER).tolist():
            yield self._resolve(decoded, start, at, held)
            yield from self._forget(decoded, at, held, pending)
            start = at + 1
        yield self._resolve(decoded, start, len(decoded.kinds), held)

    def _resolve(self, decoded: Decoded, start: int, stop: int, held: Ratings) -> Events:
        user_ids = cast(list[str], decoded.user_ids[start:stop])  # ratings and unratings have both
        item_ids = cast(list[str], decoded.item_ids[start:stop])
        part = slice(start, stop)
        kinds, ratings, times = decoded.kinds[part], decoded.ratings[part], decoded.timestamps_ms[part]
        if not (self.users.forgotten or self.items.forgotten):
            return Events(kinds, self.users.rows(user_ids), self.items.rows(item_ids), ratings, times)
        user_rows, item_rows = self.users.known_rows(user_ids), self.items.known_rows(item_ids)
        keep = np.ones(len(kinds), np.bool_)
        for j in np.flatnonzero((user_rows < 0) | (item_rows < 0)).tolist():  # others' rows have the floor
            keep[j] = self._admit(user_ids[j], item_ids[j], int(times[j]), held)
            if keep[j]:  # now, so that rows are given in the order of events, however these are cut
                user_rows[j], item_rows[j] = self.users[user_ids[j]], self.items[item_ids[j]]
        return Events(kinds[keep], user_rows[keep], item_rows[keep], ratings[keep], times[keep])

    def _admit(self, user_id: str, item_id: str, time: int, held: Ratings) -> bool:
        """Return whether an event is not older than a forgetting; ids that come back get a row with that time as its floor."""
        floors = [
            (ids, name, floor)
            for ids, name in ((self.users, user_id), (self.items, item_id))
            if name not in ids and (floor := ids.floor_of(name)) is not None
        ]
        if any(time <= floor for _, _, floor in floors):
            return False
        for ids, name, floor in floors:
            self._set_floor(ids, ids[name], floor, held)
        return True

    def _set_floor(self, ids: Ids, row: int, floor: int, held: Ratings) -> None:
        held.grow(len(self.users.names), len(self.items.names))
        raise_floors = held.raise_user_floors if ids is self.users else held.raise_item_floors
        raise_floors(np.array([row]), np.array([floor]))

    def _forget(self, decoded: Decoded, at: int, held: Ratings, pending: Pending) -> Iterator[Events]:
        """Forget an id, if it is known, and accept nothing of it up to that time, known or not."""
        of_user = decoded.kinds[at] == Kind.FORGET_USER
        ids, named = (self.users, decoded.user_ids) if of_user else (self.items, decoded.item_ids)
        name = cast(str, named[at])
        time = int(decoded.timestamps_ms[at])
        ids.raise_floor(name, time)
        row = ids.get(name)
        if row is None:
            return
        user, item = (row, -1) if of_user else (-1, row)
        yield Events(
            decoded.kinds[at : at + 1],
            np.array([user], np.int32),
            np.array([item], np.int32),
            np.array([np.nan], np.float32),
            np.array([time], np.int64),
        )
        if held.user_is_empty(row) if of_user else held.item_is_empty(row):
            ids.erase(row)
            removed = pending.removed_users if of_user else pending.removed_items
            removed.setdefault(name)


def _take_chunks(ids: Ids) -> dict[int, list[str]]:
    """Return the chunks of *ids* that changed since the last call."""
    changed = {row // NAMES_IN_CHUNK for row in ids.erased}
    if ids.dirty_from < len(ids.names):
        changed.update(range(ids.dirty_from // NAMES_IN_CHUNK, (len(ids.names) - 1) // NAMES_IN_CHUNK + 1))
    ids.dirty_from = len(ids.names)
    ids.erased = set()
    return {chunk: ids.names[chunk * NAMES_IN_CHUNK : (chunk + 1) * NAMES_IN_CHUNK] for chunk in sorted(changed)}
