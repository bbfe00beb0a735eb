"""Events: what a producer says about users and items, and the rules that every event keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from factorstream.errors import InvalidEvent

MAX_ID_BYTES = 256
RATING_MIN, RATING_MAX = -1000.0, 1000.0
"""The range of ratings when a model does not set its own."""
STEP_TOLERANCE = 1e-4
"""By what share of a step a rating may miss its category: numbers such as 0.1 are rounded."""
EARLIEST_TIMESTAMP_MS = 10**11
"""March 1973; a smaller number is a time in seconds."""
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Rating:
    """One user's rating of one item; a later one replaces it."""

    user_id: str
    item_id: str
    rating: float
    timestamp_ms: int
    """Event time: milliseconds since the Unix epoch, UTC."""


@dataclass(frozen=True, slots=True)
class Unrate:
    """One user takes back the rating of one item."""

    user_id: str
    item_id: str
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class ForgetUser:
    """Everything about a user is deleted, and nothing older than this is accepted again."""

    user_id: str
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class RemoveItem:
    """An item and all its ratings are deleted, and nothing older than this is accepted again."""

    item_id: str
    timestamp_ms: int


Event = Rating | Unrate | ForgetUser | RemoveItem


def check_id(field: str, text: str) -> str:
    """Return *text*. Raises `InvalidEvent` unless it is 1 to 256 bytes of UTF-8 without NUL; *field* is named in the message."""
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidEvent("bad_id", f"{field} {shown(text)} holds half a surrogate pair, which is no character") from error
    if not 1 <= size_bytes <= MAX_ID_BYTES:
        raise InvalidEvent("bad_id", f"{field} {shown(text)} has {size_bytes} bytes of UTF-8; an id has 1 to {MAX_ID_BYTES}")
    if "\0" in text:
        raise InvalidEvent("bad_id", f"{field} {shown(text)} holds the character NUL")
    return text


def check_rating(
    rating: float, rating_min: float = RATING_MIN, rating_max: float = RATING_MAX, rating_step: float | None = None
) -> float:
    """Return *rating*, zero without a sign.

    Raises `InvalidEvent` unless it is finite, within the range, and, where ratings are categories, at one of the steps of
    *rating_step* from *rating_min* on.
    """
    if not math.isfinite(rating) or not rating_min <= rating <= rating_max:
        raise InvalidEvent("bad_rating", f"rating {rating} is not within {rating_min:g} to {rating_max:g}")
    if rating_step is not None and not is_category((rating - rating_min) / rating_step):
        raise InvalidEvent("bad_rating", f"rating {rating} is none of {_categories(rating_min, rating_max, rating_step)}")
    return rating + 0.0


def is_category(steps: float) -> bool:
    """Whether that many steps above the lowest rating are a category: a whole number of them, but for rounding."""
    return abs(steps - round(steps)) <= STEP_TOLERANCE


def _categories(lowest: float, highest: float, step: float) -> str:
    if lowest + step >= highest:
        return f"{lowest:g} and {highest:g}"
    return f"{lowest:g}, {lowest + step:g}, … {highest:g}"


def check_timestamp(timestamp_ms: int) -> int:
    """Return *timestamp_ms*. Raises `InvalidEvent` when it cannot be milliseconds since the Unix epoch."""
    if timestamp_ms < EARLIEST_TIMESTAMP_MS:
        raise InvalidEvent(
            "bad_timestamp", f"timestamp_ms {shown(timestamp_ms)} looks like seconds; it is milliseconds since 1970"
        )
    return timestamp_ms


def shown(value: object) -> str:
    """Return *value* as a message shows it: its Python form, cut when long."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else repr(value[:80]) + "…"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"of {value.bit_length()} bits"  # Python refuses to write out thousands of digits
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
