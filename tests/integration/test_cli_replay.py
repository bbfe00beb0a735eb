"""``factorstream replay`` to a real broker: what arrives, how evenly, and what is refused."""

import gzip
import json
import time

import pytest
from kafka import KafkaConsumer, TopicPartition

from factorstream.codec import decode
from factorstream.worker.adapters import kafka_topics
from factorstream.worker.history.history import History
from factorstream.worker.history.replay import replay
from tests.integration.real_worker import command

LINES = [
    ("u2", "0111161", 4.5, 978300760),
    ("u1", "m1", 3.0, 978300750),
    ("u2", "m1", 1.0, 978300760),
    ("007", "m2", 5.0, 978300770),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ratings.gz"
    path.write_bytes(gzip.compress("".join("::".join(map(str, line)) + "\n" for line in LINES).encode()))
    return path


def records(kafka, topic):
    with_group = {"bootstrap_servers": kafka, "auto_offset_reset": "earliest", "enable_auto_commit": False}
    consumer = KafkaConsumer(**with_group)
    partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(partitions)
    ends, found = consumer.end_offsets(partitions), []
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        found += [record for batch in consumer.poll(timeout_ms=500).values() for record in batch]
    consumer.close()
    return found


def test_events_carry_the_files_times_and_records_the_clocks(kafka, topic, file):
    began_ms = time.time() * 1000
    ended = command("replay", file, "--topic", topic, "--kafka", kafka, "--json")
    assert ended.code == 0
    assert ended.answer.keys() == {"n_sent", "seconds", "topic"}
    assert (ended.answer["n_sent"], ended.answer["topic"]) == (4, topic)
    found = records(kafka, topic)
    events = [decode(record.value) for record in found]
    told = [(event.user_id, event.item_id, event.rating, event.timestamp_ms) for event in events]
    assert sorted(told) == sorted((u, i, x, 1000 * t) for u, i, x, t in LINES)
    assert [event[1] for event in told if event[0] == "u2"] == ["0111161", "m1"]  # ties stay in the order of the file
    assert all(record.key == event.user_id.encode() for record, event in zip(found, events, strict=True))
    assert all(record.timestamp >= began_ms - 1000 for record in found)


def test_the_limit_takes_the_earliest(kafka, topic, file):
    assert command("replay", file, "--topic", topic, "--kafka", kafka, "--limit", 1, "--json").answer["n_sent"] == 1
    assert [record.key for record in records(kafka, topic)] == [b"u1"]


def test_a_topic_is_made_only_when_asked_for(kafka, topic_name, file):
    refused = command("replay", file, "--topic", topic_name, "--kafka", kafka)
    refused.refused(1, topic_name, "does not exist", "--create")
    assert command("replay", file, "--topic", topic_name, "--kafka", kafka, "--create", "--partitions", 3).code == 0
    assert len(records(kafka, topic_name)) == 4
    consumer = KafkaConsumer(bootstrap_servers=kafka)
    assert consumer.partitions_for_topic(topic_name) == {0, 1, 2}
    consumer.close()


def test_ratings_that_no_worker_takes_are_refused_before_anything_is_sent(kafka, topic, tmp_path):
    for line, told in (("u\ti\t3\t17\n", "older than March 1973"), ("u\ti\t3000\t978300760\n", "within -1000 to 1000")):
        path = tmp_path / "f"
        path.write_text("a\tb\t1\t978300760\n" + line)
        command("replay", path, "--topic", topic, "--kafka", kafka).refused(2, told)
        command("replay", path, "--topic", f"{topic}-not-made", "--kafka", kafka, "--create").refused(2, told)
    assert records(kafka, topic) == []
    assert not kafka_topics.exists(kafka, f"{topic}-not-made")


def test_ratings_of_a_wider_range_are_sent_when_that_is_said(kafka, topic, tmp_path):
    path = tmp_path / "f"
    path.write_text("u\ti\t3000\t978300760\n")
    assert command("replay", path, "--topic", topic, "--kafka", kafka, "--rating-max", 10_000).code == 0
    [record] = records(kafka, topic)
    assert json.loads(record.value)["rating"] == 3000


class Time:
    """A clock that moves when someone sleeps."""

    def __init__(self):
        self.now = 100.0

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize("rate", [10.0, 1_000.0, 12_345.6])
def test_a_rate_is_kept_evenly(rate, tmp_path):
    import numpy as np

    n, time_ = 500, Time()
    zeros = np.zeros(n, np.int32)
    history = History(zeros, zeros, np.ones(n, np.float32), np.full(n, 10**12, np.int64), ["u"], ["i"])
    sent_s = []
    bursts = replay(history, lambda _: sent_s.append(time_.now - 100.0), rate=rate, clock=lambda: time_.now, sleep=time_.sleep)
    assert list(bursts)[-1] == n
    assert sent_s == sorted(sent_s)
    assert all(k / rate - 0.01 <= at <= k / rate + 1e-9 for k, at in enumerate(sent_s))
