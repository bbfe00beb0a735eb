"""The public surface, as a program uses it: only type-checked, never run."""

from collections.abc import Sequence
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import factorstream
from factorstream import (
    DecodeError,
    DeliveryFailed,
    Embedding,
    Estimate,
    Event,
    FactorstreamError,
    ForgetUser,
    InvalidEvent,
    Meta,
    Producer,
    Ranking,
    Rating,
    Reader,
    RemoveItem,
    Uncertainty,
    Unrate,
    Version,
)


def publish(events: Sequence[Event]) -> int:
    with Producer("broker-1:9092,broker-2:9092", topic="ratings", kafka_settings={"security_protocol": "SSL"}) as producer:
        for event in events:
            producer.send(event)
        producer.send(Rating("u42", "m7", 4.5, timestamp_ms=1_700_000_000_000))
        producer.send(Rating(user_id="u42", item_id="m7", rating=4, timestamp_ms=1_700_000_000_000))
        producer.send(Unrate("u42", "m7", timestamp_ms=1_700_000_000_000))
        producer.send(ForgetUser("u42", timestamp_ms=1_700_000_000_000))
        producer.send(RemoveItem("m7", timestamp_ms=1_700_000_000_000))
        try:
            producer.flush()
        except DeliveryFailed as error:
            return error.exit_code
    return 0


def recommend(url: str) -> list[str]:
    with Reader(url, model="movies", timeout_s=0.5) as reader:
        user = reader.user("u42")
        if user is None:
            return []
        assert_type(user, Embedding)
        assert_type(user.vector, NDArray[np.float32])
        assert_type(user.bias, float)
        assert_type(user.augmented, NDArray[np.float32])
        assert_type(user.n_ratings, int)
        assert_type(user.version, Version)
        assert_type(user.timestamp_ms, int)
        assert_type(reader.item("m7"), Embedding | None)
        assert_type(reader.predict("u42", ["m7", "m9"]), list[float])
        assert_type(reader.user_uncertainty("u42"), Uncertainty | None)
        assert_type(reader.item_uncertainty("m7"), Uncertainty | None)
        assert_type(reader.predict_with_uncertainty("u42", ["m7", "m9"]), list[Estimate])
        assert_type(reader.similar_items("m7", 10), Ranking)
        assert_type(reader.similar_users("u42", 10, among=["u1", "u2"]), Ranking)
        assert_type(reader.top_n("u42")[0], tuple[str, float])
        assert_type(reader.top_n("u42").version, Version)
        assert_type(reader.meta(), Meta)
        assert_type(reader.meta().range, tuple[float, float] | None)
        return [item_id for item_id, _ in reader.top_n("u42", 10, exclude={"m1"}, exclude_seen=True)]


def explain(error: FactorstreamError) -> str:
    if isinstance(error, DecodeError | InvalidEvent):
        return f"{error.reason}: {error.detail}"
    return str(error)


assert_type(factorstream.Rating("u", "m", 1.0, 1).rating, float)
