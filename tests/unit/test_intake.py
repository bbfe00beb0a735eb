"""Records to deliveries: whatever bytes come, a delivery and never an exception."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.intake import Intake
from factorstream.worker.ports import Records

NOW = 1_700_000_000_000
GOOD = json.dumps({"user_id": "u", "item_id": "i", "rating": 1, "timestamp_ms": NOW}).encode()


def records(*values, partition=0, first=0, types=None):
    return Records(partition, range(first, first + len(values)), [NOW] * len(values), list(values), types)


def intake(share=1.0):
    return Intake(rating_min=None, rating_max=None, max_reject_share=share)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=40), st.just(GOOD)), min_size=1, max_size=20), st.integers(0, 99))
def test_every_record_is_an_event_or_a_reject_with_its_place(values, first):
    delivery = intake().read([records(*values, first=first)])
    n_good = len(delivery.decoded.kinds)
    assert n_good + len(delivery.rejects) == len(values)
    assert n_good >= values.count(GOOD)
    for reject in delivery.rejects:
        assert reject.value == values[reject.offset - first]
    assert delivery.offsets == {0: first + len(values)}


def test_rejects_of_several_partitions_and_content_types_keep_their_places():
    polled = [
        records(GOOD, b"{", partition=1, first=5),
        records(b"avro", GOOD, b"[", partition=3, first=7, types=["avro/binary", "application/json; charset=utf-8", None]),
    ]
    delivery = intake().read(polled)
    assert {(reject.partition, reject.offset, reject.value) for reject in delivery.rejects} == {
        (1, 6, b"{"),
        (3, 7, b"avro"),
        (3, 9, b"["),
    }
    assert len(delivery.decoded.kinds) == 2
    assert delivery.offsets == {1: 7, 3: 10}


def test_an_empty_poll_is_an_empty_delivery():
    delivery = intake().read([])
    assert (delivery.n_records, delivery.rejects, delivery.offsets, delivery.oldest_record_ms) == (0, [], {}, None)


def test_too_much_that_is_unreadable_stops_and_says_how_to_go_on():
    strict = intake(0.5)
    for _ in range(9):
        assert strict.too_many(strict.read([records(*[b"{"] * 1000)])) is None
    error = strict.too_many(strict.read([records(*[b"{"] * 1000)]))
    assert re.search(r"intake\.max_reject_share = 0\.5.*Mend the producer", str(error))


def test_a_few_unreadable_among_many_do_not_stop_anything():
    lenient = intake(0.5)
    for _ in range(30):
        assert lenient.too_many(lenient.read([records(*[b"{"] * 400, *[GOOD] * 600)])) is None
