"""The five protocols between the loop and the world; each has a memory twin in `adapters/memory.py`.

One contract suite (`tests/contracts/`) runs on every implementation of a port. Docstrings here are the contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from factorstream.worker.checkpoint import Checkpoint, Snapshot

Offsets = Mapping[int, int]
"""Partition → next offset: the offset of the first record that has *not* been learned."""


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records of one partition, as columns of equal length."""

    partition: int
    offsets: Sequence[int]
    timestamps_ms: Sequence[int]
    """The record's own time, milliseconds since the epoch."""
    values: Sequence[bytes | None]
    content_types: Sequence[str | None] | None
    """Header ``content-type`` of each record; None when no record of the batch has one."""


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """Which log this is: a recreated topic has another ``topic_id``."""

    cluster_id: str
    topic: str
    topic_id: str


class EventSource(Protocol):
    """A resumable stream of records: Kafka in production, lists in memory for tests."""

    def open(self, at: Offsets, known: SourceIdentity | None = None) -> SourceIdentity:
        """Start each partition of this worker's share at its offset in *at*, others at their beginning.

        Raises `SourceUnavailable` (no broker answered in time), `UnknownTopic`, `CompactedTopic`, `RecreatedTopic` (this log is
        not the *known* one, to which *at* belongs), `LostOffsets` (*at* names offsets that the broker no longer has, or not yet).
        """

    def poll(self, timeout_s: float) -> list[Records]:
        """Return what has arrived, at most ``max_records`` in all; wait up to *timeout_s* for the first; [] when idle.

        Order within a partition is the log's. New partitions appear by themselves. Raises `SourceUnavailable` when no
        broker has answered for the configured time, `LostOffsets` when the log was cut below what is to be read, `RecreatedTopic`
        and `UnknownTopic` when the topic was replaced or deleted meanwhile.
        """

    def lag(self) -> Mapping[int, int]:
        """Records not yet polled, by partition, as far as the last fetch knew. Never blocks."""

    def at_end(self) -> bool:
        """Whether every partition has been fetched at least once and polled to its end as of now."""

    def commit(self, offsets: Offsets) -> None:
        """Tell the broker that everything before *offsets* is safe (for lag tools only); never raises for a broker away."""

    def close(self) -> None:
        """Give back connections. Safe to call twice."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that could not be read: where it was, why, and its bytes."""

    partition: int
    offset: int
    reason: str
    """A short code: ``not_json``, ``bad_id``, ``bad_rating``, ``bad_timestamp``, ``unknown_type``, ``null_value``, …"""
    detail: str
    """One line for a person, with the offending value."""
    value: bytes | None


class DeadLetters(Protocol):
    """Where unreadable records go."""

    def put(self, rejects: Sequence[Reject]) -> None:
        """Accept *rejects* for delivery; may return before they are acknowledged."""

    def flush(self) -> None:
        """Block until everything put is acknowledged. Raises `SourceUnavailable` when that takes too long."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Rows of one side, ready to publish: row j of every column belongs to ``ids[j]``."""

    ids: Sequence[str]
    vectors: NDArray[np.float32]
    """``(n, K + 2)``, C-contiguous: K factors, then ``b, 1`` for users or ``1, c`` for items."""
    n_ratings: NDArray[np.uint32]
    timestamps_ms: NDArray[np.int64]
    """Newest rating of each row."""
    variances: NDArray[np.float32] | None = None
    """``(n, K + 1)``, of the factors and of the bias: how sure the model is; None where that is not published."""


@dataclass(frozen=True, slots=True)
class SeenItems:
    """Item slots that users have rated, newest first: those of ``ids[j]`` are ``slots[starts[j]:starts[j + 1]]``.

    An empty list is deleted rather than written.
    """

    ids: Sequence[str]
    starts: NDArray[np.int64]
    slots: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Block:
    """Items in slots ``1024 * number`` to ``1024 * number + 1023``; as many rows as slots are in use."""

    number: int
    ids: Sequence[str | None]
    """None: no item lives in that slot."""
    vectors: NDArray[np.float32]
    """``(len(ids), K + 2)``."""


@dataclass(frozen=True, slots=True)
class Publication:
    """One turn's worth of changes. Arrays belong to the publisher until `publish` returns."""

    position: int
    users: Embeddings
    items: Embeddings
    seen: SeenItems
    blocks: Sequence[Block]
    removed_users: Sequence[str]
    """Forgotten: their embedding, its uncertainty and seen items are deleted."""
    removed_items: Sequence[str]
    meta: Mapping[str, object]
    """The fields of `meta` but ``layout, epoch, n_buckets, published_ms``, which the publisher adds."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """What a publisher found when it took the fence."""

    epoch: int
    intact: bool
    """Whether the store holds exactly what this worker left; if not, everything is to be published again."""


class Publisher(Protocol):
    """The table of embeddings that readers see: Redis in production."""

    def peek(self, journal_id: str | None = None) -> tuple[int, str | None]:
        """Return the highest epoch and the ``journal_id`` found there (0 and None when empty).

        Raises `PublisherUnavailable`, and `ForeignJournal` as `take` will with this *journal_id*.
        """

    def take(self, epoch: int, journal_id: str, left: int | None) -> Takeover:
        """Become the only writer, with *epoch*; *left* is the publish sequence that this worker's checkpoint holds.

        Raises `Fenced` when a higher epoch is there, `ForeignJournal` when meta names another journal and replacing
        was not asked for, `PublisherUnavailable`.
        """

    def publish(self, publication: Publication) -> bool:
        """Write everything, each bucket under its fence; return whether the fence was found as this worker left it.

        False: the store lost its memory or was restored (missing, lower or unknown fence). It has been taken again, and the
        caller publishes all rows. Raises `Fenced` (another worker has taken over) and `PublisherUnavailable`
        (nothing is promised about what was written; publishing the same or newer rows again is right).
        """

    def remove_other_epochs(self) -> Iterator[int]:
        """Delete this model's keys that were not written since everything is published anew, about a thousand a step.

        Yields how many it deleted, often 0; publishing between two steps is fine, and so is leaving early and beginning again.
        Raises `PublisherUnavailable`, also when the fence was lost: the next `publish` says so, and everything begins again.
        """

    @property
    def sequence(self) -> int:
        """The publish sequence this worker left last."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that is durable."""

    position: int
    size_bytes: int
    """Of all that it consists of, files shared with other checkpoints included."""


class CheckpointStore(Protocol):
    """Durable states, newest last. One writer at a time; a lock keeps a second worker out."""

    def lock(self) -> None:
        """Keep others out until `close`. Raises `CheckpointsLocked`, naming who holds it, and `CheckpointFailed`."""

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, falling back (and saying so) over damaged ones; None when there is none.

        What is begun afterwards continues from it. Raises `CheckpointDamaged` when there are checkpoints and none is whole.
        """

    def epoch(self) -> int:
        """Return the highest epoch claimed here, 0 before the first."""

    def claim(self, epoch: int) -> None:
        """Note durably that *epoch* is taken. Raises `CheckpointFailed`."""

    def begin(self, snapshot: Snapshot) -> None:
        """Start making *snapshot* durable beside the caller; its arrays belong to the store until `busy` is false.

        Only when not `busy`, and `durable` has told of the one before. What a failed one held of the journal and the ids is
        written with the next.
        """

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""

    @property
    def remembers_forgotten(self) -> bool:
        """Whether a kept checkpoint but the newest still has an id that was forgotten since; some more checkpoints end that."""

    def durable(self) -> Written | None:
        """Return the last checkpoint begun and now durable, None before the first.

        Raises `CheckpointFailed` once for one that failed (disk full …).
        """

    def wait(self) -> None:
        """Block until not `busy`."""

    def close(self) -> None:
        """Wait, and let others in. Safe to call twice."""


class Group(Protocol):
    """The workers that share one model: one machine now, many later."""

    @property
    def rank(self) -> int:
        """Which of the workers this is, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def share(self, partitions: Sequence[int]) -> list[int]:
        """Return the partitions of the topic that this rank reads, ascending."""
