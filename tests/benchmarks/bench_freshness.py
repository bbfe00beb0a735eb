"""Event → readable in Redis, as a reader sees it, while sweeps and checkpoints go on.

    python -m tests.benchmarks.bench_freshness [--rates 5000 20000] [--seconds 30]

Events are sent at a steady rate in bursts of five milliseconds. One in fifty is a probe: a rating by one of 200 users in turn,
sent with `factorstream.Producer`; when is noted just before. The reader asks Redis for the probes under way, again and again, and
notes when ``n_ratings`` of the user's row says that the probe is in it. The worker holds a million ratings before, is caught up,
and makes a checkpoint every two seconds.
"""

import argparse
import signal
import subprocess
import time
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import redis

from factorstream import Producer, Rating
from factorstream.embedding import read_header
from factorstream.keys import meta_key, user_key
from factorstream.meta import unpack_meta
from tests.benchmarks.live import Bulk, fill, fresh_worker, running
from tests.benchmarks.streams import N_ITEMS, N_USERS, generated_history
from tests.benchmarks.table import Figure, show

N_HELD = 1_000_000
PROBE_EVERY, N_PROBE_USERS = 50, 200
BURST_S = 0.005
WARM_UP_S = 5.0
PAUSE_S = 0.001
ASKED_AT_ONCE = 32
"""Probes of which the reader asks, the oldest under way: asking for all of many would be a load of its own."""
PATIENCE_S = 20.0
MODEL = "bench-freshness"
SETTINGS = ("checkpoint.interval_s=2", "checkpoint.keep=1000", f"model.name={MODEL}")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rates", type=int, nargs="+", default=[5_000, 20_000], help="events a second")
    options.add_argument("--seconds", type=float, default=30.0, help="measured at each rate")
    asked = options.parse_args()
    history = generated_history(N_HELD)
    with running() as lent:
        for rate in asked.rates:
            show(f"Event → readable at {rate:,} events/s", measure(lent, history, rate, asked.seconds))


def measure(lent, history, rate, seconds):
    """Return the figures at one rate."""
    topic = fill(lent, history)
    with caught_up_worker(lent, topic) as folder, redis.Redis.from_url(lent.redis) as client:
        before, n_before = model(client), n_checkpoints(folder)
        n_events = round(rate * (WARM_UP_S + seconds))
        sent_s, seen_s = follow(lent, client, topic, n_events, rate)
        after, n_after = model(client), n_checkpoints(folder)
    ms = 1e3 * (seen_s - sent_s)[round(rate * WARM_UP_S / PROBE_EVERY) :]
    bounds = {50: 60, 99: 300} if rate <= 5_000 else {}
    n_blocks = after.position - before.position - (sum(after.offsets.values()) - sum(before.offsets.values()))
    return [
        *(Figure(f"p{share}", float(np.percentile(ms, share)), "ms", at_most=bounds.get(share)) for share in (50, 90, 99)),
        Figure("longest", float(ms.max()), "ms"),
        Figure("sent", n_events / (sent_s[-1] - sent_s[0]), "events/s"),
        Figure("probes", len(ms)),
        Figure("checkpoints meanwhile", n_after - n_before),
        Figure("blocks of the sweep solved meanwhile", n_blocks),
    ]


@contextmanager
def caught_up_worker(lent, topic):
    """Run a worker that has learned and published all of *topic*; lend its checkpoint folder."""
    with fresh_worker(lent, topic, *SETTINGS) as command, redis.Redis.from_url(lent.redis) as client:
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while (found := model(client)) is None or sum(found.offsets.values()) < N_HELD:
                assert worker.poll() is None, f"the worker ended with {worker.returncode}"
                time.sleep(0.1)
            time.sleep(2.0)
            yield next(Path(word.partition("=")[2]) for word in command if word.startswith("checkpoint.dir="))
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)


def model(client):
    """Return what Redis says of the model; None before it says anything."""
    value = client.get(meta_key(MODEL))
    return None if value is None else unpack_meta(value)


def n_checkpoints(folder):
    return len(list(folder.glob("checkpoint-*.json")))


def follow(lent, client, topic, n_events, rate):
    """Have events sent, and see the probes among them arrive; return when each probe was sent and when it was readable."""
    context = get_context("spawn")
    sent = context.Array("d", n_events // PROBE_EVERY, lock=False)
    producer = context.Process(target=produce, args=(lent.kafka, topic, n_events, rate, sent))
    producer.start()
    seen = watch(client, np.frombuffer(sent), producer)
    producer.join()
    return np.array(sent), seen


def watch(client, sent_s, producer):
    """Ask Redis for the probes under way until all were seen; return when each was. Times are of the system's monotonic clock."""
    seen_s = np.zeros(len(sent_s))
    keys = [user_key(MODEL, f"probe{user}") for user in range(N_PROBE_USERS)]
    first = stop = 0
    until_s = None
    while first < len(sent_s):
        while stop < len(sent_s) and sent_s[stop]:
            stop += 1
        asked = list(islice((probe for probe in range(first, stop) if not seen_s[probe]), ASKED_AT_ONCE))
        values = client.mget([keys[probe % N_PROBE_USERS] for probe in asked]) if asked else []
        now_s = time.monotonic()
        for probe, value in zip(asked, values, strict=True):
            if value is not None and read_header(value).n_ratings > probe // N_PROBE_USERS:
                seen_s[probe] = now_s
        before = first
        while first < stop and seen_s[first]:
            first += 1
        if not producer.is_alive():
            until_s = until_s or time.monotonic() + PATIENCE_S
            assert time.monotonic() < until_s, f"{len(sent_s) - first} probes never became readable"
        if first == before:
            time.sleep(PAUSE_S)
    return seen_s


def produce(address, topic, n_events, rate, sent_s):
    """Send *n_events* at *rate*, probes among them; note when each probe was sent."""
    random = np.random.default_rng(1)
    users, items = random.integers(0, N_USERS, n_events).tolist(), random.integers(0, N_ITEMS, n_events).tolist()
    stars = (random.integers(1, 11, n_events) / 2).tolist()
    burst = max(1, round(rate * BURST_S))
    with Producer(address, topic) as producer, Bulk(address, topic) as bulk:
        began = time.monotonic()
        for first in range(0, n_events, burst):
            time.sleep(max(0.0, began + first / rate - time.monotonic()))
            now_ms = time.time_ns() // 1_000_000
            others = []
            for at in range(first, min(n_events, first + burst)):
                probe, place = divmod(at, PROBE_EVERY)
                if place == PROBE_EVERY - 1:
                    rating = Rating(f"probe{probe % N_PROBE_USERS}", f"m{probe // N_PROBE_USERS}", stars[at], now_ms)
                    sent_s[probe] = time.monotonic()
                    producer.send(rating)
                else:
                    others.append(Rating(f"u{users[at]}", f"m{items[at]}", stars[at], now_ms))
            bulk.send(others)


if __name__ == "__main__":
    main()
