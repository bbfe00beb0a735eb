"""ALS: one exact iteration (all users, then all items), side by side with implicit's exact and approximate solvers."""

import statistics
import time

import numpy as np
import scipy.sparse as sp
from implicit.cpu import _als
from threadpoolctl import threadpool_limits

from factorstream.worker.kernels import cpu
from factorstream.worker.kernels.api import Histories, Objective, Penalty, Side
from tests.benchmarks.table import Figure, show

N_USERS, N_ITEMS, N_RATINGS, THREADS, ROUNDS = 30_000, 8_000, 2_600_000, 2, 3


def main():
    rng = np.random.default_rng(0)
    matrix = ratings(rng)
    figures = []
    with threadpool_limits(1, "blas"):  # implicit shares rows among its own threads
        for rank in (16, 32, 64, 128):
            ours, exact, approximate = compared(rng, matrix, rank)
            figures.append(Figure(f"K = {rank}: ours, exact, biases included", ours, "s"))
            figures.append(Figure(f"K = {rank}: implicit, exact (use_cg=False)", exact, "s"))
            figures.append(Figure(f"K = {rank}: implicit, approximate (3 steps of CG)", approximate, "s"))
            figures.append(Figure(f"K = {rank}: times faster than exact", exact / ours, at_least=5 if rank == 64 else None))
            figures.append(
                Figure(f"K = {rank}: times faster than approximate", approximate / ours, at_least=1 if rank == 64 else None)
            )
    show(f"ALS, one iteration of {matrix.nnz:,} ratings, {N_USERS:,} × {N_ITEMS:,}, {THREADS} threads", figures)


def compared(rng, matrix, rank):
    """Return the median seconds of ours, implicit's exact and its approximate solver, taking turns."""
    turned = matrix.T.tocsr()
    users, items = side(rng, N_USERS, rank), side(rng, N_ITEMS, rank)
    by_user, by_item = histories(matrix), histories(turned)
    user_rows, item_rows = np.arange(N_USERS, dtype=np.int32), np.arange(N_ITEMS, dtype=np.int32)
    how = {"intercept": 3.5, "objective": Objective(Penalty(0.05, 0.05, 0.05, True))}
    x, y = users.factors.copy(), items.factors.copy()
    cpu.threads = THREADS

    def ours():
        cpu.als(users, items, user_rows, by_user, of_users=True, **how)
        cpu.als(items, users, item_rows, by_item, of_users=False, **how)

    def exact():
        _als.least_squares(matrix, x, y, 0.05, num_threads=THREADS)
        _als.least_squares(turned, y, x, 0.05, num_threads=THREADS)

    def approximate():
        _als.least_squares_cg(matrix, x, y, 0.05, num_threads=THREADS, cg_steps=3)
        _als.least_squares_cg(turned, y, x, 0.05, num_threads=THREADS, cg_steps=3)

    return interleaved(ours, exact, approximate)


def interleaved(*runs):
    """Return the median seconds of each of *runs*, which take turns; a first turn, where code is compiled, does not count."""
    seconds = [[] for _ in runs]
    for _ in range(ROUNDS + 1):
        for run, measured in zip(runs, seconds, strict=True):
            began = time.perf_counter()
            run()
            measured.append(time.perf_counter() - began)
    return [statistics.median(measured[1:]) for measured in seconds]


def side(rng, rows, rank):
    return Side(rng.standard_normal((rows, rank), dtype=np.float32) * np.float32(0.1), np.zeros(rows, np.float32))


def histories(matrix):
    return Histories(matrix.indptr.astype(np.int64), matrix.indices, matrix.data)


def ratings(rng):
    """Return distinct pairs, popular rows often, as a sparse matrix."""
    pairs = np.zeros(0, np.int64)
    while len(pairs) < N_RATINGS:
        more = zipf(rng, N_USERS, 0.6) * N_ITEMS + zipf(rng, N_ITEMS, 0.8)
        pairs = np.unique(np.append(pairs, more))
    pairs = rng.permutation(pairs)[:N_RATINGS]
    values = rng.normal(3.5, 1, N_RATINGS).astype(np.float32)
    return sp.csr_matrix((values, (pairs // N_ITEMS, pairs % N_ITEMS)), shape=(N_USERS, N_ITEMS))


def zipf(rng, n, exponent):
    weights = 1 / np.arange(1, n + 1) ** exponent
    return rng.permutation(n)[rng.choice(n, size=N_RATINGS // 2, p=weights / weights.sum())]


if __name__ == "__main__":
    main()
