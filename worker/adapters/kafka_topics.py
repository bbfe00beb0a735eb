"""Topics for rating events: whether there is one, and making one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.cluster import collect_hosts
from kafka.errors import KafkaError, TopicAlreadyExistsError

from factorstream.worker.errors import SourceUnavailable, UserMistake

CONFIGS = {"cleanup.policy": "delete", "retention.ms": "-1"}
"""Never compacted, and kept for ever: a topic of ratings is what a model can be learned from again."""


def brokers(bootstrap_servers: str) -> list[str]:
    """Return the addresses in *bootstrap_servers*, commas between. Raises `UserMistake` for what is none."""
    addresses = [address.strip() for address in bootstrap_servers.split(",")]
    try:
        good = all(host and 0 < port < 1 << 16 for host, port, _ in collect_hosts(addresses))
    except ValueError:
        good = False
    if not good:
        raise UserMistake(f"{bootstrap_servers!r} is no address of Kafka brokers; write HOST:PORT, several with commas between")
    return addresses


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
        with KafkaAdminClient(bootstrap_servers=brokers(bootstrap_servers), bootstrap_timeout_ms=int(timeout_s * 1000)) as admin:
            yield admin
    except KafkaError as error:
        raise SourceUnavailable(
            f"Kafka at {bootstrap_servers} does not do as asked ({error}): is it up, and is that its address?"
        ) from error
