"""What the demonstration reads off a worker's metrics is what the worker meant."""

import pytest

from factorstream.worker.adapters.prometheus import FRESHNESS_S, Metrics
from factorstream.worker.local.scrape import parse, scrape
from tests.ticks import QUIET


@pytest.fixture
def metrics():
    return Metrics()


def page(metrics):
    from prometheus_client import generate_latest

    return generate_latest(metrics.registry).decode()


def test_a_worker_that_has_not_turned_says_nothing(metrics):
    assert parse(page(metrics)) is None
    assert scrape("http://127.0.0.1:1") is None


def test_facts_are_those_of_the_ticks(metrics):
    from dataclasses import replace

    from factorstream.worker.tick import Published

    published = Published(n_users=3, n_items=4, n_blocks=1, seconds=0.01, oldest_record_ms=None)
    for _ in range(2):
        metrics.observe(
            replace(
                QUIET,
                n_records=10,
                n_accepted=8,
                squared_error=8.0,
                n_errors=8,
                lag={0: 5, 1: 6},
                n_users=20,
                n_items=30,
                n_pending=7,
                sweep_progress=0.25,
                published=published,
            )
        )
    facts = parse(page(metrics))
    assert (facts.n_records, facts.n_accepted, facts.lag, facts.n_users, facts.n_items) == (20, 16, 11, 20, 30)
    assert (facts.n_pending, facts.n_written, facts.sweep_progress) == (7, 16, 0.25)
    assert facts.rmse == pytest.approx(1.0)
    assert facts.fresh_within(0.5) is None


def test_a_served_page_is_read(metrics):
    metrics.observe(QUIET)
    server = metrics.serve("127.0.0.1", 0)
    assert scrape(server.url) == parse(page(metrics))
    server.close()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.0])
def test_shares_of_freshness_lie_in_their_bucket(share):
    from dataclasses import replace

    from factorstream.worker.tick import Published

    now_s = 1_700_000_000.0
    metrics = Metrics(clock=lambda: now_s)
    for k in range(100):  # ages 10, 20 … 1000 ms
        published = Published(1, 1, 0, 0.01, int(now_s * 1000) - 10 * (k + 1))
        metrics.observe(replace(QUIET, published=published))
    exact = 0.010 * max(1, round(100 * share))
    bounds = [0.0, *FRESHNESS_S]
    low = max(bound for bound in bounds if bound < exact - 1e-9)
    high = min(bound for bound in bounds if bound >= exact - 1e-9)
    assert low <= parse(page(metrics)).fresh_within(share) <= high
