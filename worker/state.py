"""What survives: the model, what ids mean, how far the log is learned, and what readers have not seen yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from factorstream.codec import Decoded
from factorstream.worker.kernels.memory import reserve
from factorstream.worker.learn.learner import Events, Learned
from factorstream.worker.learn.settings import Learning
from factorstream.worker.learn.sweeper import Solved
from factorstream.worker.model.ids import Ids
from factorstream.worker.model.journal import Entries, Kind
from factorstream.worker.model.level import Level
from factorstream.worker.model.model import USERS, Model, Sweep
from factorstream.worker.model.ratings import Entries as HeldRatings
from factorstream.worker.model.ratings import Ratings

SLOTS = 1024
"""Items in a block."""
NAMES_IN_CHUNK = 1 << 16
"""Ids that are written together; a chunk is written again when one of its ids came or went."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The small part of a checkpoint; JSON in its manifest."""

    journal_id: str
    """Which history this is: made once, when a worker starts from nothing."""
    name: str
    """The model's, in Redis."""
    key: str
    """Hex of the key that forgotten ids are hashed with."""
    epoch: int
    sequence: int
    """The publish sequence this worker had left in Redis."""
    offsets: dict[int, int]
    cluster_id: str
    topic: str
    topic_id: str
    rank: int
    loss: str
    learner: str
    seed: int
    n_accepted: int
    n_blocks: int
    n_users: int
    n_items: int
    n_ratings: int
    removed_users: list[str]
    """Forgotten, and still to be deleted from Redis."""
    removed_items: list[str]
    anew: bool
    """Whether everything was still being published anew."""
    range: tuple[float | None, float | None]
    """The range that the history began with."""
    level: Level
    sweep: Sweep
    learning: Learning
    """Settings that the journal up to here was learned with, since the checkpoint before."""
    platform: str
    """What the same bits can be expected on."""
    created_ms: int

    @property
    def position(self) -> int:
        """Ratings accepted and blocks solved."""
        return self.n_accepted + self.n_blocks


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a checkpoint is made of: all parameters, and of the rest what changed since the snapshot before."""

    facts: Facts
    arrays: Mapping[str, NDArray[Any]]
    """Named arrays that are written whole; copies that belong to the checkpoint store until it is done."""
    names: Mapping[str, Mapping[int, Sequence[str]]]
    """Side → chunk → the ids of its rows; chunks that changed."""
    entries: Sequence[Entries]
    """The journal since the snapshot before, in parts: joining them is not the loop's work."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole state, as read back."""

    facts: Facts
    arrays: Mapping[str, NDArray[Any]]
    names: Mapping[str, Sequence[str]]
    """Side → the id of each row."""
    base: Entries
    """Ratings held where the journal begins, sorted by (user, item), tombstones included."""
    journal: Sequence[Entries]
    """What was learned since, in order."""


FORGOTTEN = np.dtype([("hash", "S16"), ("time", "<i8")])
"""An id that is nowhere, and the time up to which its ratings are not accepted."""


SOLVED, RATED = 1, 2
"""Why a row is pending: a block of the sweep solved it, which can wait; or ratings are in it that readers have not seen."""


def _flags() -> NDArray[np.bool_]:
    return cast(NDArray[np.bool_], reserve((), np.bool_))


def _reasons() -> NDArray[np.uint8]:
    return cast(NDArray[np.uint8], reserve((), np.uint8))


@dataclass(slots=True)
class Renewal:
    """What of everything was not yet published anew."""

    users: NDArray[np.bool_]
    items: NDArray[np.bool_]
    blocks: set[int]

    def note(self, users: NDArray[np.int64], items: NDArray[np.int64], blocks: Sequence[int]) -> None:
        """Strike out what was published."""
        self.users[users[users < len(self.users)]] = False
        self.items[items[items < len(self.items)]] = False
        self.blocks.difference_update(blocks)

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return not (self.blocks or self.users.any() or self.items.any())


@dataclass(slots=True)
class Pending:
    """Rows changed since readers last saw them. Marks of rows bound themselves, however long Redis is away."""

    users: NDArray[np.uint8] = field(default_factory=_reasons)
    """By row: 0, `SOLVED` or `RATED`."""
    items: NDArray[np.uint8] = field(default_factory=_reasons)
    seen: NDArray[np.bool_] = field(default_factory=_flags)
    """Users whose list of seen items changed."""
    blocks: dict[int, None] = field(default_factory=dict)
    """Blocks of items with a change, oldest first."""
    removed_users: dict[str, None] = field(default_factory=dict)
    """Ids to delete."""
    removed_items: dict[str, None] = field(default_factory=dict)
    oldest_record_ms: int | None = None
    """Record time of the oldest event not yet published."""
    renewal: Renewal | None = None
    """What is left of publishing everything anew, after which what else is there belongs to nobody."""

    def add_users(self, rows: NDArray[np.int32]) -> None:
        """Mark user *rows* as rated, and their lists of seen items."""
        self.users[rows] = RATED
        self.seen[rows] = True

    def add_items(self, rows: NDArray[np.int32]) -> None:
        """Mark item *rows* as rated, and the blocks they are in."""
        self.items[rows] = RATED
        self._add_blocks(rows)

    def add_solved(self, solved: Solved) -> None:
        """Mark the rows of a block of the sweep."""
        reasons = self.users if solved.side == USERS else self.items
        reasons[solved.rows] = np.maximum(reasons[solved.rows], SOLVED)
        if solved.side != USERS:
            self._add_blocks(solved.rows)

    def _add_blocks(self, item_rows: NDArray[np.int32]) -> None:
        for number in np.unique(item_rows // SLOTS).tolist():
            self.blocks.setdefault(number)

    def add_all(self, n_users: int, n_items: int) -> None:
        """Mark everything: readers have nothing, or nobody knows what they have. Rows with news still come first."""
        np.maximum(self.users[:n_users], SOLVED, out=self.users[:n_users])
        np.maximum(self.items[:n_items], SOLVED, out=self.items[:n_items])
        self.seen[:n_users] = True
        self._add_blocks(np.arange(0, n_items, dtype=np.int32))
        self.renewal = Renewal(np.ones(n_users, np.bool_), np.ones(n_items, np.bool_), set(self.blocks))

    def n_rows(self, n_users: int, n_items: int) -> int:
        """Return how many rows are to be published."""
        return int(np.count_nonzero(self.users[:n_users])) + int(np.count_nonzero(self.items[:n_items]))

    def n_rated(self, n_users: int, n_items: int) -> int:
        """Return how many of them hold ratings that readers have not seen."""
        return int(np.count_nonzero(self.users[:n_users] == RATED)) + int(np.count_nonzero(self.items[:n_items] == RATED))


class State:
    """The loop's whole memory. One owner: the loop's thread."""

    def __init__(self, model: Model, learning: Learning, *, journal_id: str, key: bytes, shape: Mapping[str, object]) -> None:
        self.model = model
        self.learning = learning
        self.journal_id = journal_id
        self.key = key
        self.shape = shape
        """``name, loss, learner, seed``: what a checkpoint must agree on, besides the rank."""
        self.user_ids = Ids(key)
        self.item_ids = Ids(key)
        self.range = (model.level.lowest, model.level.highest)
        """What was configured when the history began; the journal does not tell."""
        self.offsets: dict[int, int] = {}
        self.epoch = 0
        self.pending = Pending()
        self._entries: list[Entries] = []
        self._shadows: dict[str, NDArray[Any]] = {}

    # --- learning

    def events(self, decoded: Decoded) -> Iterator[Events]:
        """Yield what was decoded, ids turned into rows; learn each part before drawing the next.

        A forgetting is a part of its own: it changes what the ids after it mean.
        """
        start = 0
        for at in np.flatnonzero(decoded.kinds >= Kind.FORGET_USER).tolist():
            yield self._resolve(decoded, start, at)
            yield from self._forget(decoded, at)
            start = at + 1
        yield self._resolve(decoded, start, len(decoded.kinds))

    def absorb(self, learned: Learned) -> None:
        """Remember for the journal and for readers what *learned* changed."""
        self._entries.append(learned.entries)
        if learned.accepted is not None:
            self.pending.add_users(learned.accepted.user_rows)
            self.pending.add_items(learned.accepted.item_rows)
        if len(learned.touched_users) or len(learned.touched_items):
            self.pending.add_users(learned.touched_users)
            self.pending.add_items(learned.touched_items)
        if learned.solved is not None:
            self.pending.add_solved(learned.solved)

    def _resolve(self, decoded: Decoded, start: int, stop: int) -> Events:
        user_ids = cast(list[str], decoded.user_ids[start:stop])  # ratings and unratings have both
        item_ids = cast(list[str], decoded.item_ids[start:stop])
        part = slice(start, stop)
        kinds, ratings, times = decoded.kinds[part], decoded.ratings[part], decoded.timestamps_ms[part]
        if self.user_ids.forgotten or self.item_ids.forgotten:
            keep = self._not_forgotten(user_ids, item_ids, times)
            user_ids, item_ids = [user_ids[j] for j in keep], [item_ids[j] for j in keep]
            kinds, ratings, times = kinds[keep], ratings[keep], times[keep]
        return Events(kinds, self.user_ids.rows(user_ids), self.item_ids.rows(item_ids), ratings, times)

    def _not_forgotten(self, user_ids: Sequence[str], item_ids: Sequence[str], times: NDArray[np.int64]) -> list[int]:
        """Return which events are not older than a forgetting; ids that come back get a row with that time as its floor."""
        kept = []
        for j, (user_id, item_id, time) in enumerate(zip(user_ids, item_ids, times.tolist(), strict=True)):
            floors = [
                (ids, name, floor)
                for ids, name in ((self.user_ids, user_id), (self.item_ids, item_id))
                if name not in ids and (floor := ids.floor_of(name)) is not None
            ]
            if all(time > floor for _, _, floor in floors):
                kept.append(j)
                _ = self.user_ids[user_id], self.item_ids[item_id]  # rows are given in the order of events, however these are cut
                for ids, name, floor in floors:
                    self._set_floor(ids, ids[name], floor)
        return kept

    def _set_floor(self, ids: Ids, row: int, floor: int) -> None:
        ratings = self.model.ratings
        ratings.grow(len(self.user_ids.names), len(self.item_ids.names))
        raise_floors = ratings.raise_user_floors if ids is self.user_ids else ratings.raise_item_floors
        raise_floors(np.array([row]), np.array([floor]))

    def _forget(self, decoded: Decoded, at: int) -> Iterator[Events]:
        """Forget an id, if it is known, and accept nothing of it up to that time, known or not."""
        of_user = decoded.kinds[at] == Kind.FORGET_USER
        ids, named = (self.user_ids, decoded.user_ids) if of_user else (self.item_ids, decoded.item_ids)
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
        ratings = self.model.ratings
        if ratings.user_is_empty(row) if of_user else ratings.item_is_empty(row):
            ids.erase(row)
            removed = self.pending.removed_users if of_user else self.pending.removed_items
            removed.setdefault(name)

    # --- surviving

    def snapshot(self, *, sequence: int, source: tuple[str, str, str], platform: str, created_ms: int) -> Snapshot:
        """Copy what a checkpoint needs. Only when no other snapshot is being written: the copies' memory is used again."""
        model, ratings = self.model, self.model.ratings
        n_users, n_items = len(self.user_ids.names), len(self.item_ids.names)
        ratings.grow(n_users, n_items)
        arrays = {name: self._copy(name, live) for name, live in self._tables().items()}
        arrays["users.pending"] = np.flatnonzero(self.pending.users[:n_users])
        arrays["items.pending"] = np.flatnonzero(self.pending.items[:n_items])
        arrays["blocks.pending"] = np.array(list(self.pending.blocks), np.int64)
        arrays["users.forgotten"] = _forgotten_array(self.user_ids.forgotten)
        arrays["items.forgotten"] = _forgotten_array(self.item_ids.forgotten)
        facts = Facts(
            journal_id=self.journal_id,
            name=str(self.shape["name"]),
            key=self.key.hex(),
            epoch=self.epoch,
            sequence=sequence,
            offsets=dict(self.offsets),
            cluster_id=source[0],
            topic=source[1],
            topic_id=source[2],
            n_accepted=model.n_accepted,
            n_blocks=model.n_blocks,
            n_users=n_users,
            n_items=n_items,
            n_ratings=ratings.n_ratings,
            removed_users=list(self.pending.removed_users),
            removed_items=list(self.pending.removed_items),
            anew=self.pending.renewal is not None,
            range=self.range,
            level=Level(**asdict(model.level)),
            sweep=Sweep(**asdict(model.sweep)),
            learning=self.learning,
            platform=platform,
            created_ms=created_ms,
            rank=model.rank,
            loss=str(self.shape["loss"]),
            learner=str(self.shape["learner"]),
            seed=int(str(self.shape["seed"])),
        )
        chunks = {"users": _take_chunks(self.user_ids), "items": _take_chunks(self.item_ids)}
        entries, self._entries = self._entries, []
        return Snapshot(facts, arrays, chunks, entries)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what *checkpoint* says."""
        facts, arrays = checkpoint.facts, checkpoint.arrays
        self.journal_id, self.key = facts.journal_id, bytes.fromhex(facts.key)
        self.offsets, self.epoch, self.range = dict(facts.offsets), facts.epoch, facts.range
        self.user_ids = Ids(self.key, checkpoint.names["users"], _forgotten_dict(arrays["users.forgotten"]))
        self.item_ids = Ids(self.key, checkpoint.names["items"], _forgotten_dict(arrays["items.forgotten"]))
        self.model = restored_model(checkpoint)
        self.pending.removed_users = dict.fromkeys(facts.removed_users)
        self.pending.removed_items = dict.fromkeys(facts.removed_items)
        self.pending.add_users(arrays["users.pending"].astype(np.int32))
        self.pending.add_items(arrays["items.pending"].astype(np.int32))
        self.pending.blocks.update(dict.fromkeys(arrays["blocks.pending"].tolist()))
        for name, live in self._tables().items():  # now, so that the first checkpoint finds memory to copy into
            self._copy(name, live)

    def _tables(self) -> dict[str, NDArray[Any]]:
        """Return what a checkpoint holds of every row; views."""
        model, ratings = self.model, self.model.ratings
        names = ("users.factors", "users.biases", "items.factors", "items.biases")
        return {
            **dict(zip(names, model.parameters(), strict=True)),
            "users.newest_ms": ratings.user_newest_ms,
            "items.newest_ms": ratings.item_newest_ms,
            "users.floor_ms": ratings.user_floor_ms,
            "items.floor_ms": ratings.item_floor_ms,
        }

    def _copy(self, name: str, live: NDArray[Any]) -> NDArray[Any]:
        """Copy *live* into memory that is kept for the next copy: fresh pages cost ten times the copying."""
        shadow = self._shadows.get(name)
        if shadow is None:
            shadow = self._shadows[name] = reserve(live.shape[1:], live.dtype)
        copy = shadow[: len(live)]
        np.copyto(copy, live)
        return copy


def restored_model(checkpoint: Checkpoint) -> Model:
    """Return the model of *checkpoint*, its ratings held and indexed."""
    facts, arrays = checkpoint.facts, checkpoint.arrays
    model = Model(facts.rank, facts.seed, ratings_of(checkpoint.base, checkpoint.journal, facts.n_users, facts.n_items))
    model.users.restore(arrays["users.factors"], arrays["users.biases"])
    model.items.restore(arrays["items.factors"], arrays["items.biases"])
    model.level, model.sweep = Level(**asdict(facts.level)), Sweep(**asdict(facts.sweep))
    model.n_accepted, model.n_blocks = facts.n_accepted, facts.n_blocks
    for live, name in (
        (model.ratings.user_newest_ms, "users.newest_ms"),
        (model.ratings.item_newest_ms, "items.newest_ms"),
    ):
        live[: len(arrays[name])] = arrays[name]
    for raise_floors, name in (
        (model.ratings.raise_user_floors, "users.floor_ms"),
        (model.ratings.raise_item_floors, "items.floor_ms"),
    ):
        raise_floors(np.arange(len(arrays[name])), arrays[name])
    return model


def ratings_of(base: Entries, journal: Sequence[Entries], n_users: int, n_items: int) -> Ratings:
    """Return the ratings that *base* and the *journal* after it leave, in rows that *n_users* and *n_items* suffice for."""
    held = HeldRatings(*(np.ascontiguousarray(base[name]) for name in ("user", "item", "rating", "time")))
    never = np.iinfo(np.int64).min
    ratings = Ratings.from_entries(
        held, user_floor_ms=np.full(n_users, never, np.int64), item_floor_ms=np.full(n_items, never, np.int64)
    )
    for entries in journal:
        apply(ratings, entries)
    return ratings


def apply(ratings: Ratings, entries: Entries) -> None:
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


def _take_chunks(ids: Ids) -> dict[int, list[str]]:
    """Return the chunks of *ids* that changed since the last call."""
    changed = {row // NAMES_IN_CHUNK for row in ids.erased}
    if ids.dirty_from < len(ids.names):
        changed.update(range(ids.dirty_from // NAMES_IN_CHUNK, (len(ids.names) - 1) // NAMES_IN_CHUNK + 1))
    ids.dirty_from = len(ids.names)
    ids.erased = set()
    return {chunk: ids.names[chunk * NAMES_IN_CHUNK : (chunk + 1) * NAMES_IN_CHUNK] for chunk in sorted(changed)}


def _forgotten_array(forgotten: Mapping[bytes, int]) -> NDArray[np.void]:
    return np.array(sorted(forgotten.items()), FORGOTTEN)


def _forgotten_dict(array: NDArray[Any]) -> dict[bytes, int]:
    return {bytes(row["hash"]).ljust(16, b"\0"): int(row["time"]) for row in array}
