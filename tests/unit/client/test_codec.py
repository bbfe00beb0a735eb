"""Laws of the JSON codec: what is read, what is refused, and that columns mean what single events mean."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from factorstream import DecodeError, ForgetUser, InvalidEvent, Rating, RemoveItem, Unrate
from factorstream.codec import FORGET_USER, RATE, REMOVE_ITEM, UNRATE, decode, decode_many, encode

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000

ids = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=64)
times = st.integers(10**11, 2**63 - 1)
numbers = st.floats(-1000, 1000)
events = st.one_of(
    st.builds(Rating, ids, ids, numbers, times),
    st.builds(Unrate, ids, ids, times),
    st.builds(ForgetUser, ids, times),
    st.builds(RemoveItem, ids, times),
)

TOKENS = [
    *[
        '"u1"',
        '"é"',
        '"0111161"',
        '""',
        '"\\u0000"',
        '"a\\u0000b"',
        '"\\ud800"',
        '"\\ud83d\\ude00"',
        '"rate"',
        '"unrate"',
        '"forget_user"',
    ],
    *[
        '"remove_item"',
        '"Rate"',
        '"1700000000000"',
        json.dumps("x" * 256),
        json.dumps("x" * 257),
        json.dumps("é" * 128),
        json.dumps("é" * 129),
    ],
    *[
        "7",
        "-7",
        "-0",
        "0",
        "1.0",
        "1e3",
        "9223372036854775807",
        "9223372036854775808",
        "9223372036854775809",
        "-9223372036854775808",
    ],
    *[
        "-9223372036854775809",
        "1" * 400,
        "1" * 5000,
        "4.5",
        "-0.0",
        "1000",
        "1000.0000001",
        "-1000.5",
        "1e-50",
        "-1e-50",
        "1e999",
        "NaN",
        "Infinity",
    ],
    *[
        "1700000000000",
        "1700000000000.0",
        "1.7e12",
        "1700000000000.5",
        "1700003600000",
        "1700003600001",
        "99999999999",
        "100000000000",
        "1e300",
    ],
    *["true", "false", "null", "[]", "{}", '["u1"]', '{"a": 1}', "[" * 2000 + "]" * 2000, "truth", ""],
]
FIELDS = ["user_id", "item_id", "rating", "timestamp_ms", "type", "unknown"]
GOOD = {"user_id": '"u1"', "item_id": "7", "rating": "4.5", "timestamp_ms": "1700000000000", "type": '"rate"'}


@st.composite
def documents(draw):
    """Return an event with a few fields missing, repeated, or of odd values."""
    fields = [(name, token) for name, token in GOOD.items() if draw(st.integers(0, 7))]
    fields += draw(st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(TOKENS)), max_size=2))
    return ("{" + ", ".join(f'"{name}": {token}' for name, token in draw(st.permutations(fields))) + "}").encode()


@st.composite
def mutated(draw):
    """Return an event with a few bytes replaced, removed or inserted."""
    value = bytearray(draw(documents()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(value)))
        value[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(value)


values = st.one_of(st.none(), st.binary(max_size=40), documents(), mutated(), events.map(encode))


@given(events)
def test_an_event_written_is_the_event_read(event):
    assert decode(encode(event)) == event


@given(values)
@example(b"[" * 200_000)
@example(b'{"x":' * 200_000)
@example(b"")
def test_any_bytes_are_an_event_or_a_decode_error(value):
    read = outcome(value, NOW_MS)
    if isinstance(read, tuple):
        reason, detail = read
        assert reason
        assert 0 < len(detail) < 500


def outcome(value, record_timestamp_ms, **bounds):
    """Return the event, or the reason and detail for which there is none."""
    try:
        return decode(value, record_timestamp_ms, **bounds)
    except DecodeError as error:
        return error.reason, error.detail


@settings(max_examples=300)
@given(st.lists(st.tuples(values, st.one_of(st.just(-1), st.sampled_from([0, 10**11, NOW_MS])))))
def test_columns_mean_what_single_events_mean(records):
    bounds = {"rating_min": -5, "rating_max": 1000}
    decoded = decode_many([value for value, _ in records], [time for _, time in records], **bounds)
    expected = {index: outcome(value, time, **bounds) for index, (value, time) in enumerate(records)}
    got = {int(index): event_at(decoded, row) for row, index in enumerate(decoded.index)}
    got |= {index: (reason, detail) for index, reason, detail in decoded.rejects}
    assert got == {index: as_held(read) for index, read in expected.items()}
    assert len(decoded.index) + len(decoded.rejects) == len(records)
    assert (np.diff(decoded.index) > 0).all()


def event_at(decoded, row):
    user_id, item_id, time = decoded.user_ids[row], decoded.item_ids[row], int(decoded.timestamps_ms[row])
    rating = decoded.ratings[row]
    match decoded.kinds[row]:
        case kind if kind == RATE:
            return Rating(user_id, item_id, rating.tobytes(), time)
        case kind if kind == UNRATE and np.isnan(rating):
            return Unrate(user_id, item_id, time)
        case kind if kind == FORGET_USER and np.isnan(rating) and item_id is None:
            return ForgetUser(user_id, time)
        case kind if kind == REMOVE_ITEM and np.isnan(rating) and user_id is None:
            return RemoveItem(item_id, time)


def as_held(read):
    """Return an event with its rating as the bits of the float32 that the model holds, those of -0 as those of 0."""
    if not isinstance(read, Rating):
        return read
    return Rating(read.user_id, read.item_id, (np.float32(read.rating) + np.float32(0)).tobytes(), read.timestamp_ms)


def document(**changes):
    fields = {**GOOD, **changes}
    return ("{" + ", ".join(f'"{name}": {token}' for name, token in fields.items() if token is not None) + "}").encode()


@pytest.mark.parametrize(
    ("token", "user_id"),
    [
        ('"u42"', "u42"),
        ("42", "42"),
        ("-42", "-42"),
        ("-0", "0"),
        ('"0111161"', "0111161"),
        ('"é"', "é"),
        ('"e\\u0301"', "e\u0301"),
        ('"\\ud83d\\ude00"', "😀"),
        ('" "', " "),
        (str(2**63), str(2**63)),
        (str(-(2**63)), str(-(2**63))),
        (json.dumps("é" * 128), "é" * 128),
    ],
)
def test_ids_are_taken_byte_for_byte_and_integers_as_their_decimal_text(token, user_id):
    assert decode(document(user_id=token)).user_id == user_id


@pytest.mark.parametrize(
    "token",
    [
        "1.0",
        "1e3",
        "true",
        "null",
        "[]",
        '""',
        '"a\\u0000"',
        str(2**63 + 1),
        str(-(2**63) - 1),
        json.dumps("é" * 129),
        None,
    ],
)
def test_other_ids_are_refused(token):
    with pytest.raises(DecodeError, match="bad_id"):
        decode(document(user_id=token))
    with pytest.raises(DecodeError, match="bad_id"):
        decode(document(item_id=token))


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(DecodeError, match="not_json"):
        decode(document(user_id='"\\ud800"'))


@pytest.mark.parametrize("token", ["1e999", "NaN", "-Infinity", '"4"', "true", "null", "1000.5", "-1001", None, "1" * 400])
def test_ratings_that_are_no_number_within_the_range_are_refused(token):
    with pytest.raises(DecodeError, match=r"bad_rating|not_json"):
        decode(document(rating=token))


@given(st.lists(st.sampled_from([0.5, 1.0, 1.1, 1.5, 2.0, 2.25, 5.0, 5.5]), max_size=20))
def test_where_ratings_are_categories_others_are_refused(ratings):
    values = [document(rating=str(rating)) for rating in ratings]
    found = decode_many(values, [NOW_MS] * len(values), rating_min=1.0, rating_max=5.0, rating_step=0.5)
    good = [j for j, rating in enumerate(ratings) if rating in (1.0, 1.5, 2.0, 5.0)]
    assert found.index.tolist() == good
    assert all(reason == "bad_rating" for _, reason, _ in found.rejects)
    assert all("is none of 1, 1.5, … 5" in detail or "within 1 to 5" in detail for _, _, detail in found.rejects)


@pytest.mark.parametrize(
    ("token", "time"),
    [("1700000000000.0", NOW_MS), ("1.7e12", NOW_MS), (str(10**11), 10**11), (None, NOW_MS + 5), ("null", NOW_MS + 5)],
)
def test_a_time_is_whole_milliseconds_and_by_default_the_records(token, time):
    assert decode(document(timestamp_ms=token), NOW_MS + 5).timestamp_ms == time


@pytest.mark.parametrize("token", ["1700000000", "0", "-1", "1700000000000.5", '"1700000000000"', "true", str(10**11 - 1)])
def test_other_times_are_refused(token):
    with pytest.raises(DecodeError, match="bad_timestamp"):
        decode(document(timestamp_ms=token), NOW_MS)


def test_a_time_in_seconds_is_called_so():
    with pytest.raises(DecodeError, match=r"1700000000 looks like seconds"):
        decode(document(timestamp_ms="1700000000"), NOW_MS)


def test_a_time_more_than_an_hour_ahead_of_its_record_is_the_records():
    assert decode(document(timestamp_ms=str(NOW_MS + HOUR_MS)), NOW_MS).timestamp_ms == NOW_MS + HOUR_MS
    assert decode(document(timestamp_ms=str(NOW_MS + HOUR_MS + 1)), NOW_MS).timestamp_ms == NOW_MS
    assert decode(document(timestamp_ms="1e300"), NOW_MS).timestamp_ms == NOW_MS


def test_an_event_without_any_time_is_refused():
    with pytest.raises(DecodeError, match="bad_timestamp"):
        decode(document(timestamp_ms=None))


def test_unknown_fields_are_ignored_and_the_last_of_equal_fields_counts():
    assert decode(b'{"user_id": "a", "x": {"user_id": "b"}, ' + document()[1:]) == decode(document())


@pytest.mark.parametrize("token", ['"like"', '"RATE"', "null", "3", '""'])
def test_unknown_types_are_refused(token):
    with pytest.raises(DecodeError, match="unknown_type"):
        decode(document(type=token))


@pytest.mark.parametrize(
    ("value", "reason"),
    [(None, "null_value"), (b"", "not_json"), (b"[1]", "not_an_object"), (b"{", "not_json"), (b"\xff\xfe", "not_json")],
)
def test_what_is_no_object_says_what_it_is(value, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(value)


@pytest.mark.parametrize(
    "event",
    [
        Rating("", "m", 1.0, NOW_MS),
        Rating("u", "x" * 257, 1.0, NOW_MS),
        Rating("u\0", "m", 1.0, NOW_MS),
        Rating("\ud800", "m", 1.0, NOW_MS),
        Rating(42, "m", 1.0, NOW_MS),
        Rating("u", "m", float("nan"), NOW_MS),
        Rating("u", "m", 1001.0, NOW_MS),
        Rating("u", "m", "x", NOW_MS),
        Rating("u", "m", None, NOW_MS),
        Rating("u", "m", 10**400, NOW_MS),
        Unrate("u", "m", NOW_MS // 1000),
        ForgetUser("", NOW_MS),
        RemoveItem("", NOW_MS),
        "no event",
    ],
)
def test_an_event_that_breaks_a_rule_is_not_written(event):
    with pytest.raises(InvalidEvent):
        encode(event)


def test_ratings_of_a_wider_range_are_written_when_it_is_told():
    assert decode(encode(Rating("u", "m", 5000.0, NOW_MS), -1.0, 1e4), NOW_MS, rating_max=1e4).rating == 5000.0
    with pytest.raises(InvalidEvent, match="-1 to 3"):
        encode(Rating("u", "m", 5.0, NOW_MS), -1.0, 3.0)


def test_no_records_are_no_events():
    decoded = decode_many([], [])
    assert (len(decoded.kinds), decoded.user_ids, decoded.rejects) == (0, [], [])
