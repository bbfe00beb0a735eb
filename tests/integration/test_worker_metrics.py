"""What a real worker tells about itself: health, and counters that equal what was sent."""

import time
from urllib.error import URLError

import pytest

from tests.integration.real_worker import await_true, check_all, rate, rates


def test_counters_equal_what_was_sent_and_health_says_how_it_is(place):
    place.send([*rates(12, 10), *rates(2, 10), b"rubbish", b"{}"])  # 120 ratings, 20 of them twice, two unreadable
    worker = place.start()
    worker.has_learned(142)
    assert worker.get("/health/live") == (200, "live\n")
    assert worker.get("/health/ready") == (200, "ready\n")
    assert worker.get("/nothing")[0] == 404
    metrics = worker.metrics()
    assert metrics["factorstream_records_total"] == 142
    assert metrics["factorstream_ratings_accepted_total"] == 120
    assert metrics["factorstream_ratings_stale_total"] == 20
    assert sum(value for name, value in metrics.items() if name.startswith("factorstream_dead_letters_total{")) == 2
    assert metrics["factorstream_live_errors_total"] == 120
    assert 0 < metrics["factorstream_live_squared_error_total"] / 120 < 10
    assert metrics["factorstream_ratings_held"] == 120
    assert metrics['factorstream_rows{side="user"}'] == 12
    assert metrics['factorstream_rows{side="item"}'] == 10
    assert metrics['factorstream_redis_writes_total{kind="user"}'] >= 12
    assert metrics["factorstream_epoch"] == 1
    assert metrics["factorstream_publisher_up"] == 1
    assert [value for name, value in metrics.items() if name.startswith("factorstream_lag_records{")] == [0, 0, 0]
    assert metrics["factorstream_freshness_seconds_count"] >= 1
    await_true(lambda: worker.metrics()["factorstream_checkpoint_bytes"])
    answer = worker.stop().settled()
    assert (answer["n_records"], answer["n_accepted"], answer["n_stale"], answer["n_rejects"]) == (142, 120, 20, 2)


def test_an_event_is_readable_soon_after_it_was_sent(place):
    place.send(rates(12, 10))
    worker = place.start()
    worker.has_learned(120)
    seconds = []
    for number in range(5):
        before = time.monotonic()
        place.send([rate(100 + number, 1)])
        key = f"fs:{{{place.model}.0}}:u:u{100 + number}"
        await_true(lambda key=key: place.redis.exists(key))
        seconds.append(time.monotonic() - before)
    assert min(seconds) < 1.0, "a bound that a busy machine keeps too; the figures are in tests/benchmarks"
    worker.stop().settled()
    check_all(place)


def test_a_worker_that_ended_answers_no_more(place):
    worker = place.start()
    worker.said("running")
    worker.stop().settled()
    with pytest.raises(URLError):
        worker.get("/health/live")
