"""Unreadable records into a Kafka topic of their own, with where they were and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import structlog
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from factorstream.worker.adapters.kafka_topics import brokers
from factorstream.worker.errors import SourceUnavailable
from factorstream.worker.ports import Reject

log = structlog.get_logger()

MAX_VALUE_BYTES = 64 << 10
MAX_DETAIL_CHARACTERS = 1000


class KafkaDeadLetters:
    """Writes rejects to a topic, which it creates when it is missing; connects at the first reject, or at `open`."""

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        source_topic: str,
        *,
        timeout_s: float = 30.0,
        security: Mapping[str, object] | None = None,
    ) -> None:
        """Remember where to write; nothing is connected yet.

        Args:
            source_topic: Where the rejects come from, named in each dead letter.
            timeout_s: How long to wait for a broker.
            security: kafka-python's ``security_protocol``, ``sasl_…`` and ``ssl_…`` settings.
        """
        self._address = bootstrap_servers
        self._topic = topic
        self._source_topic = source_topic.encode()
        self._timeout_s = timeout_s
        self._client = {"bootstrap_servers": brokers(bootstrap_servers), "reconnect_backoff_max_ms": 1000, **(security or {})}
        self._producer: Any = None
        self._unacknowledged: deque[tuple[Reject, Any]] = deque()

    def open(self) -> None:
        """See that the topic is there, so that its absence is not found at the first reject. Raises `SourceUnavailable`."""
        if self._producer is not None:
            return
        timeout_ms = round(self._timeout_s * 1000)
        try:
            self._create_topic(timeout_ms)
            self._producer = KafkaProducer(
                **self._client,
                bootstrap_timeout_ms=timeout_ms,
                acks="all",
                enable_idempotence=False,  # which one refused batch would end; a dead letter may well come twice
                max_block_ms=timeout_ms,
                delivery_timeout_ms=timeout_ms,
                request_timeout_ms=max(1000, timeout_ms // 2),
                linger_ms=5,
                metrics_enabled=False,
            )
        except KafkaError as error:
            raise self._unavailable(error) from error

    def _create_topic(self, timeout_ms: int) -> None:
        with KafkaAdminClient(**self._client, bootstrap_timeout_ms=timeout_ms) as admin:
            [described] = admin.describe_topics([self._topic])
            if not described["error_code"]:
                return
            try:
                admin.create_topics([NewTopic(self._topic)], wait_for_metadata=True)
            except TopicAlreadyExistsError:
                return
        log.warning("created the topic of dead letters", topic=self._topic)

    def put(self, rejects: Sequence[Reject]) -> None:
        if not rejects:
            return
        self.open()
        self._forget_acknowledged()
        self._send(rejects)

    def _send(self, rejects: Sequence[Reject]) -> None:
        try:
            for reject in rejects:
                future = self._producer.send(self._topic, **dead_letter(reject, self._source_topic))
                self._unacknowledged.append((reject, future))
        except KafkaError as error:
            raise self._unavailable(error) from error

    def _forget_acknowledged(self) -> None:
        while self._unacknowledged and self._unacknowledged[0][1].succeeded():
            self._unacknowledged.popleft()

    def flush(self) -> None:
        if not self._unacknowledged:
            return
        self._send_failed_again()
        try:
            self._producer.flush(timeout=self._timeout_s)
            for _, future in self._unacknowledged:
                future.get(timeout=self._timeout_s)
        except KafkaError as error:
            raise self._unavailable(error) from error
        self._unacknowledged.clear()

    def _send_failed_again(self) -> None:
        failed = [reject for reject, future in self._unacknowledged if future.failed()]
        self._unacknowledged = deque((reject, future) for reject, future in self._unacknowledged if not future.failed())
        self._send(failed)

    def _unavailable(self, error: KafkaError) -> SourceUnavailable:
        return SourceUnavailable(
            f"cannot write dead letters to topic {self._topic!r} on {self._address} within {self._timeout_s:g} s ({error}); "
            f"see that the broker runs and that the topic exists or may be created"
        )

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=self._timeout_s)
            self._producer = None


class DeadLetter(TypedDict):
    """A Kafka record about a reject."""

    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes]]


def dead_letter(reject: Reject, source_topic: bytes) -> DeadLetter:
    """Return the record for *reject*; a value is cut at 64 KiB, and then the header ``truncated`` is its whole length."""
    headers = [
        ("reason", reject.reason.encode()),
        ("topic", source_topic),
        ("partition", b"%d" % reject.partition),
        ("offset", b"%d" % reject.offset),
        ("detail", reject.detail[:MAX_DETAIL_CHARACTERS].encode("utf-8", "replace")),
    ]
    value = reject.value
    if value is not None and len(value) > MAX_VALUE_BYTES:
        headers.append(("truncated", b"%d" % len(value)))
        value = value[:MAX_VALUE_BYTES]
    # The key is the same when a restart repeats a dead letter.
    return {"key": b"%d-%d" % (reject.partition, reject.offset), "value": value, "headers": headers}
