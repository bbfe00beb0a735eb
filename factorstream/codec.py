"""Events as JSON: one at a time for producers and tests, in columns for the worker.

Where the contract is silent: a key that occurs twice means its last value; a ``timestamp_ms`` of null is an absent one;
fields that an event's type does not have are ignored like unknown ones; the rating -0 is 0; ids of ±2^63 themselves are allowed;
a value with half a surrogate pair in any of its strings is not JSON;
a record without a time of its own (negative, as Kafka says it) neither lends its time nor bounds the event's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from factorstream.errors import DecodeError, InvalidEvent
from factorstream.rating import (
    EARLIEST_TIMESTAMP_MS,
    HOUR_MS,
    MAX_ID_BYTES,
    RATING_MAX,
    RATING_MIN,
    STEP_TOLERANCE,
    Event,
    ForgetUser,
    Rating,
    RemoveItem,
    Unrate,
    check_id,
    check_rating,
    check_timestamp,
    shown,
)

CONTENT_TYPE = "application/json"
RATE, UNRATE, FORGET_USER, REMOVE_ITEM = range(4)
"""Values of `Decoded.kinds`."""
TYPES = ("rate", "unrate", "forget_user", "remove_item")
"""Names of the kinds in an event's ``type``."""
EVENT_KINDS = {Rating: RATE, Unrate: UNRATE, ForgetUser: FORGET_USER, RemoveItem: REMOVE_ITEM}
NO_TIMESTAMP = -1
"""The time of a record that has none."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The readable events of a batch as columns of equal length, in the order of their records, and what was unreadable."""

    kinds: NDArray[np.uint8]
    """`RATE`, `UNRATE`, `FORGET_USER` or `REMOVE_ITEM`."""
    user_ids: list[str | None]
    """None for `REMOVE_ITEM`."""
    item_ids: list[str | None]
    """None for `FORGET_USER`."""
    ratings: NDArray[np.float32]
    """NaN but for `RATE`."""
    timestamps_ms: NDArray[np.int64]
    index: NDArray[np.int64]
    """Which record of the batch each event was."""
    rejects: list[tuple[int, str, str]]
    """Of every other record: its index, a reason code, and one line for a person."""


class _Plain(msgspec.Struct, gc=False):
    """A rating as nearly every record has it; what does not fit is read again, field by field."""

    user_id: str | int
    item_id: str | int
    rating: float
    timestamp_ms: int | float | None = None
    type: Literal["rate"] = "rate"


class _Fields(msgspec.Struct, gc=False):
    """The fields of any event, each still JSON: what is wrong with one is then known by name."""

    user_id: msgspec.Raw = msgspec.Raw()
    item_id: msgspec.Raw = msgspec.Raw()
    rating: msgspec.Raw = msgspec.Raw()
    timestamp_ms: msgspec.Raw = msgspec.Raw()
    type: msgspec.Raw = msgspec.Raw(b'"rate"')


class _Said(msgspec.Struct, gc=False, omit_defaults=True):
    """An event as it is written: fields that its type does not have are left out."""

    user_id: str | None = None
    item_id: str | None = None
    rating: float | None = None
    timestamp_ms: int = 0
    type: str = "rate"


_PLAIN = msgspec.json.Decoder(_Plain)
_FIELDS = msgspec.json.Decoder(_Fields)
_TYPE = msgspec.json.Decoder(str)
_ID = msgspec.json.Decoder(str | int)
_NUMBER = msgspec.json.Decoder(float)
_TIMESTAMP = msgspec.json.Decoder(int | float | None)
_ENCODER = msgspec.json.Encoder()
_UNREADABLE = (ValueError, TypeError, RecursionError)
"""What msgspec raises on bytes: malformed, of another type, not UTF-8; on None; on thousands of nested brackets."""


def encode(event: Event, rating_min: float = RATING_MIN, rating_max: float = RATING_MAX) -> bytes:
    """Return *event* as JSON. Raises `InvalidEvent` when it breaks a rule of the contract, or its rating is outside the range."""
    match event:
        case Rating(user_id, item_id, rating, timestamp_ms):
            number = check_rating(_number(rating), rating_min, rating_max)
            said = _Said(_said_id("user_id", user_id), _said_id("item_id", item_id), number)
        case Unrate(user_id, item_id, timestamp_ms):
            said = _Said(_said_id("user_id", user_id), _said_id("item_id", item_id), type="unrate")
        case ForgetUser(user_id, timestamp_ms):
            said = _Said(_said_id("user_id", user_id), type="forget_user")
        case RemoveItem(item_id, timestamp_ms):
            said = _Said(item_id=_said_id("item_id", item_id), type="remove_item")
        case _:
            raise InvalidEvent("unknown_type", f"{shown(event)} is no Rating, Unrate, ForgetUser or RemoveItem")
    said.timestamp_ms = check_timestamp(int(timestamp_ms))
    return _ENCODER.encode(said)


def _number(rating: object) -> float:
    try:
        return float(cast(float, rating))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidEvent("bad_rating", f"rating {shown(rating)} is {type(rating).__name__}, not a number") from error


def _said_id(field: str, text: object) -> str:
    if not isinstance(text, str):
        raise InvalidEvent(
            "bad_id", f"{field} {shown(text)} is {type(text).__name__}, not str: write str(…), as readers ask for it"
        )
    return check_id(field, text)


def decode(
    value: bytes | None,
    record_timestamp_ms: int = NO_TIMESTAMP,
    *,
    rating_min: float = RATING_MIN,
    rating_max: float = RATING_MAX,
    rating_step: float | None = None,
) -> Event:
    """Return the event that *value* says; an event without a time has the record's. Raises `DecodeError` and nothing else."""
    try:
        fields = _fields_of(value)
        kind = _kind_of(fields)
        user_id = "" if kind == REMOVE_ITEM else _id_of("user_id", fields.user_id)
        item_id = "" if kind == FORGET_USER else _id_of("item_id", fields.item_id)
        rating = check_rating(_rating_of(fields), rating_min, rating_max, rating_step) if kind == RATE else 0.0
        timestamp_ms = _timestamp_of(fields, record_timestamp_ms)
    except DecodeError:
        raise
    except InvalidEvent as error:
        raise DecodeError(error.reason, error.detail) from error
    if kind == RATE:
        return Rating(user_id, item_id, rating, timestamp_ms)
    if kind == UNRATE:
        return Unrate(user_id, item_id, timestamp_ms)
    return ForgetUser(user_id, timestamp_ms) if kind == FORGET_USER else RemoveItem(item_id, timestamp_ms)


def _fields_of(value: bytes | None) -> _Fields:
    if value is None:
        raise DecodeError("null_value", "the record has no value (a tombstone of a compacted topic?)")
    try:
        return _FIELDS.decode(value)
    except msgspec.ValidationError as error:
        raise DecodeError("not_an_object", f"{shown(value)} is JSON, but no object") from error
    except _UNREADABLE as error:
        raise DecodeError("not_json", f"{shown(value)} is not JSON: {error}") from error


def _kind_of(fields: _Fields) -> int:
    try:
        return TYPES.index(_TYPE.decode(fields.type))
    except _UNREADABLE as error:
        raise DecodeError("unknown_type", f"type {shown(bytes(fields.type))} is none of {', '.join(TYPES)}") from error


def _id_of(field: str, json: msgspec.Raw) -> str:
    if not bytes(json):
        raise DecodeError("bad_id", f"{field} is missing")
    try:
        said = _ID.decode(json)
    except _UNREADABLE as error:
        raise DecodeError(
            "bad_id", f"{field} {shown(bytes(json))} is neither text nor an integer without fraction or exponent"
        ) from error
    if isinstance(said, str):
        return check_id(field, said)
    if abs(said) > 2**63:
        raise DecodeError("bad_id", f"{field} {shown(said)} is not within ±2^63: write it as text")
    return str(said)


def _rating_of(fields: _Fields) -> float:
    if not bytes(fields.rating):
        raise DecodeError("bad_rating", "rating is missing")
    try:
        return _NUMBER.decode(fields.rating)
    except _UNREADABLE as error:
        raise DecodeError("bad_rating", f"rating {shown(bytes(fields.rating))} is not a finite number") from error


def _timestamp_of(fields: _Fields, record_timestamp_ms: int) -> int:
    try:
        timestamp_ms = _TIMESTAMP.decode(fields.timestamp_ms) if bytes(fields.timestamp_ms) else None
        if timestamp_ms is not None and timestamp_ms != int(timestamp_ms):
            raise DecodeError("bad_timestamp", f"timestamp_ms {timestamp_ms} has a fraction: it is whole milliseconds")
    except DecodeError:
        raise
    except _UNREADABLE as error:
        raise DecodeError("bad_timestamp", f"timestamp_ms {shown(bytes(fields.timestamp_ms))} is not an integer") from error
    if timestamp_ms is None:
        if record_timestamp_ms < 0:
            raise DecodeError("bad_timestamp", "timestamp_ms is missing, and the record has no time of its own")
        return record_timestamp_ms
    checked = check_timestamp(int(timestamp_ms))
    if checked >= 2**63 and record_timestamp_ms < 0:
        raise DecodeError(
            "bad_timestamp", f"timestamp_ms {shown(checked)} is out of range, and the record has no time of its own"
        )
    late = 0 <= record_timestamp_ms < checked - HOUR_MS
    return record_timestamp_ms if late else checked


def decode_many(
    values: Sequence[bytes | None],
    timestamps_ms: Sequence[int],
    *,
    rating_min: float = RATING_MIN,
    rating_max: float = RATING_MAX,
    rating_step: float | None = None,
) -> Decoded:
    """Decode what can be decoded, each value as `decode` would; what cannot is in the rejects, never raised.

    Ratings that need no second look (text or integer ids, a plain or no time) are checked as columns: 0.3 µs an event here.

    Args:
        timestamps_ms: The records' own times, one per value; `NO_TIMESTAMP` for a record without.
    """
    events, strange = _decode_plain(values)
    record_times = np.array(timestamps_ms, np.int64)
    user_ids, strange_users = _checked_ids([event.user_id for event in events])
    item_ids, strange_items = _checked_ids([event.item_id for event in events])
    ratings, strange_ratings = _checked_ratings([event.rating for event in events], rating_min, rating_max, rating_step)
    times, strange_times = _checked_times([event.timestamp_ms for event in events], record_times)
    columns = Decoded(np.zeros(len(values), np.uint8), user_ids, item_ids, ratings, times, np.arange(len(values)), [])
    again = sorted({*strange, *strange_users, *strange_items, *strange_ratings, *strange_times})
    return _decode_again(
        columns,
        again,
        lambda j: decode(values[j], timestamps_ms[j], rating_min=rating_min, rating_max=rating_max, rating_step=rating_step),
    )


def _decode_plain(values: Sequence[bytes | None]) -> tuple[list[_Plain], list[int]]:
    """Decode all *values* as plain ratings; return them, and where a stand-in is because the value is none."""
    events: list[_Plain] = []
    strange = []
    decode_one, stand_in = _PLAIN.decode, _Plain("-", "-", 0.0)
    for value in values:
        try:
            events.append(decode_one(value))  # type: ignore[arg-type]  # None raises TypeError, and is looked at again
        except _UNREADABLE:
            strange.append(len(events))
            events.append(stand_in)
    return events, strange


def _checked_ids(column: list[str | int]) -> tuple[list[str | None], Iterable[int]]:
    """Return ids as text, and where they break a rule: looked at one by one only if the column as a whole may break one."""
    ids = [_text_of(said) for said in column] if int in set(map(type, column)) else cast(list[str], column)
    lengths = set(map(len, ids))
    strange: list[int] = []
    if lengths and (min(lengths) < 1 or 4 * max(lengths) > MAX_ID_BYTES or "\0" in "".join(ids)):
        strange = [j for j, text in enumerate(ids) if "\0" in text or not 1 <= len(text.encode()) <= MAX_ID_BYTES]
    return cast(list[str | None], ids), strange


def _text_of(said: str | int) -> str:
    if isinstance(said, str):
        return said
    return str(said) if abs(said) <= 2**63 else ""


def _checked_ratings(
    column: list[float], rating_min: float, rating_max: float, rating_step: float | None
) -> tuple[NDArray[np.float32], Iterable[int]]:
    ratings = np.array(column, np.float64)
    allowed = (ratings >= rating_min) & (ratings <= rating_max)
    if rating_step is not None:
        steps = (ratings - rating_min) / rating_step
        allowed &= np.abs(steps - np.rint(steps)) <= STEP_TOLERANCE
    strange = np.flatnonzero(~allowed).tolist()
    with np.errstate(over="ignore"):  # only among the strange ones
        return ratings.astype(np.float32) + np.float32(0), strange  # + 0: no -0, which would be another rating bit by bit


def _checked_times(column: list[int | float | None], record_times: NDArray[np.int64]) -> tuple[NDArray[np.int64], Iterable[int]]:
    try:
        times = np.array(column if set(map(type, column)) <= {int} else _int_times(column, record_times), np.int64)
    except OverflowError:
        times = np.array([time if time < 2**63 else 0 for time in _int_times(column, record_times)], np.int64)
    latest = np.where(record_times < 0, np.iinfo(np.int64).max, record_times + HOUR_MS)
    return np.where(times > latest, record_times, times), np.flatnonzero(times < EARLIEST_TIMESTAMP_MS).tolist()


def _int_times(column: list[int | float | None], record_times: NDArray[np.int64]) -> list[int]:
    """Return times as integers: absent ones are the record's, and those to be looked at again are 0."""
    return [
        record_time if time is None else time if isinstance(time, int) and time >= 0 else 0
        for time, record_time in zip(column, record_times.tolist(), strict=True)
    ]


def _decode_again(columns: Decoded, again: list[int], decode_one: Callable[[int], Event]) -> Decoded:
    """Put the events of the records *again*, decoded one by one, into *columns*; leave out the unreadable ones."""
    for j in again:
        try:
            _put(columns, j, decode_one(j))
        except DecodeError as error:
            columns.rejects.append((j, error.reason, error.detail))
    return _without(columns, [j for j, _, _ in columns.rejects]) if columns.rejects else columns


def _put(columns: Decoded, j: int, event: Event) -> None:
    columns.kinds[j] = EVENT_KINDS[type(event)]
    columns.user_ids[j] = None if isinstance(event, RemoveItem) else event.user_id
    columns.item_ids[j] = None if isinstance(event, ForgetUser) else event.item_id
    columns.ratings[j] = event.rating if isinstance(event, Rating) else np.nan
    columns.timestamps_ms[j] = event.timestamp_ms


def _without(columns: Decoded, unreadable: list[int]) -> Decoded:
    index = np.delete(columns.index, unreadable)
    kept = index.tolist()
    return Decoded(
        columns.kinds[index],
        [columns.user_ids[j] for j in kept],
        [columns.item_ids[j] for j in kept],
        columns.ratings[index],
        columns.timestamps_ms[index],
        index,
        columns.rejects,
    )
