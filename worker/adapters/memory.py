"""Memory twins of Kafka and Redis: the same promises without a service, for tests and experiments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from factorstream.worker.adapters.fenced import FencedPublisher
from factorstream.worker.adapters.group import Solo
from factorstream.worker.adapters.packing import Changes
from factorstream.worker.adapters.topic import OnLostOffsets, check_identity, compacted_topic, lost_offsets, unknown_topic
from factorstream.worker.errors import PublisherUnavailable, SourceUnavailable
from factorstream.worker.ports import Group, Offsets, Records, Reject, SourceIdentity

_TOPIC_IDS = count(1)
SCANNED_AT_ONCE = 1000


@dataclass(slots=True)
class MemoryRecord:
    """A record in a `MemoryLog`."""

    value: bytes | None
    timestamp_ms: int
    content_type: str | None


@dataclass(slots=True)
class MemoryPartition:
    """A partition: its records, of which the first has offset *first*."""

    first: int = 0
    records: list[MemoryRecord] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The offset that the next record will have."""
        return self.first + len(self.records)


class MemoryLog:
    """A topic in memory, with what can happen to one: retention, new partitions, being deleted and made anew, being away."""

    def __init__(self, n_partitions: int = 1, *, topic: str = "ratings", compacted: bool = False) -> None:
        self.topic = topic
        self.compacted = compacted
        self.available = True
        """Whether the broker answers."""
        self.committed: dict[int, int] = {}
        """What lag tools would see."""
        self.partitions: list[MemoryPartition] | None = None
        """None: the topic does not exist."""
        self.create(n_partitions)

    def create(self, n_partitions: int) -> None:
        """Make the topic anew and empty, under another id."""
        self.partitions = [MemoryPartition() for _ in range(n_partitions)]
        self.identity = SourceIdentity("memory", self.topic, f"topic-{next(_TOPIC_IDS)}")

    def delete(self) -> None:
        """Delete the topic and its records."""
        self.partitions = None

    def add_partition(self) -> None:
        """Give the topic one more, empty partition."""
        self.held().append(MemoryPartition())

    def append(self, partition: int, value: bytes | None, timestamp_ms: int = 0, content_type: str | None = None) -> int:
        """Add a record to *partition*; return its offset."""
        held = self.held()[partition]
        held.records.append(MemoryRecord(value, timestamp_ms, content_type))
        return held.end - 1

    def delete_before(self, partition: int, offset: int) -> None:
        """Forget the records of *partition* before *offset*, as retention does."""
        held = self.held()[partition]
        del held.records[: offset - held.first]
        held.first = offset

    def held(self) -> list[MemoryPartition]:
        """Return the partitions. Raises `SourceUnavailable`, `UnknownTopic`."""
        if not self.available:
            raise SourceUnavailable("the log in memory is away")
        if self.partitions is None:
            raise unknown_topic(self.topic, "memory")
        return self.partitions


class MemorySource:
    """Reads a `MemoryLog`; partitions take turns to come first. Never waits."""

    def __init__(
        self, log: MemoryLog, *, group: Group | None = None, max_records: int = 1000, on_lost_offsets: OnLostOffsets = "error"
    ) -> None:
        self._log = log
        self._group = group or Solo()
        self._max_records = max_records
        self._on_lost_offsets = on_lost_offsets
        self._identity: SourceIdentity | None = None
        self._next: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    def open(self, at: Offsets, known: SourceIdentity | None = None) -> SourceIdentity:
        partitions = self._log.held()
        check_identity(self._log.identity, known)
        if self._log.compacted:
            raise compacted_topic(self._log.topic, "compact")
        self._identity = self._log.identity
        self._next = {}
        self._ends = {}
        for partition, offset in at.items():
            self._seek(partition, offset, partitions[partition] if partition < len(partitions) else MemoryPartition())
        mine = self._group.share(range(len(partitions)))
        self._next = {partition: offset for partition, offset in self._next.items() if partition in mine}
        self._follow_topic()
        return self._identity

    def _seek(self, partition: int, offset: int, held: MemoryPartition) -> None:
        if not held.first <= offset <= held.end:
            if self._on_lost_offsets == "error":
                raise lost_offsets(self._log.topic, partition, offset, held.first, held.end)
            offset = held.first
        self._next[partition] = offset

    def _follow_topic(self) -> None:
        partitions = self._log.held()
        check_identity(self._log.identity, self._identity)
        share = self._group.share(range(len(partitions)))
        for partition in share:
            self._next.setdefault(partition, partitions[partition].first)

    def poll(self, timeout_s: float) -> list[Records]:
        del timeout_s
        if not self._log.available:
            return []
        self._follow_topic()
        polled = []
        n_left = self._max_records
        for partition in list(self._next):
            records = self._read(partition, n_left)
            n_left -= len(records.values)
            if records.values:
                polled.append(records)
                self._next[partition] = self._next.pop(partition)  # last in the next poll
        return polled

    def _read(self, partition: int, n_records: int) -> Records:
        held = self._log.held()[partition]
        self._seek(partition, self._next[partition], held)
        self._ends[partition] = held.end
        start = self._next[partition]
        read = held.records[start - held.first : start - held.first + n_records]
        self._next[partition] = start + len(read)
        types = [record.content_type for record in read]
        return Records(
            partition,
            offsets=range(start, start + len(read)),
            timestamps_ms=[record.timestamp_ms for record in read],
            values=[record.value for record in read],
            content_types=types if any(types) else None,
        )

    def lag(self) -> Mapping[int, int]:
        return {partition: end - self._next[partition] for partition, end in self._ends.items()}

    def at_end(self) -> bool:
        return bool(self._next) and all(self._ends.get(partition) == offset for partition, offset in self._next.items())

    def commit(self, offsets: Offsets) -> None:
        self._log.committed.update(offsets)

    def close(self) -> None:
        self._next = {}
        self._ends = {}


class MemoryDeadLetters:
    """Keeps rejects in a list."""

    def __init__(self) -> None:
        self.acknowledged: list[Reject] = []
        self.available = True
        """Whether the broker answers."""
        self._waiting: list[Reject] = []

    def put(self, rejects: Sequence[Reject]) -> None:
        self._waiting += rejects

    def flush(self) -> None:
        if self._waiting and not self.available:
            raise SourceUnavailable(f"{len(self._waiting)} dead letters are not acknowledged: the log in memory is away")
        self.acknowledged += self._waiting
        self._waiting.clear()

    def close(self) -> None:
        """Nothing to give back."""


class MemoryTable:
    """Keys and values as a Redis would hold them; several publishers can fight over one."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.available = True
        """Whether it answers."""
        self.address = "memory"

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._answer()
        return [self.values.get(key) for key in keys]

    def write(self, fence_key: bytes, expected: Collection[bytes | None], changes: Changes, fence: bytes) -> bytes | None:
        self._answer()
        found = self.values.get(fence_key)
        if found in expected:
            for key in changes.removed:
                self.values.pop(key, None)
            self.values.update(zip(changes.keys, changes.values, strict=True))
            self.values[fence_key] = fence
        return found

    def scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        keys = list(self.values)
        for start in range(0, len(keys) or 1, SCANNED_AT_ONCE):
            self._answer()
            yield [key for key in keys[start : start + SCANNED_AT_ONCE] if key.startswith(prefix) and key in self.values]

    def heads(self, keys: Sequence[bytes], n_bytes: int) -> list[bytes]:
        self._answer()
        return [self.values.get(key, b"")[:n_bytes] for key in keys]

    def _answer(self) -> None:
        if not self.available:
            raise PublisherUnavailable("the table in memory is away")

    def close(self) -> None:
        """Nothing to give back."""


class MemoryPublisher(FencedPublisher):
    """Publishes a model to a `MemoryTable`, its own unless one is given."""

    def __init__(
        self,
        table: MemoryTable | None = None,
        model: str = "default",
        *,
        n_buckets: int = 1,
        uncertainty: bool = False,
        replace: bool = False,
        clock_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.table = table or MemoryTable()
        super().__init__(self.table, model, n_buckets=n_buckets, uncertainty=uncertainty, replace=replace, clock_ms=clock_ms)
