"""Topics for rating events: whether there is one, and making one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from factorstream.worker.errors import SourceUnavailable

CONFIGS = {"cleanup.policy": "delete", "retention.ms": "-1"}
"""Never compacted, and kept for ever: a topic of ratings is what a model can be learned from again."""


def exists(bootstrap_servers: str, topic: str, *, timeout_s: float = 30.0) -> bool:
    """Return whether *topic* is there. Raises `SourceUnavailable`."""
    with _admin(bootstrap_servers, timeout_s) as admin:
        [described] = admin.describe_topics([topic])
        return not described["error_code"]


def create(bootstrap_servers: str, topic: str, n_partitions: int, *, timeout_s: float = 30.0) -> bool:
    """Make *topic*; return whether it was not there before. Raises `SourceUnavailable`."""
    with _admin(bootstrap_servers, timeout_s) as admin:
        try:
            admin.create_topics([NewTopic(topic, num_partitions=n_partitions, topic_configs=CONFIGS)], wait_for_metadata=True)
        except TopicAlreadyExistsError:
            return False
    return True


@contextmanager
def _admin(bootstrap_servers: str, timeout_s: float) -> Iterator[KafkaAdminClient]:
    try:
        with KafkaAdminClient(
            bootstrap_servers=bootstrap_servers.split(","), bootstrap_timeout_ms=int(timeout_s * 1000)
        ) as admin:
            yield admin
    except KafkaError as error:
        raise SourceUnavailable(
            f"Kafka at {bootstrap_servers} does not do as asked ({error}): is it up, and is that its address?"
        ) from error
