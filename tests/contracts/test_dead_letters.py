"""What every place for dead letters promises: the memory twin and Kafka."""

import pytest

from factorstream.worker.adapters.kafka_dead_letters import KafkaDeadLetters
from factorstream.worker.adapters.memory import MemoryDeadLetters
from factorstream.worker.errors import SourceUnavailable
from factorstream.worker.ports import Reject
from tests.contracts.kafka_log import KafkaLog

REJECTS = [Reject(n % 2, n, "bad_rating", f"rating {n} is no number", b"{%d" % n) for n in range(20)]


class Twin:
    """The memory twin and what arrived there."""

    def __init__(self):
        self.letters = MemoryDeadLetters()

    def arrived(self):
        return {(reject.partition, reject.offset, reject.reason, reject.value) for reject in self.letters.acknowledged}

    def turn(self, on):
        self.letters.available = on

    def close(self):
        self.letters.close()


class Real:
    """A topic of dead letters in Kafka and what arrived there."""

    def __init__(self, address, topic):
        self.log = KafkaLog(address, topic=topic)
        self.letters = KafkaDeadLetters(address, f"{topic}.dead", topic, timeout_s=2.0)

    def arrived(self):
        records = self.log.records(f"{self.log.topic}.dead")
        return {
            (int(said["partition"]), int(said["offset"]), said["reason"].decode(), record.value)
            for record in records
            for said in [dict(record.headers)]
        }

    def turn(self, on):
        self.log.limit(f"{self.log.topic}.dead", 1_000_000 if on else 1)

    def close(self):
        self.letters.close()
        self.log.close()


@pytest.fixture(params=["memory", "kafka"])
def place(request):
    made = Twin() if request.param == "memory" else Real(request.getfixturevalue("kafka"), request.getfixturevalue("topic_name"))
    yield made
    made.close()


def written(rejects):
    return {(reject.partition, reject.offset, reject.reason, reject.value) for reject in rejects}


def test_what_was_put_has_arrived_after_a_flush(place):
    place.letters.put(REJECTS[:5])
    place.letters.put([])
    place.letters.put(REJECTS[5:])
    place.letters.flush()
    assert place.arrived() == written(REJECTS)


def test_flushing_nothing_does_nothing(place):
    place.letters.flush()
    place.letters.put([])
    place.letters.flush()


def test_a_flush_that_is_not_acknowledged_says_so_and_a_later_one_makes_up_for_it(place):
    place.letters.put(REJECTS[:1])
    place.letters.flush()
    place.turn(on=False)
    for _ in range(2):
        place.letters.put(REJECTS[1:3])
        with pytest.raises(SourceUnavailable):
            place.letters.flush()
    place.turn(on=True)
    place.letters.put(REJECTS[3:4])
    place.letters.flush()
    assert place.arrived() == written(REJECTS[:4])


def test_a_record_without_a_value_is_a_dead_letter_too(place):
    reject = Reject(3, 7, "null_value", "the record has no value", None)
    place.letters.put([reject])
    place.letters.flush()
    assert place.arrived() == written([reject])
