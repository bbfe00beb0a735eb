"""SGD and fold-in: updates a second of one core's time, against the same loop in plain numba, and against LIBMF.

LIBMF steps through blocks of the matrix, users of a block in order, so that rows are in the cache. `fit` does, too; a stream
comes as it comes. Ours returns each error and has biases, LIBMF has neither.
"""

import statistics
import time

import numpy as np
from numba import njit

from factorstream.worker.fitting.sections import sections_of
from factorstream.worker.fitting.splits import NEVER
from factorstream.worker.kernels import cpu
from factorstream.worker.kernels.api import Batch, Histories, Objective, Penalty, Rates, Side
from factorstream.worker.kernels.memory import reserve
from factorstream.worker.model.ratings import Held, Ratings
from tests.benchmarks.libmf import LibMF
from tests.benchmarks.table import Figure, show

N_USERS, N_ITEMS, N_RATINGS, ROUNDS = 480_000, 18_000, 1_000_000, 5
N_FOLDED = 20_000
N_FITTED, PASSES, TURNS = 5_000_000, 4, 3
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
    show(f"SGD beside LIBMF built with AVX, one core, {N_FITTED:,} ratings, the same rows", list(beside_libmf(rng)))
    show(f"Fold-in, one core, the same tables, {N_FOLDED:,} events", list(folded(rng)))


def beside_libmf(rng):
    """Yield updates a second of a core's time: LIBMF's, ours in the order of `fit`, ours in that of a stream."""
    peer, entries = LibMF(), distinct(rng)
    yield Figure("LIBMF: instructions that multiply eight numbers", peer.n_wide, at_least=1)
    few = tuple(column[:1000] for column in entries)
    cpu.threads = 1
    floors = {"user_floor_ms": np.full(N_USERS, NEVER), "item_floor_ms": np.full(N_ITEMS, NEVER)}
    ratings = Ratings.from_entries(Held(*entries, np.zeros(len(entries[0]), np.int64)), **floors)
    fitted = [part for section in sections_of(ratings, rng, N_FITTED) for part in section]
    streamed = shuffled(rng, entries, ratings)
    for rank in (32, 64, 128):
        users, items = side(rng, N_USERS, rank), side(rng, N_ITEMS, rank)
        cpu.sgd(users, items, fitted[0].batch, **HOW, apart=fitted[0].apart)  # compiles
        seconds = {"libmf": [], "fit": [], "stream": []}
        for _ in range(TURNS):
            passes = peer.learn((N_USERS, N_ITEMS), entries, few, rank=rank, n_threads=1, n_iterations=PASSES)
            seconds["libmf"] += [one.cpu_s for one in passes[1:]]  # in the first, LIBMF steps eight factors alone
            seconds["fit"].append(timed(lambda u=users, i=items: [cpu.sgd(u, i, b, **HOW, apart=apart) for b, apart in fitted]))
            seconds["stream"].append(timed(lambda u=users, i=items: cpu.sgd(u, i, streamed, **HOW)))
        libmf, fit, stream = (statistics.median(one) for one in seconds.values())
        n = len(entries[0]) / 1e6
        yield Figure(f"K = {rank}: LIBMF", n / libmf, "M updates/s")
        yield Figure(f"K = {rank}: ours, in the order of fit", n / fit, "M updates/s", at_least=n / libmf)
        yield Figure(f"K = {rank}: ours, in the order of a stream", n / stream, "M updates/s")
        yield Figure(f"K = {rank}: in the order of fit, times LIBMF", libmf / fit, at_least=1)
        yield Figure(f"K = {rank}: in the order of a stream, times LIBMF", libmf / stream)


def distinct(rng):
    """Return ratings of different pairs, ascending, popular rows often."""
    pairs = zipf(rng, N_USERS, 0.6, N_FITTED).astype(np.int64) * N_ITEMS + zipf(rng, N_ITEMS, 0.8, N_FITTED)
    users, items = np.divmod(np.unique(pairs), N_ITEMS)
    return users.astype(np.int32), items.astype(np.int32), rng.normal(3.5, 1, len(users)).astype(np.float32)


def shuffled(rng, entries, ratings):
    """Return the ratings as a stream might bring them."""
    order = rng.permutation(len(entries[0]))
    users, items, values = (column[order] for column in entries)
    none = Histories(np.zeros(len(users) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return Batch(users, items, values, ratings.user_counts[users], ratings.item_counts[items], none, none)


def timed(run):
    """Return the seconds of this thread that *run* takes."""
    began = time.thread_time()
    run()
    return time.thread_time() - began


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
            measured.append(timed(run))
    return [statistics.median(measured[1:]) for measured in seconds]


def side(rng, rows, rank):
    """Return a side in memory such as a worker's tables have."""
    factors, biases = reserve((rank,), np.float32)[:rows], reserve((), np.float32)[:rows]
    factors[:] = rng.standard_normal((rows, rank), dtype=np.float32) * np.float32(0.1)
    return Side(factors, biases)


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
