import math
import re
import socket
import timeit
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from factorstream.worker.adapters.prometheus import Metrics
from factorstream.worker.errors import MetricsUnavailable
from factorstream.worker.tick import Durable, Published
from tests.ticks import DURABLE, PUBLISHED, QUIET


class Clock:
    """Seconds since the epoch that a test moves."""

    def __init__(self, now_s=1_700_000_000.0):
        self.now_s = now_s

    def __call__(self):
        return self.now_s


def samples(metrics):
    """Every sample of *metrics* as ``{(name, labels): value}``."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return samples(metrics)["factorstream_" + name, frozenset(labels.items())]


def metrics_after(*ticks, **options):
    metrics = Metrics(CollectorRegistry(), **{"clock": Clock(), **options})
    for tick in ticks:
        metrics.observe(tick)
    return metrics


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def serve():
    servers = []

    def start(metrics, port=0):
        servers.append(metrics.serve("127.0.0.1", port))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


counts = st.integers(0, 10_000)
busy_ticks = st.builds(
    replace,
    st.just(QUIET),
    n_records=counts,
    n_accepted=counts,
    n_stale=counts,
    rejects=st.dictionaries(st.sampled_from(["not_json", "bad_id"]), counts),
    squared_error=st.floats(0, 1e6),
    n_errors=counts,
    n_blocks=counts,
    n_visits=counts,
    seconds=st.dictionaries(st.sampled_from(["poll", "learn"]), st.floats(0, 1)),
    published=st.none() | st.builds(Published, counts, counts, counts, st.floats(0, 10), st.none() | st.just(1_699_999_999_000)),
)


@given(st.lists(busy_ticks, max_size=5))
def test_counters_are_sums_over_the_ticks(ticks):
    metrics = metrics_after(*ticks)
    assert value(metrics, "records_total") == sum(tick.n_records for tick in ticks)
    assert value(metrics, "ratings_accepted_total") == sum(tick.n_accepted for tick in ticks)
    assert value(metrics, "live_squared_error_total") == pytest.approx(sum(tick.squared_error for tick in ticks))
    found = samples(metrics)
    for reason in {reason for tick in ticks for reason in tick.rejects}:
        expected = sum(tick.rejects.get(reason, 0) for tick in ticks)
        assert found["factorstream_dead_letters_total", frozenset({("reason", reason)})] == expected
    publications = [tick.published for tick in ticks if tick.published]
    assert value(metrics, "publish_seconds_count") == len(publications)
    assert value(metrics, "freshness_seconds_count") == sum(done.oldest_record_ms is not None for done in publications)
    if publications:
        assert value(metrics, "redis_writes_total", kind="item") == sum(done.n_items for done in publications)


def test_levels_are_those_of_the_last_tick():
    first = replace(QUIET, n_pending=9, lag={0: 5, 1: 7}, n_users=3, n_items=2, n_ratings=4, position=11)
    metrics = metrics_after(first, replace(first, n_pending=1, lag={0: 2}, publisher_up=False, n_users=4))
    assert value(metrics, "pending_rows") == 1
    assert value(metrics, "publisher_up") == 0
    assert value(metrics, "rows", side="user") == 4
    assert value(metrics, "lag_records", partition="0") == 2
    assert ("factorstream_lag_records", frozenset({("partition", "1")})) not in samples(metrics)


def test_sweeps_are_counted_from_where_this_process_began():
    """A restart at a checkpoint of sweep 57 is no burst of 57 sweeps."""
    metrics = metrics_after(*(replace(QUIET, n_sweeps=n) for n in (57, 57, 59, 60)))
    assert value(metrics, "sweeps_total") == 3


@given(st.lists(st.tuples(st.floats(0, 25), st.integers(1, 30_000)), min_size=1, max_size=10))
def test_the_live_rmse_lies_between_the_smallest_and_the_largest_error(turns):
    metrics = metrics_after(*(replace(QUIET, squared_error=mse * n, n_errors=n) for mse, n in turns))
    roots = [math.sqrt(mse) for mse, _ in turns]
    assert min(roots) - 1e-6 <= value(metrics, "live_rmse") <= max(roots) + 1e-6


def test_the_live_rmse_forgets():
    metrics = metrics_after(
        replace(QUIET, squared_error=9 * 5_000.0, n_errors=5_000),
        *[replace(QUIET, squared_error=1_000.0, n_errors=1_000)] * 100,
        QUIET,
    )
    assert value(metrics, "live_rmse") == pytest.approx(1.0, abs=1e-3)


def test_the_live_rmse_is_not_a_number_before_the_first_rating():
    assert math.isnan(value(metrics_after(QUIET), "live_rmse"))


@given(st.lists(st.integers(-1_000, 5_000_000), min_size=1, max_size=20))
def test_freshness_is_the_time_from_record_to_publication(ages_ms):
    clock = Clock()
    stamps = [int(clock.now_s * 1000) - age_ms for age_ms in ages_ms]
    metrics = metrics_after(
        *(replace(QUIET, published=replace(PUBLISHED, oldest_record_ms=stamp)) for stamp in stamps), clock=clock
    )
    ages_s = [max(0.0, clock.now_s - stamp / 1000) for stamp in stamps]
    assert value(metrics, "freshness_seconds_sum") == pytest.approx(sum(ages_s))
    for (name, labels), count in samples(metrics).items():
        if name == "factorstream_freshness_seconds_bucket":
            bound_s = float(dict(labels)["le"])
            assert count == sum(age_s <= bound_s for age_s in ages_s)


def test_before_the_first_checkpoint_its_age_counts_from_the_start():
    """So a worker that never manages a checkpoint shows an old one, and a restarted idle one shows nothing to save."""
    clock = Clock()
    metrics = metrics_after(replace(QUIET, position=700), clock=clock)
    clock.now_s += 100
    metrics.observe(replace(QUIET, position=800))
    assert value(metrics, "checkpoint_last_timestamp_seconds") == clock.now_s - 100
    assert value(metrics, "checkpoint_position") == 700
    metrics.observe(replace(QUIET, position=900, durable=Durable(position=800, size_bytes=5, seconds=0.2, stall_seconds=0.01)))
    assert value(metrics, "checkpoint_last_timestamp_seconds") == clock.now_s
    assert value(metrics, "checkpoint_position") == 800
    assert value(metrics, "checkpoint_stall_seconds") == 0.01


def test_a_checkpoint_that_holds_everything_does_not_grow_old():
    clock = Clock()
    metrics = metrics_after(replace(QUIET, position=700), clock=clock)
    metrics.observe(replace(QUIET, position=800, durable=Durable(position=800, size_bytes=5, seconds=0.2, stall_seconds=0.01)))
    clock.now_s += 3600
    metrics.observe(replace(QUIET, position=800))
    assert value(metrics, "checkpoint_last_timestamp_seconds") == clock.now_s
    clock.now_s += 10
    metrics.observe(replace(QUIET, position=801))
    assert value(metrics, "checkpoint_last_timestamp_seconds") == clock.now_s - 10


def test_what_runs_is_told_by_labels():
    assert value(metrics_after(info={"rank": "64", "version": "1"}), "model_info", rank="64", version="1") == 1


def test_observing_a_tick_is_cheap():
    """At 50 turns a second, 30 µs would be a thousandth of the loop's time; the bound is loose for a noisy machine."""
    metrics = metrics_after()
    busy = replace(
        QUIET,
        n_records=9,
        seconds=dict.fromkeys(["poll", "decode", "learn", "sweep", "publish", "checkpoint"], 0.001),
        published=PUBLISHED,
        lag={0: 1},
    )
    assert min(timeit.repeat(lambda: metrics.observe(busy), number=200, repeat=10)) / 200 < 100e-6


def test_a_scrape_is_what_prometheus_reads(serve):
    server = serve(
        metrics_after(replace(QUIET, n_records=3, lag={0: 5}, published=PUBLISHED, durable=DURABLE), info={"rank": "8"})
    )
    status, body = get(server.url + "/metrics")
    names = {family.name for family in text_string_to_metric_families(body)}
    assert status == 200
    assert {"factorstream_records", "factorstream_freshness_seconds", "factorstream_checkpoint_bytes"} <= names
    assert all(re.fullmatch(r"factorstream_[a-z_]+", name) for name in names)


def test_the_own_registry_tells_the_memory_of_the_process(serve):
    _, body = get(serve(Metrics()).url + "/metrics")
    assert "process_resident_memory_bytes" in body


def test_the_worker_is_live_while_its_loop_turns(serve):
    clock = Clock()
    metrics = metrics_after(clock=clock, live_within_s=30)
    server = serve(metrics)
    assert get(server.url + "/health/live") == (503, "starting: the loop has not turned yet\n")
    metrics.observe(QUIET)
    assert get(server.url + "/health/live") == (200, "live\n")
    clock.now_s += 31
    assert get(server.url + "/health/live") == (503, "stuck: the loop last turned 31 s ago, more than 30 s\n")
    metrics.observe(QUIET)
    assert get(server.url + "/health/live")[0] == 200


def test_the_worker_is_ready_while_redis_takes_its_rows(serve):
    metrics = metrics_after()
    server = serve(metrics)
    assert get(server.url + "/health/ready")[0] == 503
    metrics.observe(QUIET)
    assert get(server.url + "/health/ready") == (200, "ready\n")
    metrics.observe(replace(QUIET, publisher_up=False, n_pending=12))
    assert get(server.url + "/health/ready") == (503, "Redis does not answer: 12 rows wait to be published\n")
    assert get(server.url + "/health/live")[0] == 200


def test_another_page_says_which_there_are(serve):
    status, body = get(serve(metrics_after()).url + "/")
    assert status == 404
    assert "/metrics" in body


def test_a_taken_port_is_an_error_that_names_the_setting(serve):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(MetricsUnavailable, match=r"metrics\.port"):
            serve(metrics_after(), port=other.getsockname()[1])


def test_a_closed_server_frees_its_port_and_closes_twice(serve):
    server = serve(metrics_after())
    server.close()
    server.close()
    serve(metrics_after(), port=server.port)
