"""What a topic must be for its offsets to mean something, and the words for a person when it is not."""

from __future__ import annotations

from typing import Literal

from factorstream.worker.errors import CompactedTopic, LostOffsets, RecreatedTopic, UnknownTopic
from factorstream.worker.ports import SourceIdentity

OnLostOffsets = Literal["error", "earliest"]
"""What to do about offsets that the log does not have: stop, or go on from the oldest record there is."""


def unknown_topic(topic: str, address: str) -> UnknownTopic:
    """Return the error for a topic that is not there."""
    return UnknownTopic(
        f"topic {topic!r} does not exist on {address}; create it, for instance with "
        f"'kafka-topics.sh --bootstrap-server {address} --create --topic {topic} --partitions 4', or set kafka.topic"
    )


def compacted_topic(topic: str, cleanup_policy: str) -> CompactedTopic:
    """Return the error for a topic that forgets all but the newest record of a key."""
    return CompactedTopic(
        f"topic {topic!r} has cleanup.policy={cleanup_policy}: a record's key is its user, so only each user's newest rating "
        f"would be kept; set cleanup.policy=delete (kafka-configs.sh --alter --topic {topic} --add-config cleanup.policy=delete) "
        f"or name another topic in kafka.topic"
    )


def check_identity(found: SourceIdentity, known: SourceIdentity | None) -> None:
    """Raise `RecreatedTopic` unless *found* is *known*; what a broker too old for topic ids does not say counts as equal."""
    if known is None:
        return
    then = {"topic": known.topic, "cluster": known.cluster_id, "topic id": known.topic_id}
    now = {"topic": found.topic, "cluster": found.cluster_id, "topic id": found.topic_id}
    differences = [
        f"{part} {now[part]!r}, not {then[part]!r}" for part in now if now[part] and then[part] and now[part] != then[part]
    ]
    if differences:
        raise RecreatedTopic(
            f"topic {found.topic!r} is not the one this model was learned from: {', '.join(differences)}; "
            f"so the checkpoint's offsets mean nothing there. Point kafka.bootstrap_servers and kafka.topic at the old one, "
            f"or begin anew with an empty checkpoint.dir and redis.replace = true"
        )


def lost_offsets(topic: str, partition: int, wanted: int, first: int, end: int) -> LostOffsets:
    """Return the error for a partition that holds offsets from *first* up to, not including, *end*, but not *wanted*."""
    holds = f"offsets {first} to {end - 1}" if end > first else f"no records; its next offset is {end}"
    why = "retention deleted what is between" if wanted < first else "records that were there are gone (restored or truncated)"
    return LostOffsets(
        f"partition {partition} of topic {topic!r} is to be read from offset {wanted}, but the broker has {holds}: {why}. "
        f"Either keep the model, do without the missing ratings and go on from the oldest record: "
        f"kafka.on_lost_offsets = earliest; "
        f"or begin anew from what the topic holds: an empty checkpoint.dir and redis.replace = true"
    )
