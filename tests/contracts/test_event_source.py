"""What every event source promises: the memory twin and Kafka."""

import time

import pytest

from factorstream.worker.adapters.group import MemoryGroup, Solo
from factorstream.worker.adapters.memory import MemoryLog, MemorySource
from factorstream.worker.errors import CompactedTopic, LostOffsets, RecreatedTopic, UnknownTopic
from factorstream.worker.ports import SourceIdentity
from tests.contracts.kafka_log import KafkaLog

PATIENCE_S = 15.0
NOW_MS = 1_790_000_000_000


class TwinLog(MemoryLog):
    """A `MemoryLog` that opens sources like a `KafkaLog`."""

    def append_all(self, partition, records):
        return [self.append(partition, *record) for record in records]

    def source(self, *, timeout_s=None, **settings):
        return MemorySource(self, **settings)

    def close(self):
        pass


@pytest.fixture(params=["memory", "kafka"])
def make_log(request):
    """Makes logs, of memory or of Kafka."""
    logs = []

    def make(n_partitions=1, **settings):
        kind = TwinLog if request.param == "memory" else KafkaLog
        address = [] if request.param == "memory" else [request.getfixturevalue("kafka")]
        logs.append(kind(*address, n_partitions, **settings))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


@pytest.fixture
def open_source():
    """Opens sources and closes them after the test."""
    sources = []

    def open_(log, at=None, known=None, **settings):
        sources.append(log.source(group=settings.pop("group", Solo()), **settings))
        sources[-1].open(at or {}, known)
        return sources[-1]

    yield open_
    for source in sources:
        source.close()


def read(source, n_records):
    """Poll until *n_records* have come; return (partition, offset, value) in that order."""
    found = []
    until_s = time.monotonic() + PATIENCE_S
    while len(found) < n_records:
        assert time.monotonic() < until_s, f"{len(found)} of {n_records} records"
        for records in source.poll(0.1):
            found += [(records.partition, *pair) for pair in zip(records.offsets, records.values, strict=True)]
    return found


def await_true(condition):
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def numbered(n):
    return [(b"%d" % number, NOW_MS + number, None) for number in range(n)]


def test_all_records_come_once_and_in_the_order_of_their_partition(make_log, open_source):
    log = make_log(3)
    for partition in range(3):
        log.append_all(partition, numbered(100))
    found = read(open_source(log, max_records=7), 300)
    for partition in range(3):
        assert [(o, v) for p, o, v in found if p == partition] == [(n, b"%d" % n) for n in range(100)]


def test_a_poll_brings_at_most_max_records_in_all(make_log, open_source):
    log = make_log(2)
    log.append_all(0, numbered(20))
    log.append_all(1, numbered(20))
    source = open_source(log, max_records=3)
    n_read = 0
    while n_read < 40:
        n_polled = sum(len(records.values) for records in source.poll(0.1))
        assert n_polled <= 3
        n_read += n_polled


def test_columns_say_when_what_and_how_it_is_encoded(make_log, open_source):
    log = make_log()
    log.append_all(0, [(b"a", NOW_MS + 5, None), (None, NOW_MS + 6, "text/x"), (b"", NOW_MS + 7, None)])
    source = open_source(log)
    polled = []
    while sum(len(records.values) for records in polled) < 3:
        polled += source.poll(0.1)
    [records] = polled
    assert list(records.offsets) == [0, 1, 2]
    assert list(records.timestamps_ms) == [NOW_MS + 5, NOW_MS + 6, NOW_MS + 7]
    assert list(records.values) == [b"a", None, b""]
    assert list(records.content_types) == [None, "text/x", None]


def test_records_without_headers_have_no_column_of_content_types(make_log, open_source):
    log = make_log()
    log.append(0, b"a", NOW_MS)
    source = open_source(log)
    polled = []
    while not polled:
        polled = source.poll(0.1)
    assert polled[0].content_types is None


def test_an_empty_topic_is_idle_and_at_its_end(make_log, open_source):
    source = open_source(make_log(2))
    assert not source.at_end()  # nothing was fetched yet
    await_true(lambda: source.poll(0.05) == [] and source.at_end())
    assert sum(source.lag().values()) == 0


def test_reading_goes_on_at_the_offsets_given_and_elsewhere_at_the_beginning(make_log, open_source):
    log = make_log(3)
    for partition in range(3):
        log.append_all(partition, numbered(5))
    found = read(open_source(log, {0: 3, 1: 5}), 7)
    assert sorted((p, o) for p, o, _ in found) == [(0, 3), (0, 4), *[(2, n) for n in range(5)]]


def test_a_source_opened_again_reads_the_same_again(make_log, open_source):
    log = make_log(2)
    log.append_all(0, numbered(4))
    log.append_all(1, numbered(4))
    assert sorted(read(open_source(log), 8)) == sorted(read(open_source(log), 8))


def test_the_end_is_reached_when_all_is_polled_and_left_when_more_arrives(make_log, open_source):
    log = make_log(2)
    log.append_all(0, numbered(3))
    source = open_source(log)
    read(source, 3)
    await_true(lambda: source.poll(0.05) == [] and source.at_end())
    log.append_all(1, numbered(2))
    assert len(read(source, 2)) == 2
    await_true(lambda: source.poll(0.05) == [] and source.at_end())


def test_lag_counts_what_was_not_polled_yet(make_log, open_source):
    log = make_log()
    log.append_all(0, numbered(10))
    source = open_source(log, max_records=4)
    read(source, 1)
    assert source.lag() == {0: 6}
    assert not source.at_end()


def test_commits_are_seen_by_lag_tools_and_do_not_move_the_reader(make_log, open_source):
    log = make_log(2)
    log.append_all(0, numbered(4))
    source = open_source(log)
    source.commit({})
    # Again and again, as the loop does: a group's first commit may find no coordinator yet.
    await_true(lambda: source.commit({0: 2, 1: 0}) or log.committed == {0: 2, 1: 0})
    await_true(lambda: source.commit({0: 3}) or log.committed == {0: 3, 1: 0})
    assert [o for _, o, _ in read(source, 4)] == [0, 1, 2, 3]
    assert [o for _, o, _ in read(open_source(log), 4)] == [0, 1, 2, 3]


def test_a_source_that_is_closed_at_once_has_committed(make_log, open_source):
    log = make_log(2)
    log.append_all(0, numbered(4))
    source = open_source(log)
    source.commit({0: 4})
    source.close()
    assert log.committed == {0: 4}


def test_ranks_share_partitions_without_gap_or_overlap(make_log, open_source):
    log = make_log(5)
    for partition in range(5):
        log.append(partition, b"%d" % partition, NOW_MS)
    found = [read(open_source(log, group=MemoryGroup(rank, 2)), n) for rank, n in [(0, 3), (1, 2)]]
    assert [sorted(p for p, _, _ in part) for part in found] == [[0, 2, 4], [1, 3]]


def test_a_new_partition_is_read_from_its_beginning(make_log, open_source):
    log = make_log(1)
    source = open_source(log, timeout_s=2.0)
    assert source.poll(0.01) == []
    log.add_partition()
    log.append_all(1, numbered(3))
    log.append_all(0, numbered(1))
    assert sorted((p, o) for p, o, _ in read(source, 4)) == [(0, 0), (1, 0), (1, 1), (1, 2)]


def test_an_unknown_topic_is_named_with_the_command_that_creates_it(make_log, open_source):
    log = make_log()
    log.delete()
    with pytest.raises(UnknownTopic, match=rf"{log.topic}.*kafka-topics.*--create"):
        open_source(log)
    with pytest.raises(UnknownTopic):  # and looking has not created it
        open_source(log)


def test_a_compacted_topic_is_refused(make_log, open_source):
    with pytest.raises(CompactedTopic, match=r"cleanup\.policy"):
        open_source(make_log(compacted=True))


def test_offsets_that_retention_deleted_are_lost_with_both_ways_out(make_log, open_source):
    log = make_log()
    log.append_all(0, numbered(10))
    log.delete_before(0, 6)
    with pytest.raises(LostOffsets, match=r"partition 0 .* offset 2, .* 6 to 9.*on_lost_offsets.*checkpoint\.dir"):
        open_source(log, {0: 2})
    found = read(open_source(log, {0: 2}, on_lost_offsets="earliest"), 4)
    assert [o for _, o, _ in found] == [6, 7, 8, 9]
    assert [o for _, o, _ in read(open_source(log), 4)] == [6, 7, 8, 9]


@pytest.mark.parametrize("at", [{0: 11}, {0: 3, 1: 4}], ids=["past the end", "of a partition that is not there"])
def test_offsets_that_the_log_does_not_have_yet_are_lost(make_log, open_source, at):
    log = make_log()
    log.append_all(0, numbered(10))
    with pytest.raises(LostOffsets):
        open_source(log, at)
    open_source(log, at, on_lost_offsets="earliest")


def test_the_end_itself_is_an_offset_to_resume_at(make_log, open_source):
    log = make_log()
    log.append_all(0, numbered(2))
    source = open_source(log, {0: 2})
    log.append_all(0, numbered(1))
    assert [o for _, o, _ in read(source, 1)] == [2]


@pytest.mark.parametrize("on_lost_offsets", ["error", "earliest"])
def test_a_log_cut_while_it_is_read_is_noticed(make_log, open_source, on_lost_offsets):
    log = make_log()
    log.append_all(0, numbered(1))
    source = open_source(log, on_lost_offsets=on_lost_offsets, timeout_s=3.0)
    read(source, 1)
    await_true(lambda: source.poll(0.05) == [] and source.at_end())
    log.delete()
    log.create(1)
    with pytest.raises(RecreatedTopic):
        await_true(lambda: source.poll(0.05))


def test_a_recreated_topic_has_another_identity_and_is_refused_before_its_offsets(make_log, open_source):
    log = make_log()
    log.append_all(0, numbered(3))
    known = log.source(group=Solo()).open({})
    assert log.source(group=Solo()).open({0: 3}, known) == known
    log.delete()
    log.create(1)
    with pytest.raises(RecreatedTopic, match=known.topic_id):
        open_source(log, {0: 3}, known)
    assert log.source(group=Solo()).open({}).topic_id != known.topic_id


def test_another_cluster_is_refused(make_log, open_source):
    log = make_log()
    known = log.source(group=Solo()).open({})
    with pytest.raises(RecreatedTopic, match="elsewhere"):
        open_source(log, {}, SourceIdentity("elsewhere", known.topic, known.topic_id))


def test_a_topic_deleted_while_it_is_read_is_noticed_and_not_created_again(make_log, open_source):
    log = make_log()
    source = open_source(log, timeout_s=1.0)
    source.poll(0.05)
    log.delete()
    with pytest.raises(UnknownTopic):
        await_true(lambda: source.poll(0.05))


def test_closing_twice_is_safe(make_log):
    source = make_log().source(group=Solo())
    source.open({})
    source.close()
    source.close()
