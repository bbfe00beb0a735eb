"""What can go wrong, in words for the person who runs the worker: what happened, with which value, what to do."""

from __future__ import annotations

from factorstream.errors import FactorstreamError as FactorstreamError


class UserMistake(FactorstreamError):
    """Something the user can mend in what they typed: settings, arguments, files."""

    exit_code = 2


class SourceUnavailable(FactorstreamError):
    """No Kafka broker has answered for the configured time."""


class UnknownTopic(FactorstreamError):
    """The topic does not exist."""


class CompactedTopic(FactorstreamError):
    """The topic is compacted: one rating a user would be kept."""


class UnreadableTopic(FactorstreamError):
    """The topic's records are compressed with a codec that this Python lacks."""


class RecreatedTopic(FactorstreamError):
    """The topic or cluster is not the one of the checkpoint."""


class LostOffsets(FactorstreamError):
    """The broker no longer has (or does not have yet) the offsets to resume from."""


class PublisherUnavailable(FactorstreamError):
    """Redis does not answer."""


class PublisherPaused(PublisherUnavailable):
    """Redis did not answer a moment ago, and is not asked again yet: nothing was sent."""


class Fenced(FactorstreamError):
    """Another worker with a higher epoch publishes this model."""


class ForeignJournal(FactorstreamError):
    """Redis holds this model's name from another journal."""


class CheckpointsLocked(FactorstreamError):
    """Another worker uses the checkpoint folder."""


class CheckpointDamaged(FactorstreamError):
    """No checkpoint in the folder is whole."""


class CheckpointFailed(FactorstreamError):
    """A checkpoint could not be written (disk full, no permission …)."""


class CheckpointMismatch(UserMistake):
    """The checkpoint was made with other settings than these (rank, model, loss, seed …)."""


class TooManyRejects(FactorstreamError):
    """More unreadable records than `intake.max_reject_share` allows."""


class ServiceFailed(FactorstreamError):
    """A laptop's Kafka or Redis did not start or stop."""


class DataUnavailable(FactorstreamError):
    """Demonstration data could not be fetched."""


class MetricsUnavailable(UserMistake):
    """Nothing can be served at ``metrics.host`` and ``metrics.port``."""
