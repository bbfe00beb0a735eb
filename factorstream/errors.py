"""What can go wrong in the client, in words for the person who calls it: what happened, with which value, what to do."""

from __future__ import annotations


class FactorstreamError(Exception):
    """A failure with a message for a person; the command line prints it in one line and exits with `exit_code`."""

    exit_code = 1


class InvalidEvent(FactorstreamError, ValueError):
    """An event that breaks a rule of the contract."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        """A short code: ``bad_id``, ``bad_rating``, ``bad_timestamp``, …"""
        self.detail = detail
        """One line for a person, with the offending value."""


class DecodeError(InvalidEvent):
    """Bytes that are no readable event."""


class InvalidModelName(FactorstreamError, ValueError):
    """A model name that cannot be part of a key."""

    exit_code = 2


class InvalidAddress(FactorstreamError, ValueError):
    """Text that is no address of a Kafka broker or of a Redis."""

    exit_code = 2


class UnreadableValue(FactorstreamError):
    """Bytes in Redis that are not of a layout this client knows."""


class ModelNotFound(FactorstreamError):
    """No worker has published a model of this name there."""


class NoProbabilities(FactorstreamError):
    """A model whose loss gives a number for a pair, and no probability of each rating."""


class NoUncertainty(FactorstreamError):
    """A model that is published without how sure it is."""


class ReaderUnavailable(FactorstreamError):
    """Redis does not answer."""


class ProducerUnavailable(FactorstreamError):
    """No Kafka broker answers."""


class DeliveryFailed(FactorstreamError):
    """Events that the broker did not acknowledge: they may not be in the topic."""
