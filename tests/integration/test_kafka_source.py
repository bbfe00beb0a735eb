"""Reading a real Kafka: transactions, compression, a broker that goes away and comes back, one that was never there."""

import time
import uuid
from contextlib import contextmanager

import pytest
from kafka import KafkaProducer

from factorstream.worker.adapters.group import Solo
from factorstream.worker.adapters.kafka_source import KafkaSource
from factorstream.worker.errors import SourceUnavailable
from factorstream.worker.local import kafka as local_kafka
from factorstream.worker.local import processes
from tests.contracts.kafka_log import KafkaLog
from tests.contracts.test_event_source import NOW_MS, await_true, numbered, read


@pytest.fixture
def log(kafka):
    made = KafkaLog(kafka)
    yield made
    made.close()


@pytest.fixture
def source(log):
    made = log.source(group=Solo())
    yield made
    made.close()


def transaction(log, values, *, commit):
    """Send *values* in a transaction, and end it unless *commit* is None."""
    producer = KafkaProducer(bootstrap_servers=log.address, transactional_id=f"t-{uuid.uuid4()}", acks="all")
    producer.init_transactions()
    producer.begin_transaction()
    for value in values:
        producer.send(log.topic, value=value, key=b"k", partition=0)
    producer.flush()
    if commit is not None:
        (producer.commit_transaction if commit else producer.abort_transaction)()
    return producer


def test_only_committed_transactions_are_read_and_their_markers_are_passed(log, source):
    log.append(0, b"before", NOW_MS)
    transaction(log, [b"aborted-1", b"aborted-2"], commit=False).close()
    transaction(log, [b"committed-1", b"committed-2"], commit=True).close()
    transaction(log, [b"aborted-3"], commit=False).close()
    source.open({})
    assert [value for _, _, value in read(source, 3)] == [b"before", b"committed-1", b"committed-2"]
    await_true(lambda: source.poll(0.05) == [] and source.at_end())  # the last record is a marker
    assert sum(source.lag().values()) == 0


def test_an_open_transaction_is_waited_for(log, source):
    source.open({})
    producer = transaction(log, [b"early"], commit=None)
    log.append(0, b"late", NOW_MS)
    assert [records for _ in range(5) for records in source.poll(0.05)] == []
    assert not source.at_end()
    producer.commit_transaction()
    producer.close()
    assert [value for _, _, value in read(source, 2)] == [b"early", b"late"]


def test_reading_goes_on_in_the_middle_of_a_batch(log, kafka, source):
    producer = KafkaProducer(bootstrap_servers=kafka, linger_ms=500, compression_type="gzip", acks="all")
    for number in range(100):
        producer.send(log.topic, key=b"k", value=b"%d" % number, partition=0)
    producer.flush()
    producer.close()
    source.open({0: 70})
    assert [offset for _, offset, _ in read(source, 30)] == list(range(70, 100))


def test_no_broker_is_an_error_with_the_address_after_a_bounded_wait():
    address = f"127.0.0.1:{processes.free_port()}"
    began_s = time.monotonic()
    with pytest.raises(SourceUnavailable, match=rf"{address}"):
        KafkaSource(address, "ratings", group=Solo(), timeout_s=1.0).open({})
    assert 0.9 < time.monotonic() - began_s < 6.0


class Broker:
    """A broker that a test may stop."""

    def __init__(self, folder):
        self.folder = folder
        self.port = processes.free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self):
        local_kafka.start(self.folder, self.port)

    def stop(self):
        processes.stop(self.processes(), patience_s=20)

    def processes(self):
        return processes.running(self.folder, local_kafka.WORD)

    @contextmanager
    def suspended(self):
        """Keep the broker from answering, though its port is open."""
        [process] = self.processes()
        process.suspend()
        try:
            yield
        finally:
            process.resume()


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    made = Broker(tmp_path_factory.mktemp("broker"))
    yield made
    made.stop()


def test_a_broker_that_does_not_answer_is_waited_for_and_then_given_up(broker):
    log = KafkaLog(broker.address)
    source = log.source(group=Solo(), timeout_s=3.0)
    source.open({})
    log.append_all(0, numbered(2))
    assert len(read(source, 2)) == 2
    with broker.suspended():
        assert all(source.poll(0.05) == [] for _ in range(20))  # one second: nothing is said
    log.append_all(0, numbered(2))
    assert [offset for _, offset, _ in read(source, 2)] == [2, 3]
    began_s = time.monotonic()
    with broker.suspended(), pytest.raises(SourceUnavailable, match=broker.address):
        await_true(lambda: source.poll(0.05))
    assert 3.0 < time.monotonic() - began_s < 12.0
    source.close()
    log.close()


def test_a_broker_that_is_restarted_is_read_on_without_loss(broker):
    before = KafkaLog(broker.address)
    source = before.source(group=Solo(), timeout_s=60.0)
    source.open({})
    before.append_all(0, numbered(3))
    assert len(read(source, 3)) == 3
    before.close()
    broker.stop()
    source.commit({0: 3})  # goes nowhere, and says nothing to the loop
    assert source.poll(0.1) == []
    broker.start()
    producer = KafkaProducer(bootstrap_servers=broker.address, acks="all")
    producer.send(before.topic, key=b"k", value=b"after", partition=0).get(20)
    producer.close()
    assert read(source, 1) == [(0, 3, b"after")]
    source.close()
