"""Factorstream for programs that publish ratings and programs that read embeddings.

    with Producer("broker:9092") as producer:
        producer.send(Rating("u42", "m7", 4.5, timestamp_ms=1_700_000_000_000))

    reader = Reader("redis://…", model="movies")
    reader.top_n("u42", 10)

Kafka's library is imported when a `Producer` is made, Redis's when a `Reader` is.
"""

from __future__ import annotations

from factorstream.embedding import Embedding, Version
from factorstream.errors import (
    DecodeError,
    DeliveryFailed,
    FactorstreamError,
    InvalidEvent,
    InvalidModelName,
    ModelNotFound,
    ProducerUnavailable,
    ReaderUnavailable,
    UnreadableValue,
)
from factorstream.meta import Meta

__all__ = [
    "DecodeError",
    "DeliveryFailed",
    "Embedding",
    "FactorstreamError",
    "InvalidEvent",
    "InvalidModelName",
    "Meta",
    "ModelNotFound",
    "ProducerUnavailable",
    "ReaderUnavailable",
    "UnreadableValue",
    "Version",
]
