"""ALS: one iteration (all users, then all items) beside implicit's two solvers, and how soon an objective is reached.

implicit's solvers minimise another objective (every pair counts) of as many ratings; its time for an iteration is what compares.
"""

import statistics
import time

import numpy as np
import scipy.sparse as sp
from implicit.cpu import _als
from threadpoolctl import threadpool_limits

from factorstream.worker.kernels import cpu
from factorstream.worker.kernels.api import Histories, Objective, Penalty, Side
from factorstream.worker.kernels.objective import penalties, scores
from tests.benchmarks.table import Figure, show

N_USERS, N_ITEMS, N_RATINGS, THREADS, ROUNDS = 30_000, 8_000, 2_600_000, 2, 3
LAMBDA, INTERCEPT, N_DIRECTIONS = 0.05, 3.5, 30
ITERATIONS, CLOSE = 10, 1.0005


def main():
    rng = np.random.default_rng(0)
    matrix = ratings(rng)
    cpu.threads = THREADS
    with threadpool_limits(1, "blas"):  # implicit shares rows among its own threads
        figures = [figure for rank in (16, 32, 64, 128) for figure in iteration(rng, matrix, rank)]
        show(f"ALS, one iteration of {matrix.nnz:,} ratings, {N_USERS:,} × {N_ITEMS:,}, {THREADS} threads", figures)
        show(f"ALS, K = 128, to an objective, the same ratings, {THREADS} threads", descent(rng, matrix, 128))


def iteration(rng, matrix, rank):
    """Return seconds of ours and of implicit's solvers, taking turns."""
    problem, peer = Problem(rng, matrix, rank), Peer(rng, matrix, rank)
    by_cg = problem.copied()
    exact, cg, peer_exact, peer_cg = interleaved(
        lambda: problem.iterate("exact"), lambda: by_cg.iterate("cg"), peer.exact, peer.approximate
    )
    ours = cg if rank >= cpu.CG_FROM else exact
    return [
        Figure(f"K = {rank}: ours, exact, biases included", exact, "s"),
        Figure(f"K = {rank}: ours, conjugate gradients", cg, "s"),
        Figure(f"K = {rank}: implicit, exact (use_cg=False)", peer_exact, "s"),
        Figure(f"K = {rank}: implicit, approximate (3 steps of CG)", peer_cg, "s"),
        Figure(f"K = {rank}: exact, times faster than exact", peer_exact / exact, at_least=5 if rank == 64 else None),
        Figure(f"K = {rank}: exact, times faster than approximate", peer_cg / exact, at_least=1 if rank in (32, 64) else None),
        Figure(f"K = {rank}: default, times faster than approximate", peer_cg / ours, at_least=1 if rank == 128 else None),
    ]


def descent(rng, matrix, rank):
    """Return how many seconds each solver takes to the objective that the exact one has after some iterations."""
    exact, peer = Problem(rng, matrix, rank), Peer(rng, matrix, rank)
    by_cg = exact.copied()
    for problem, solver in ((exact.copied(), "exact"), (exact.copied(), "cg")):
        problem.iterate(solver)  # compiles
    peer.approximate()
    paths = {"exact": [], "cg": []}
    seconds = {"exact": 0.0, "cg": 0.0, "peer": 0.0}
    for _ in range(ITERATIONS):
        for solver, problem in (("exact", exact), ("cg", by_cg)):
            seconds[solver] += timed(lambda: problem.iterate(solver))  # noqa: B023 (called at once)
            paths[solver].append((seconds[solver], problem.objective()))
        seconds["peer"] += timed(peer.approximate)
    figures = []
    for n in (2, 5, ITERATIONS - 2):
        spent, wanted = paths["exact"][n - 1]
        reached = next((at for at, objective in paths["cg"] if objective <= CLOSE * wanted), np.inf)
        figures += [
            Figure(f"{n} exact iterations", spent, "s"),
            Figure("to that objective (+ 0.05 %) by conjugate gradients", reached, "s"),
            Figure("as many of implicit's approximate iterations", seconds["peer"] / ITERATIONS * n, "s"),
            Figure("conjugate gradients, times sooner than exact", spent / reached, at_least=1),
            Figure(
                "conjugate gradients, times sooner than implicit, were its iterations exact",
                seconds["peer"] / ITERATIONS * n / reached,
                at_least=1,
            ),
        ]
    return figures


class Problem:
    """A model of all ratings."""

    def __init__(self, rng, matrix, rank):
        self._matrix, self._coordinates = matrix, matrix.tocoo()
        self._by_user, self._by_item = histories(matrix), histories(matrix.T.tocsr())
        self.users, self.items = side(rng, N_USERS, rank), side(rng, N_ITEMS, rank)

    def copied(self):
        copy = object.__new__(Problem)
        copy.__dict__.update(self.__dict__)
        copy.users, copy.items = (Side(*(table.copy() for table in own)) for own in (self.users, self.items))
        return copy

    def iterate(self, solver):
        how = {"intercept": INTERCEPT, "objective": Objective(Penalty(LAMBDA, LAMBDA, LAMBDA, True)), "solver": solver}
        cpu.als(self.users, self.items, np.arange(N_USERS, dtype=np.int32), self._by_user, of_users=True, **how)
        cpu.als(self.items, self.users, np.arange(N_ITEMS, dtype=np.int32), self._by_item, of_users=False, **how)

    def objective(self):
        users, items = self._coordinates.row.astype(np.int32), self._coordinates.col.astype(np.int32)
        off = self._coordinates.data - scores(self.users, self.items, users, items, intercept=INTERCEPT)
        norms = [
            penalties(own, np.diff(held.starts).astype(np.int32), Penalty(LAMBDA, LAMBDA, LAMBDA, True), users=own is self.users)
            for own, held in ((self.users, self._by_user), (self.items, self._by_item))
        ]
        return 0.5 * float(off @ off) + sum(norms)


class Peer:
    """implicit's solvers, over ratings as weights of clicks, which it wants above zero."""

    def __init__(self, rng, matrix, rank):
        self._matrix, self._turned = abs(matrix), abs(matrix).T.tocsr()
        self._x, self._y = side(rng, N_USERS, rank).factors, side(rng, N_ITEMS, rank).factors

    def exact(self):
        _als.least_squares(self._matrix, self._x, self._y, LAMBDA, num_threads=THREADS)
        _als.least_squares(self._turned, self._y, self._x, LAMBDA, num_threads=THREADS)

    def approximate(self):
        _als.least_squares_cg(self._matrix, self._x, self._y, LAMBDA, num_threads=THREADS, cg_steps=3)
        _als.least_squares_cg(self._turned, self._y, self._x, LAMBDA, num_threads=THREADS, cg_steps=3)


def timed(run):
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def interleaved(*runs):
    """Return the median seconds of each of *runs*, which take turns; a first turn, where code is compiled, does not count."""
    seconds = [[] for _ in runs]
    for _ in range(ROUNDS + 1):
        for run, measured in zip(runs, seconds, strict=True):
            measured.append(timed(run))
    return [statistics.median(measured[1:]) for measured in seconds]


def side(rng, rows, rank):
    return Side(rng.standard_normal((rows, rank), dtype=np.float32) * np.float32(0.1), np.zeros(rows, np.float32))


def histories(matrix):
    return Histories(matrix.indptr.astype(np.int64), matrix.indices, matrix.data)


def ratings(rng):
    """Return distinct pairs, popular rows often, as a sparse matrix: tastes in some directions, levels of rows, noise."""
    pairs = np.zeros(0, np.int64)
    while len(pairs) < N_RATINGS:
        more = zipf(rng, N_USERS, 0.6) * N_ITEMS + zipf(rng, N_ITEMS, 0.8)
        pairs = np.unique(np.append(pairs, more))
    pairs = rng.permutation(pairs)[:N_RATINGS]
    users, items = pairs // N_ITEMS, pairs % N_ITEMS
    of_users = rng.normal(0, 0.4, (N_USERS, N_DIRECTIONS)) / np.sqrt(np.arange(1, N_DIRECTIONS + 1))
    of_items = rng.normal(0, 1, (N_ITEMS, N_DIRECTIONS))
    values = INTERCEPT + np.einsum("nk,nk->n", of_users[users], of_items[items]) + rng.normal(0, 0.6, N_RATINGS)
    values += rng.normal(0, 0.3, N_USERS)[users] + rng.normal(0, 0.4, N_ITEMS)[items]
    return sp.csr_matrix((values.astype(np.float32), (users, items)), shape=(N_USERS, N_ITEMS))


def zipf(rng, n, exponent):
    weights = 1 / np.arange(1, n + 1) ** exponent
    return rng.permutation(n)[rng.choice(n, size=N_RATINGS // 2, p=weights / weights.sum())]


if __name__ == "__main__":
    main()
