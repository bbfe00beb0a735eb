"""Factorstream for programs that publish ratings and programs that read embeddings.

    with Producer("broker:9092") as producer:
        producer.send(Rating("u42", "m7", 4.5, timestamp_ms=1_700_000_000_000))

    reader = Reader("redis://…", model="movies")
    reader.top_n("u42", 10)

Kafka's library is imported when a `Producer` is made, Redis's when a `Reader` is, msgspec when either is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from factorstream.embedding import Embedding, Version
from factorstream.errors import (
    DecodeError,
    DeliveryFailed,
    FactorstreamError,
    InvalidAddress,
    InvalidEvent,
    InvalidModelName,
    ModelNotFound,
    NoProbabilities,
    NoUncertainty,
    ProducerUnavailable,
    ReaderUnavailable,
    UnreadableValue,
)
from factorstream.ranking import Ranking
from factorstream.rating import Event, ForgetUser, Rating, RemoveItem, Unrate
from factorstream.uncertainty import Estimate, Uncertainty

if TYPE_CHECKING:
    from factorstream.meta import Meta
    from factorstream.producer import Producer
    from factorstream.reader import Reader

__all__ = [
    "DecodeError",
    "DeliveryFailed",
    "Embedding",
    "Estimate",
    "Event",
    "FactorstreamError",
    "ForgetUser",
    "InvalidAddress",
    "InvalidEvent",
    "InvalidModelName",
    "Meta",
    "ModelNotFound",
    "NoProbabilities",
    "NoUncertainty",
    "Producer",
    "ProducerUnavailable",
    "Ranking",
    "Rating",
    "Reader",
    "ReaderUnavailable",
    "RemoveItem",
    "Uncertainty",
    "Unrate",
    "UnreadableValue",
    "Version",
]


def __getattr__(name: str) -> object:
    if name == "Producer":
        from factorstream.producer import Producer

        return Producer
    if name == "Reader":
        from factorstream.reader import Reader

        return Reader
    if name == "Meta":
        from factorstream.meta import Meta

        return Meta
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
