"""SGD and fold-in: updates a second of one core's time, against the same loop in plain numba."""

import statistics
import time

import numpy as np
from numba import njit

from factorstream.worker.kernels import cpu
from factorstream.worker.kernels.api import Batch, Histories, Objective, Penalty, Rates, Side
from tests.benchmarks.table import Figure, show

N_USERS, N_ITEMS, N_RATINGS, ROUNDS = 480_000, 18_000, 1_000_000, 5
N_FOLDED = 20_000
HOW = {"intercept": 3.5, "objective": Objective(Penalty(0.05, 0.05, 0.05, True)), "rates": Rates(0.01, 0.01, 0.0)}


@njit(fastmath=True, error_model="numpy")
def plain(users, items, biases, item_biases, user_rows, item_rows, ratings, errors, rate, penalty):
    """What one writes first: biases and errors as ours, neither prefetch nor bounds."""
    for j in range(len(ratings)):
        n, m = user_rows[j], item_rows[j]
        u, v = users[n], items[m]
        score = np.float32(3.5) + biases[n] + item_biases[m]
        for k in range(len(u)):
            score += u[k] * v[k]
        error = ratings[j] - score
        for k in range(len(u)):
            x, y = u[k], v[k]
            u[k] = x + rate * (error * y - penalty * x)
            v[k] = y + rate * (error * x - penalty * y)
        biases[n] += rate * (error - penalty * biases[n])
        item_biases[m] += rate * (error - penalty * item_biases[m])
        errors[j] = error


def main():
    rng = np.random.default_rng(0)
    batch = stream(rng, N_RATINGS, 0)
    figures = []
    for rank in (16, 32, 64, 128):
        users, items = side(rng, N_USERS, rank), side(rng, N_ITEMS, rank)
        errors = np.empty(N_RATINGS, np.float32)
        columns = (
            users.factors,
            items.factors,
            users.biases,
            items.biases,
            batch.user_rows,
            batch.item_rows,
            batch.ratings,
            errors,
        )
        slow = lambda columns=columns: plain(*columns, np.float32(0.01), np.float32(0.05))  # noqa: E731
        fast = lambda users=users, items=items: cpu.sgd(users, items, batch, **HOW)  # noqa: E731
        seconds = interleaved(slow, fast)
        wanted = 18 if rank == 64 else None
        figures.append(Figure(f"K = {rank}: kernel", N_RATINGS / seconds[1] / 1e6, "M updates/s", at_least=wanted))
        figures.append(Figure(f"K = {rank}: plain numba loop", N_RATINGS / seconds[0] / 1e6, "M updates/s"))
    show(f"SGD, one core, {N_USERS:,} × {N_ITEMS:,} rows, biases and errors included, exact order", figures)
    show(f"Fold-in, one core, the same tables, {N_FOLDED:,} events", list(folded(rng)))


def folded(rng):
    for rank in (16, 64):
        users, items = side(rng, N_USERS, rank), side(rng, N_ITEMS, rank)
        for length in (1, 4, 8, 16, 32):
            batch = stream(rng, N_FOLDED, length)
            (seconds,) = interleaved(lambda users=users, items=items, batch=batch: cpu.sgd(users, items, batch, **HOW))
            yield Figure(f"K = {rank}: a user's {length} ratings solved, the item stepped", seconds / N_FOLDED * 1e6, "µs")


def interleaved(*runs):
    """Return the median seconds of a core that each of *runs* took, in turns; the first, which compiles, does not count."""
    seconds = [[] for _ in runs]
    for _ in range(ROUNDS + 1):
        for run, measured in zip(runs, seconds, strict=True):
            began = time.thread_time()
            run()
            measured.append(time.thread_time() - began)
    return [statistics.median(measured[1:]) for measured in seconds]


def side(rng, rows, rank):
    return Side(rng.standard_normal((rows, rank), dtype=np.float32) * np.float32(0.1), np.zeros(rows, np.float32))


def stream(rng, n, length):
    """Return *n* events, popular rows often; each user comes with a history of *length* ratings."""
    starts = np.arange(n + 1) * length
    history = Histories(starts, zipf(rng, N_ITEMS, 0.8, n * length), rng.normal(3.5, 1, n * length).astype(np.float32))
    none = Histories(starts * 0, np.zeros(0, np.int32), np.zeros(0, np.float32))
    counts = np.full(n, max(length, 20), np.int32)
    rows = zipf(rng, N_USERS, 0.6, n), zipf(rng, N_ITEMS, 0.8, n)
    return Batch(*rows, rng.normal(3.5, 1, n).astype(np.float32), counts, counts, history, none)


def zipf(rng, n, exponent, size):
    weights = 1 / np.arange(1, n + 1) ** exponent
    return rng.permutation(n)[rng.choice(n, size=size, p=weights / weights.sum())].astype(np.int32)


if __name__ == "__main__":
    main()
