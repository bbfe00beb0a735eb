"""What the client costs: decoding, packing, producing beside kafka-python alone, reading.

    python -m tests.benchmarks.bench_client

Each figure is the median of several runs, one after another in turn; K = 64.
"""

import statistics
import time

import numpy as np
import redis
from kafka import KafkaProducer

from factorstream import Meta, Producer, Rating, Reader, keys
from factorstream.blocks import SLOTS, VERSIONS, pack_block, pack_versions
from factorstream.codec import decode_many, encode
from factorstream.embedding import pack_many
from factorstream.meta import pack_meta
from tests.benchmarks.live import new_topic, running
from tests.benchmarks.table import Figure, show

RANK, N_ITEMS, N_USERS, N_EVENTS, RUNS = 64, 100_000, 1000, 40_000, 5
NOW_MS = 1_700_000_000_000
EVENTS = [Rating(f"u{n * 7919 % 6000}", f"m{n % 3000}", n % 10 / 2, NOW_MS + n) for n in range(N_EVENTS)]


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def decoding():
    values, times = [encode(event) for event in EVENTS], [NOW_MS] * N_EVENTS
    return {"decode_us": 1e6 * statistics.median(seconds(lambda: decode_many(values, times)) for _ in range(RUNS)) / N_EVENTS}


def packing():
    return {f"pack_rows_per_s_k{rank}": 20_000 / statistics.median(pack_seconds(rank) for _ in range(RUNS)) for rank in (16, 64)}


def pack_seconds(rank):
    vectors, ones = np.ones((20_000, rank + 2), np.float32), np.ones(20_000, np.uint32)
    return seconds(lambda: pack_many(vectors, ones, ones.astype(np.int64), epoch=1, position=1))


def producing(lent):
    """Compare with kafka-python alone, which is handed keys and values that are bytes already."""
    address, topic = lent.kafka, new_topic(lent)
    pairs = [(event.user_id.encode(), encode(event)) for event in EVENTS]

    def alone():
        for key, value in pairs:
            plain.send(topic, value, key)
        plain.flush()

    def ours():
        for event in EVENTS:
            producer.send(event)
        producer.flush()

    with Producer(address, topic) as producer:
        plain = KafkaProducer(bootstrap_servers=address)
        spent = [(seconds(ours), seconds(alone)) for _ in range(RUNS)]
        plain.close()
    rates = [N_EVENTS / statistics.median(column) for column in zip(*spent, strict=True)]
    return {"producer_events_per_s": rates[0], "kafka_python_events_per_s": rates[1]}


def publish(client, model):
    random = np.random.default_rng(0)
    users, items = (random.normal(0, 0.1, (n, RANK + 2)).astype(np.float32) for n in (N_USERS, N_ITEMS))
    ids = [f"m{n}" for n in range(N_ITEMS)]
    meta = Meta(
        journal_id="j", epoch=1, rank=RANK, intercept=3.5, n_users=N_USERS, n_items=N_ITEMS, position=1, published_ms=NOW_MS
    )
    client.set(keys.meta_key(model), pack_meta(meta))
    for rows, key, first in ((users, keys.user_key, "u"), (items, keys.item_key, "m")):
        ones = np.ones(len(rows), np.uint32)
        packed = pack_many(rows, ones, ones.astype(np.int64), epoch=1, position=1)
        for start in range(0, len(rows), 1000):
            client.mset({key(model, f"{first}{row}"): packed[row] for row in range(start, min(start + 1000, len(rows)))})
    versions = np.zeros(-(-N_ITEMS // SLOTS), VERSIONS)
    versions["position"], versions["epoch"] = 1, 1
    for number in range(len(versions)):
        own = slice(number * SLOTS, (number + 1) * SLOTS)
        client.set(keys.block_key(model, number), pack_block(number, ids[own], items[own], epoch=1, position=1))
    client.set(keys.blocks_key(model), pack_versions(versions))


def reading(url):
    with redis.Redis.from_url(url) as client:
        publish(client, "bench")
    with Reader(url, "bench") as reader:
        first = seconds(lambda: reader.top_n("u0"))
        calls = {
            "user": lambda n: reader.user(f"u{n}"),
            "predict_10": lambda n: reader.predict(f"u{n}", [f"m{n + k}" for k in range(10)]),
            "top_10_of_100k": lambda n: reader.top_n(f"u{n}"),
            "similar_10_of_100k": lambda n: reader.similar_items(f"m{n}"),
        }
        figures = {"first_top_10_ms": 1e3 * first}
        for name, call in calls.items():
            spent = [1e3 * seconds(lambda n=n, call=call: call(n)) for n in range(N_USERS // 2)]
            figures |= {f"{name}_p50_ms": np.percentile(spent, 50), f"{name}_p99_ms": np.percentile(spent, 99)}
        return figures


UNITS = {"_us": "µs an event", "_ms": "ms", "rows_per_s": "rows/s", "events_per_s": "events/s"}
BOUNDS = {"producer_events_per_s": {"at_least": 40_000}, "user_p99_ms": {"at_most": 0.5}, "top_10_of_100k_p99_ms": {"at_most": 5}}


def figure(name, value):
    ending = next(ending for ending in UNITS if ending in name)
    return Figure(" ".join(name.replace(ending, " ").replace("_", " ").split()), value, UNITS[ending], **BOUNDS.get(name, {}))


def main():
    with running() as lent:
        figures = decoding() | packing() | producing(lent) | reading(lent.redis)
    show("The client", [figure(*item) for item in figures.items()])


if __name__ == "__main__":
    main()
