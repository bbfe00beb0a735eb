"""Publish events to Kafka: idempotent, acknowledged by all replicas, and never silently lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError
from kafka.partitioner.default import DefaultPartitioner, murmur2

from factorstream.codec import encode
from factorstream.errors import DeliveryFailed, InvalidAddress, ProducerUnavailable
from factorstream.rating import RATING_MAX, RATING_MIN, Event, RemoveItem, shown

MAX_PENDING = 50_000
"""Events sent and not yet acknowledged, at most: some 50 MB."""
TOPIC_PATIENCE_S = 2.0
"""How long a topic that has just been made may take to be seen."""
_SETTINGS: Mapping[str, Any] = {
    "acks": "all",
    "enable_idempotence": True,
    "linger_ms": 5,
    "batch_size": 128 * 1024,
    "metrics_enabled": False,
}


class Producer:
    """A connection that publishes events to one topic. Threads may share it; use it as a context manager, or call `close`.

    Events of one user keep their order: the key is the user's id, and that of a `RemoveItem` the item's id.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str = "ratings",
        *,
        max_pending: int = MAX_PENDING,
        timeout_s: float = 30.0,
        rating_min: float = RATING_MIN,
        rating_max: float = RATING_MAX,
        kafka_settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Connect to *bootstrap_servers*, ``host:port`` with commas between.

        Args:
            max_pending: `send` blocks while so many events wait for their acknowledgement.
            timeout_s: How long to wait for a broker.
            rating_min: The least rating to send, and *rating_max* the greatest: the worker's ``model.rating_min`` and
                ``rating_max``, where these are set.
            kafka_settings: More settings of kafka-python's ``KafkaProducer``, such as ``security_protocol``.

        Raises `InvalidAddress`, and `ProducerUnavailable` when no broker answers in time, or the topic does not exist: it is
        never made here.
        """
        self.topic = topic
        self._max_pending = max_pending
        self._range = rating_min, rating_max
        self._n_unflushed = 0
        self._failures = _Failures(topic)
        self._refused = self._failures.add  # bound once: what is made for every event costs the collector of garbage, too
        self._kafka = _connect(bootstrap_servers, topic, timeout_s, {**_SETTINGS, **(kafka_settings or {})})

    def send(self, event: Event) -> None:
        """Hand *event* over for delivery; block while too many are pending.

        Raises `InvalidEvent` for an event that breaks a rule of the contract, and `DeliveryFailed` when *earlier* events were
        refused; either way *event* is not sent.
        """
        value = encode(event, *self._range)
        self._failures.check()
        key = event.item_id if isinstance(event, RemoveItem) else event.user_id
        self._n_unflushed += 1
        if self._n_unflushed > self._max_pending:  # kafka-python itself would buffer without end
            self._wait()
        try:
            future = self._kafka.send(self.topic, value, key=key.encode())
        except KafkaError as error:
            raise ProducerUnavailable(f"{shown(event)} could not be handed to Kafka: {error}") from error
        future.add_errback(self._refused)

    def flush(self) -> None:
        """Block until every event sent so far is acknowledged or refused. Raises `DeliveryFailed` for those refused."""
        self._wait()
        self._failures.check()

    def close(self) -> None:
        """Flush, then give back the connection. Safe to call twice. Raises `DeliveryFailed` like `flush`."""
        self._kafka.close()
        self._failures.check()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _wait(self) -> None:
        self._n_unflushed = 0
        self._kafka.flush()  # ends at the latest when the events' time for delivery does


class _Failures:
    """Refused events since the last check: how many, and why the first was."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._lock = threading.Lock()
        self._n_failed = 0
        self._first: BaseException | None = None

    def add(self, error: BaseException) -> None:
        with self._lock:
            self._n_failed += 1
            self._first = self._first or error

    def check(self) -> None:
        """Raise `DeliveryFailed` for what has been refused since the last check."""
        if not self._n_failed:
            return
        with self._lock:
            first, n_failed = self._first, self._n_failed
            self._first, self._n_failed = None, 0
        if first is None:
            return  # another thread was told
        raise DeliveryFailed(
            f"{n_failed} events were not acknowledged by topic {self._topic!r}: {first}. "
            "Send all since the last flush again: those that did arrive change nothing the second time"
        ) from first


class _CachedPartitioner(DefaultPartitioner):  # type: ignore[misc]  # kafka-python has no types
    """Kafka's murmur2 partitioner, with the hashes of recent keys remembered: kafka-python takes them byte by byte, in Python."""

    def __init__(self) -> None:
        self._hash = lru_cache(maxsize=65_536)(murmur2)

    def partition(
        self, topic: str, key: bytes, serialized_key: bytes, value: object, serialized_value: object, cluster: Any
    ) -> int:
        partitions = sorted(cluster.partitions_for_topic(topic))
        chosen: int = partitions[(self._hash(serialized_key) & 0x7FFFFFFF) % len(partitions)]
        return chosen


def _connect(bootstrap_servers: str, topic: str, timeout_s: float, settings: Mapping[str, Any]) -> KafkaProducer:
    servers = [server.strip() for server in bootstrap_servers.split(",")]
    timeout_ms = int(timeout_s * 1000)
    where = {"bootstrap_servers": servers, "bootstrap_timeout_ms": timeout_ms}
    try:
        _await_topic(topic, {**where, **{name: settings[name] for name in settings if name in KafkaAdminClient.DEFAULT_CONFIG}})
        client = KafkaProducer(**where, max_block_ms=timeout_ms, partitioner=_CachedPartitioner(), **settings)
        client.partitions_for(topic)
    except ValueError as error:
        raise InvalidAddress(
            f"cannot connect to Kafka at {bootstrap_servers!r} as asked ({error}): "
            "write addresses as HOST:9092,HOST:9092, and settings as kafka-python names them"
        ) from error
    except KafkaError as error:
        raise ProducerUnavailable(
            f"no Kafka broker answers at {bootstrap_servers} within {timeout_s:g} s ({error}): is it up, and is that its address?"
        ) from error
    return client


def _await_topic(topic: str, settings: Mapping[str, Any]) -> None:
    """Return when *topic* is there. Raises `ProducerUnavailable` when it is not after a few seconds.

    Asked of an admin client: a producer that asks for a topic makes it where brokers allow that, with one partition and a
    retention of a week.
    """
    admin = KafkaAdminClient(**settings)
    try:
        end = time.monotonic() + TOPIC_PATIENCE_S
        while admin.describe_topics([topic])[0]["error_code"]:
            if time.monotonic() > end:
                raise ProducerUnavailable(
                    f"topic {topic!r} does not exist at {', '.join(settings['bootstrap_servers'])}: create it first"
                )
            time.sleep(0.1)
    finally:
        admin.close()
