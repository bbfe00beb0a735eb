"""Rating records out of Kafka, with kafka-python: partitions assigned, offsets our own, nothing decided by a consumer group."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

import structlog
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.cluster import ClusterMetadata
from kafka.errors import (
    InvalidTopicError,
    KafkaError,
    LogTruncationError,
    NoError,
    OffsetOutOfRangeError,
    RetriableError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
    for_code,
)
from kafka.structs import OffsetAndMetadata

from factorstream.worker.adapters.kafka_records import Record, RecordReader
from factorstream.worker.adapters.kafka_topics import brokers
from factorstream.worker.adapters.topic import OnLostOffsets, check_identity, compacted_topic, lost_offsets, unknown_topic
from factorstream.worker.errors import SourceUnavailable, UnreadableTopic
from factorstream.worker.ports import Group, Offsets, Records, SourceIdentity

log = structlog.get_logger()

LOOK_EVERY_S = 3.0
"""How often a broker is asked about the topic: new partitions, a topic made anew, and whether a broker answers at all."""
RETRY_S = 0.2
LAST_COMMIT_MS = 3000
MIB = 1 << 20


class Heard(NamedTuple):
    """What a broker said last about the topic."""

    at_s: float
    """By the monotonic clock."""
    topic_id: str
    partitions: frozenset[int]
    """Empty: the topic is not there."""


class KafkaSource:
    """The partitions of one topic that are this worker's share.

    Partitions are assigned, not subscribed: a group's session would make the successor of a killed worker wait for 45 s. The
    group id only names the offsets that are committed for lag tools, by a client of their own, because finding a group's
    coordinator holds up every poll of the client that has one.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        group: Group,
        group_id: str | None = None,
        max_records: int = 5_000,
        timeout_s: float = 30.0,
        on_lost_offsets: OnLostOffsets = "error",
        security: Mapping[str, object] | None = None,
    ) -> None:
        """Remember what to read; nothing is connected before `open`. Raises `UserMistake` for addresses that are none.

        Args:
            bootstrap_servers: ``host:port``, several separated by commas.
            timeout_s: How long to wait for a broker, at the start and while running.
            security: kafka-python's ``security_protocol``, ``sasl_…`` and ``ssl_…`` settings.
        """
        self._address = bootstrap_servers
        self._topic = topic
        self._group = group
        self._group_id = group_id
        self._max_records = max_records
        self._timeout_s = timeout_s
        self._on_lost_offsets = on_lost_offsets
        self._client = {
            "bootstrap_servers": brokers(bootstrap_servers),
            "bootstrap_timeout_ms": round(timeout_s * 1000),
            "request_timeout_ms": max(1000, round(min(timeout_s, 10.0) * 1000)),
            "reconnect_backoff_max_ms": 1000,
            **(security or {}),
        }
        self._look_every_s = min(LOOK_EVERY_S, timeout_s / 4)
        self._consumer: Any = None
        self._committer: Any = None
        self._uncommitted: dict[TopicPartition, OffsetAndMetadata] = {}
        self._n_failed_commits = 0
        self._identity = SourceIdentity("", topic, "")
        self._heard = Heard(0.0, "", frozenset())
        self._silent_since_s: float | None = None

    def open(self, at: Offsets, known: SourceIdentity | None = None) -> SourceIdentity:
        until_s = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._open(at, known)
            except KafkaError as error:
                if not error.retriable or time.monotonic() > until_s:
                    raise self._unavailable(
                        f"no Kafka broker answered as it should within {self._timeout_s:g} s", error
                    ) from error
            time.sleep(RETRY_S)

    def _open(self, at: Offsets, known: SourceIdentity | None) -> SourceIdentity:
        self._identity, partitions = self._examine()
        check_identity(self._identity, known)
        self._connect(partitions)
        self._resume(at, partitions)
        return self._identity

    def _examine(self) -> tuple[SourceIdentity, list[int]]:
        """Return which topic this is and its partitions. Raises `UnknownTopic`, `CompactedTopic`."""
        with KafkaAdminClient(**self._client) as admin:
            cluster_id = admin.describe_cluster()["cluster_id"]
            # Asked here and not of the consumer, whose question would create the topic.
            [described] = admin.describe_topics([self._topic])
            error = for_code(described["error_code"])
            if error in (UnknownTopicOrPartitionError, InvalidTopicError):
                raise unknown_topic(self._topic, self._address)
            if error is not NoError:
                raise error(self._topic)
            self._check_not_compacted(admin)
        partitions = [partition["partition_index"] for partition in described["partitions"]]
        return SourceIdentity(cluster_id, self._topic, str(described["topic_id"] or "")), partitions

    def _check_not_compacted(self, admin: KafkaAdminClient) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, self._topic, ["cleanup.policy"])
        settings = admin.describe_configs([resource], config_filter="all")["topic"][self._topic]
        policy = settings.get("cleanup.policy", {}).get("value", "")  # empty where this user may not see settings
        if "compact" in policy:
            raise compacted_topic(self._topic, policy)

    def _connect(self, partitions: Sequence[int]) -> None:
        self.close()
        self._consumer = KafkaConsumer(
            **self._client,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_poll_records=self._max_records,
            fetch_max_bytes=16 * MIB,
            max_partition_fetch_bytes=MIB,
            metadata_max_age_ms=round(self._look_every_s * 1000),
            metrics_enabled=False,
        )
        self._consumer._fetcher.PartitionRecords = RecordReader
        metadata: ClusterMetadata = self._consumer._cluster  # no public way to hear of answers, ids and partitions without asking
        metadata.config["allow_auto_create_topics"] = False  # 3.0 does not pass it on: looking at a deleted topic would create it
        self._heard = Heard(time.monotonic(), self._identity.topic_id, frozenset(partitions))
        metadata.add_listener(self._hear)
        if self._group_id:
            committing = {"group_id": self._group_id, "enable_auto_commit": False, "metrics_enabled": False}
            self._committer = KafkaConsumer(**self._client, **committing)

    def _hear(self, metadata: ClusterMetadata) -> None:
        """Note a broker's answer; called by the client's thread."""
        partitions = frozenset(metadata.partitions_for_topic(self._topic) or ())
        self._heard = Heard(time.monotonic(), str(metadata.topic_id(self._topic) or ""), partitions)

    def _resume(self, at: Offsets, partitions: Sequence[int]) -> None:
        """Assign this worker's share of *partitions* and set each one's next offset. Raises `LostOffsets`."""
        share = self._group.share(partitions)
        first, end = self._bounds(sorted({*share, *at}.intersection(partitions)))
        for partition in at:
            if not first.get(partition, 0) <= at[partition] <= end.get(partition, 0):
                self._lose(partition, at[partition], first.get(partition, 0), end.get(partition, 0))
        kept = {p: at[p] for p in share if p in at and first[p] <= at[p] <= end[p]}
        self._assign({p: kept.get(p, first[p]) for p in share})

    def _bounds(self, partitions: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
        """Return the first offset of each partition, and the end: the offset its next record will have."""
        named = [TopicPartition(self._topic, partition) for partition in partitions]
        timeout_ms = round(self._timeout_s * 1000)
        first = self._consumer.beginning_offsets(named, timeout_ms=timeout_ms)
        end = self._consumer.end_offsets(named, timeout_ms=timeout_ms)
        return {tp.partition: offset for tp, offset in first.items()}, {tp.partition: offset for tp, offset in end.items()}

    def _assign(self, next_offsets: Offsets) -> None:
        """Read *next_offsets* too, beside what is being read already."""
        added = {TopicPartition(self._topic, partition): offset for partition, offset in next_offsets.items()}
        self._consumer.assign(sorted({*self._consumer.assignment(), *added}))
        for tp, offset in added.items():
            self._consumer.seek(tp, offset)

    def poll(self, timeout_s: float) -> list[Records]:
        try:
            self._follow_topic()
            polled = self._consumer.poll(timeout_ms=timeout_s * 1000, max_records=self._max_records)
        except OffsetOutOfRangeError as error:
            self._reset(error.args[0])
            return []
        except LogTruncationError as error:
            progress = self._progress()
            self._reset({tp: progress[tp.partition][0] for tp in error.divergent_offsets})
            return []
        except UnsupportedCodecError as error:
            raise UnreadableTopic(f"topic {self._topic!r} has compressed records: {error}; pip install it") from error
        except RetriableError:
            return []
        except KafkaError as error:
            raise self._unavailable(f"Kafka does not let topic {self._topic!r} be read", error) from error
        return [columns(tp.partition, records) for tp, records in polled.items()]

    def _follow_topic(self) -> None:
        """Act on what a broker said last: take up new partitions, stop when the topic is another one or nobody answers."""
        heard = self._heard
        now_s = time.monotonic()
        if heard.partitions and now_s - heard.at_s < 2 * self._look_every_s:
            self._silent_since_s = None
        elif self._silent_since_s is None:
            # Counted from the first poll that notices: a worker that was stopped for a while gives the broker its time.
            self._silent_since_s = now_s
        elif now_s - self._silent_since_s > self._timeout_s:
            self._give_up()
        if heard.partitions:
            check_identity(SourceIdentity(self._identity.cluster_id, self._topic, heard.topic_id), self._identity)
            self._take_up(heard.partitions)

    def _give_up(self) -> NoReturn:
        if not self._heard.partitions:
            raise unknown_topic(self._topic, self._address)
        raise SourceUnavailable(
            f"no Kafka broker has answered at {self._address} for {self._timeout_s:g} s; "
            f"nothing is lost: the worker goes on at its checkpoint when it is started again"
        )

    def _take_up(self, partitions: frozenset[int]) -> None:
        added = sorted(set(self._group.share(sorted(partitions))) - {tp.partition for tp in self._consumer.assignment()})
        if added:
            first, _ = self._bounds(added)
            self._assign(first)
            log.info("reading new partitions", topic=self._topic, partitions=added)

    def _reset(self, wanted: Mapping[TopicPartition, int]) -> None:
        """Go on from the oldest records of the partitions in *wanted*.

        Raises `LostOffsets` unless that was asked for, `RecreatedTopic` when the log is another one.
        """
        check_identity(self._examine()[0], self._identity)
        first, end = self._bounds([tp.partition for tp in wanted])
        for tp, offset in wanted.items():
            self._lose(tp.partition, offset, first[tp.partition], end[tp.partition])
        self._assign(first)

    def _lose(self, partition: int, wanted: int, first: int, end: int) -> None:
        error = lost_offsets(self._topic, partition, wanted, first, end)
        if self._on_lost_offsets == "error":
            raise error
        log.warning("going on without lost records", topic=self._topic, partition=partition, wanted=wanted, first=first, end=end)

    def _unavailable(self, what: str, error: KafkaError) -> SourceUnavailable:
        return SourceUnavailable(
            f"{what} ({error}); see that it runs and that kafka.bootstrap_servers = {self._address} is right"
        )

    def lag(self) -> Mapping[int, int]:
        return {partition: end - offset for partition, (offset, end) in self._progress().items() if end is not None}

    def at_end(self) -> bool:
        progress = self._progress()
        return bool(progress) and all(offset == end for offset, end in progress.values())

    def _progress(self) -> dict[int, tuple[int, int | None]]:
        """Return partition → (next offset, end as of the last fetch or None before the first)."""
        # The consumer's own `position` may ask a broker, and takes 15 µs a partition when it does not.
        states = self._consumer._subscription.assignment
        return {tp.partition: (state.position.offset, state.highwater) for tp, state in states.items()}

    def commit(self, offsets: Offsets) -> None:
        if self._committer is None or not offsets:
            return
        marked = {TopicPartition(self._topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        self._uncommitted = marked
        future = self._committer.commit_async(marked)
        future.add_errback(self._commit_failed)
        future.add_callback(partial(self._commit_succeeded, marked))

    def _commit_failed(self, error: Exception) -> None:
        self._n_failed_commits += 1
        if self._n_failed_commits == 2:  # a group's first commit fails while its coordinator is being found
            log.warning("cannot commit offsets; only lag tools miss them", group_id=self._group_id, error=str(error))

    def _commit_succeeded(self, marked: object, _: object) -> None:
        self._n_failed_commits = 0
        if self._uncommitted is marked:
            self._uncommitted = {}

    def close(self) -> None:
        self._commit_the_last()
        for client in (self._consumer, self._committer):
            if client is not None:
                client.close(timeout_ms=1000)
        self._consumer = self._committer = None

    def _commit_the_last(self) -> None:
        """Wait a while for the newest commit: a client that is closed cancels it."""
        marked, self._uncommitted = self._uncommitted, {}
        if self._committer is None or not marked:
            return
        try:
            self._committer.commit(marked, timeout_ms=LAST_COMMIT_MS)
        except KafkaError as error:
            self._commit_failed(error)


def columns(partition: int, records: Sequence[Record]) -> Records:
    """Turn records of one partition, at least one, into columns."""
    offsets, timestamps_ms, values, content_types = zip(*records, strict=True)
    return Records(partition, offsets, timestamps_ms, values, content_types if any(content_types) else None)
