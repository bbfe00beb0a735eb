"""Dead letters in a real Kafka: their headers, long values, the topic that is made for them, and a broker that is not there."""

import time

import pytest

from factorstream.worker.adapters.kafka_dead_letters import KafkaDeadLetters
from factorstream.worker.errors import SourceUnavailable
from factorstream.worker.local.processes import free_port
from factorstream.worker.ports import Reject
from tests.contracts.kafka_log import KafkaLog


@pytest.fixture
def log(kafka, topic_name):
    made = KafkaLog(kafka, topic=topic_name)
    yield made
    made.close()


@pytest.fixture
def letters(kafka, topic_name):
    made = KafkaDeadLetters(kafka, f"{topic_name}.dead", topic_name, timeout_s=5.0)
    yield made
    made.close()


def test_headers_say_where_the_record_was_and_why_it_is_here(log, letters):
    letters.put([Reject(2, 41, "bad_id", "id 'ü\ud800' …", b"\xff\x00")])
    letters.flush()
    [record] = log.records(f"{log.topic}.dead")
    said = dict(record.headers)
    detail = said.pop("detail").decode()
    assert said == {"reason": b"bad_id", "topic": log.topic.encode(), "partition": b"2", "offset": b"41"}
    assert detail.startswith("id 'ü")
    assert record.value == b"\xff\x00"


@pytest.mark.parametrize("length", [65_536, 65_537, 900_000])
def test_values_are_cut_at_64_kib_and_say_how_long_they_were(log, letters, length):
    letters.put([Reject(0, 0, "not_json", "…", b"x" * length)])
    letters.flush()
    [record] = log.records(f"{log.topic}.dead")
    assert len(record.value) == min(length, 65_536)
    assert dict(record.headers).get("truncated") == (None if length == 65_536 else b"%d" % length)


def test_the_topic_is_created_once_and_kept(log, letters, kafka, topic_name):
    letters.open()
    assert f"{topic_name}.dead" in log.admin.list_topics()
    again = KafkaDeadLetters(kafka, f"{topic_name}.dead", topic_name, timeout_s=5.0)
    again.open()
    again.close()
    again.close()


def test_no_broker_is_an_error_with_the_address_after_a_bounded_wait():
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(SourceUnavailable, match=address):
        KafkaDeadLetters(address, "dead", "ratings", timeout_s=1.0).open()
    assert time.monotonic() - began < 10
