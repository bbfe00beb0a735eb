"""The rating store: bytes a rating, ratings accepted a second, the longest call, and how fast rows are read.

    python -m tests.benchmarks.bench_store [--ratings 10000000] [--rounds 3]

Random ratings, uniform over 480,000 users and with Zipf's law over 18,000 items, in batches of 5,000, merges included; each round
in a process of its own, the median of the rounds. Bytes are those of resident memory, with the rows' own and without ids.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from factorstream.worker.kernels.store import IDLE
from factorstream.worker.kernels.store_merge import advance
from factorstream.worker.model.ratings import Ratings
from tests.benchmarks.table import Figure, show

N_USERS, N_ITEMS, BATCH, FOLD_IN = 480_000, 18_000, 5_000, 8
N_OF_DICTS = 500_000
TIMES = 1_600_000_000_000


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ratings", type=int, default=10_000_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument(
        "--once", choices=("store", "fold_in", "dicts"), help="measure one round of one thing, and print it as JSON"
    )
    asked = options.parse_args()
    if asked.once:
        print(json.dumps(measured(asked.once, asked.ratings)))
        return
    store, fold_in = (medians(once, asked.ratings, asked.rounds) for once in ("store", "fold_in"))
    dicts = medians("dicts", N_OF_DICTS, 1)
    figures = [
        Figure("resident memory a rating, steady", store["steady"], "bytes", at_most=32),
        Figure("the same, most seen while merging", store["peak"], "bytes", at_most=48),
        Figure(f"dictionaries of dictionaries, {N_OF_DICTS:,} ratings", dicts["steady"], "bytes"),
        Figure("accepted, merges included", store["rate"], "M ratings/s", at_least=4),
        Figure("the same a second of this process's own time", store["rate_of_work"], "M ratings/s"),
        Figure(f"with histories of rows of at most {FOLD_IN}", fold_in["rate"], "M ratings/s"),
        Figure(f"dictionaries of dictionaries, {N_OF_DICTS:,} ratings", dicts["rate"], "M ratings/s"),
        Figure(f"one call of {BATCH:,}: median", store["median_ms"], "ms"),
        Figure(f"one call of {BATCH:,}: 99th of 100", store["p99_ms"], "ms"),
        Figure(f"one call of {BATCH:,}: longest", store["longest_ms"], "ms"),
        Figure("all rows of users read", store["users_read"], "M ratings/s"),
        Figure("all rows of items read", store["items_read"], "M ratings/s"),
        Figure("all pairs written out", store["written_out"], "M ratings/s"),
        Figure("all pairs loaded", store["loaded"], "M ratings/s"),
    ]
    show(f"The rating store, {asked.ratings:,} ratings, {N_USERS:,} × {N_ITEMS:,}, one core", figures)


def medians(once, n, rounds):
    """Return the median of each figure over some rounds."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_store", "--once", once, "--ratings", str(n)]
    found = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(rounds)]
    return {name: statistics.median(round_[name] for round_ in found) for name in found[0]}


def measured(once, n):
    events = random_events(n)
    touch_memory()
    return of_dicts(events) if once == "dicts" else of_store(events, FOLD_IN if once == "fold_in" else 0)


def of_store(events, fold_in):
    read(filled([column[:10] for column in events], fold_in)[0])  # compiles
    before = resident_bytes()
    began = time.thread_time()
    ratings, seconds, peak = filled(events, fold_in, before)
    worked = time.thread_time() - began
    advance(ratings._store, np.inf)
    return {
        "rate": len(events[0]) / sum(seconds) / 1e6,
        "rate_of_work": len(events[0]) / worked / 1e6,
        "steady": (resident_bytes() - before) / ratings.n_ratings,
        "peak": peak,
        "median_ms": statistics.median(seconds) * 1e3,
        "p99_ms": sorted(seconds)[len(seconds) * 99 // 100] * 1e3,
        "longest_ms": max(seconds) * 1e3,
        **read(ratings),
    }


def filled(events, fold_in, before=0):
    """Return a store of *events*, the seconds of each call, and the most bytes a rating seen in the second half while merging."""
    ratings, seconds, peak = Ratings(), [], 0
    ratings.grow(N_USERS, N_ITEMS)
    n = len(events[0])
    for start in range(0, n, BATCH):
        part = [column[start : start + BATCH] for column in events]
        began = time.perf_counter()
        ratings.accept(*part, fold_in=fold_in)
        seconds.append(time.perf_counter() - began)
        if start > n // 2 and start % (20 * BATCH) == 0 and ratings._store.state["phase"][0] != IDLE:
            peak = max(peak, (resident_bytes() - before) / ratings.n_ratings)
    return ratings, seconds, peak


def read(ratings):
    """Return millions of ratings a second for all ways of reading, and for loading what was read."""
    entries, written_out = timed(ratings.entries, ratings.n_ratings)
    floors = {"user_floor_ms": ratings.user_floor_ms, "item_floor_ms": ratings.item_floor_ms}
    return {
        "written_out": written_out,
        "loaded": timed(lambda: Ratings.from_entries(entries, **floors), ratings.n_ratings)[1],
        "users_read": timed(lambda: ratings.histories_of_users(np.arange(N_USERS, dtype=np.int32)), ratings.n_ratings)[1],
        "items_read": timed(lambda: ratings.histories_of_items(np.arange(N_ITEMS, dtype=np.int32)), ratings.n_ratings)[1],
    }


def timed(work, n):
    """Return what *work* returns, and how many million of *n* it did a second."""
    began = time.perf_counter()
    result = work()
    return result, n / (time.perf_counter() - began) / 1e6


def of_dicts(events):
    """What one writes first: user → item → (rating, time), and the same by item."""
    columns = [column.tolist() for column in events[1:]]
    before, began = resident_bytes(), time.perf_counter()
    by_user, by_item, n_accepted = {}, {}, 0
    for user, item, rating, time_ms in zip(*columns, strict=True):
        row = by_user.setdefault(user, {})
        if item not in row or (time_ms, rating) > row[item][::-1]:
            row[item] = by_item.setdefault(item, {})[user] = rating, time_ms
            n_accepted += 1
    seconds = time.perf_counter() - began
    return {"rate": n_accepted / seconds / 1e6, "steady": (resident_bytes() - before) / sum(map(len, by_user.values()))}


def random_events(n):
    """Return kinds, user rows, item rows, ratings and times of *n* events, each later than the one before."""
    rng = np.random.default_rng(0)
    shares = np.cumsum(np.arange(1, N_ITEMS + 1) ** -0.9)
    return (
        np.zeros(n, np.uint8),
        rng.integers(0, N_USERS, n, dtype=np.int32),
        np.searchsorted(shares, shares[-1] * rng.random(n)).astype(np.int32),
        rng.integers(1, 11, n).astype(np.float32),
        np.arange(n) + TIMES,
    )


def touch_memory(n_bytes=2 << 30):
    """Write to memory and give it back: a virtual machine's first use of a page costs up to 60 times what later ones do."""
    np.ones(n_bytes // 8)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
