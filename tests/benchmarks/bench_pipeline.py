"""Kafka → learned → Redis: single JSON events, beside kafka-python alone consuming the same topic in the same minutes.

    python -m tests.benchmarks.bench_pipeline [--events 2000000] [--runs 5]

kafka-python alone polls and counts. The worker's seconds are its own (``busy_seconds``), from the turn with the first records
until every changed row was in Redis; its records are the topic's. Runs are interleaved; figures are medians.
"""

import argparse
import statistics
import time
from multiprocessing import get_context

from kafka import KafkaConsumer, TopicPartition

from factorstream.worker.config import Settings
from tests.benchmarks.live import fill, finish, fresh_worker, running
from tests.benchmarks.streams import movietweetings_and_generated
from tests.benchmarks.table import Figure, show

POLL_S = 0.1
LEAST_WITH_SWEEPS, LEAST_WITHOUT = 0.6, 0.7


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--events", type=int, default=2_000_000, help="of the generated stream")
    options.add_argument("--runs", type=int, default=5)
    asked = options.parse_args()
    with running() as lent:
        for name, history in movietweetings_and_generated(asked.events).items():
            show(f"Kafka → learned → Redis, {name}, {asked.runs} interleaved runs", measure(lent, history, asked.runs))


def measure(lent, history, n_runs):
    """Return the figures of one stream."""
    topic, n = fill(lent, history), len(history)
    contestants = {
        "kafka-python alone": lambda: alone(lent, topic, n),
        "worker, default sweeps": lambda: worker_seconds(lent, topic, n),
        "worker, sweeps off": lambda: worker_seconds(lent, topic, n, "sweep.visits_per_rating=0"),
    }
    seconds = {name: [] for name in contestants}
    for _ in range(n_runs):
        for name, run in contestants.items():
            seconds[name].append(run())
    rates = {name: n / statistics.median(spent) for name, spent in seconds.items()}
    kafka, sweeping, plain = rates.values()
    return [
        *(Figure(name, rate, "events/s") for name, rate in rates.items()),
        Figure("ratio, default sweeps", sweeping / kafka, "", at_least=LEAST_WITH_SWEEPS),
        Figure("ratio, sweeps off", plain / kafka, "", at_least=LEAST_WITHOUT),
    ]


def worker_seconds(lent, topic, n_records, *settings):
    """Run a fresh worker over the whole topic; return how long it was busy."""
    with fresh_worker(lent, topic, *settings) as worker:
        totals = finish(worker)
    assert totals["n_records"] == n_records, totals
    return totals["busy_seconds"]


def alone(lent, topic, n_records):
    """Read the whole topic with kafka-python alone, in a process of its own; return the seconds."""
    with get_context("spawn").Pool(1) as process:
        return process.apply(consume, (lent.kafka, topic, n_records))


def consume(address, topic, n_records):
    """Poll until *n_records* have come; return the seconds since the start of the poll that brought the first."""
    consumer = KafkaConsumer(
        bootstrap_servers=address,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_poll_records=Settings().kafka.max_poll_records,
        fetch_max_bytes=16 << 20,
        metrics_enabled=False,
    )
    partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    for partition, offset in consumer.beginning_offsets(partitions).items():
        consumer.seek(partition, offset)
    n, began = 0, time.perf_counter()
    while n < n_records:
        before = time.perf_counter()
        n_polled = sum(map(len, consumer.poll(timeout_ms=1000 * POLL_S).values()))
        began = began if n else before
        n += n_polled
    seconds = time.perf_counter() - began
    consumer.close()
    return seconds


if __name__ == "__main__":
    main()
