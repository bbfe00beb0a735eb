"""Clicks: ranking of each user's last click, and seconds to an objective, side by side with implicit on the same data."""

import gzip
import itertools
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from implicit.cpu import _als
from threadpoolctl import threadpool_limits

from factorstream.worker import fitting
from factorstream.worker.config import load
from factorstream.worker.fitting.ranking import of_places, places
from factorstream.worker.history import read
from factorstream.worker.kernels import cpu
from factorstream.worker.kernels.api import Side
from factorstream.worker.kernels.gram import gram_of
from factorstream.worker.wiring import fresh_model, learning_of
from tests.benchmarks import bench_als
from tests.benchmarks.table import Figure, show

FILE = Path(__file__).parents[2].parent / "shared/data/movietweetings/ratings.dat.gz"
LEAST_LIKED = 7
ITERATIONS, RANK = 15, 32
ALPHAS = (1.0, 3.0, 10.0)
LAMBDAS = (3.0, 10.0, 30.0, 60.0, 120.0)
WEIGHTED_LAMBDAS = (0.002, 0.004, 0.006, 0.01, 0.015)
SEEDS = (0, 1, 2)
PENALTY, ALPHA, STEPS = 10.0, 2.0, 10


def main():
    with threadpool_limits(1, "blas"):  # implicit shares rows among its own threads
        show(f"Leave-last-out, MovieTweetings with ratings ≥ {LEAST_LIKED} as clicks, K = {RANK}", ranked())
        show("One row after another solved exactly, 300 × 200, K = 16: ours and implicit's own", agreeing())
        matrix = clicks(np.random.default_rng(0))
        for rank in (32, 64, 128):
            figures = timed(matrix, rank)
            show(f"Implicit ALS, K = {rank}, {matrix.nnz:,} pairs, {bench_als.THREADS} threads", figures)


# --- ranking


def ranked():
    """Tune both on each user's last click but one, then let both find the last."""
    history, held = liked()
    test = fitting.last_of_each_user(held, history.user_codes, history.item_codes)
    earlier = np.ones(len(history), bool)
    newest = np.full(held.n_users, -1)
    newest[history.user_codes] = np.arange(len(history))
    earlier[newest[held.user_counts >= 2]] = False
    tuning = fitting.last_of_each_user(test.training, history.user_codes[earlier], history.item_codes[earlier])
    figures, found = [], {}
    for name, fit, penalties in (
        ("implicit", theirs, LAMBDAS),
        ("ours, λ plain", ours(weighted=False), LAMBDAS),
        ("ours, λ weighted", ours(weighted=True), WEIGHTED_LAMBDAS),
    ):
        best = max(itertools.product(ALPHAS, penalties), key=lambda how: rank(tuning, *fit(tuning, *how, SEEDS[0])).ndcg_at_10)
        found[f"{name}, α = {best[0]:g}, λ = {best[1]:g}"] = [rank(test, *fit(test, *best, seed)) for seed in SEEDS]
    found["ours, defaults"] = [rank(test, *ours()(test, None, None, seed)) for seed in SEEDS]
    for figure in ("recall_at_10", "ndcg_at_10"):
        means = {name: float(np.mean([getattr(one, figure) for one in several])) for name, several in found.items()}
        for name, mean in means.items():
            least = next(iter(means.values())) if name.startswith("ours, λ") else None
            figures.append(Figure(f"{name}: {figure.replace('_at_', '@')}, mean of {len(SEEDS)} seeds", mean, at_least=least))
    return figures


def liked():
    """Return the history of ratings that count as clicks, all of strength 1, and what it leaves."""
    with gzip.open(FILE, "rt") as lines:
        kept = [line for line in lines if float(line.split("::")[2]) >= LEAST_LIKED]
    folder = Path(".data")
    folder.mkdir(exist_ok=True)
    file = folder / "ratings.dat"
    file.write_text("".join(kept))
    history = read(file, None)
    history.ratings[:] = 1
    columns = (history.user_codes, history.item_codes, history.ratings, history.timestamps_ms)
    return history, fitting.last_writes(*columns, n_users=len(history.user_names), n_items=len(history.item_names))


def rank(parts, users, items):
    """Return how well *parts*' holdout is found by these factors."""
    return of_places(places(users, items, parts.training, parts.holdout.user_rows, parts.holdout.item_rows))


def ours(*, weighted=False):
    """Return what fits ours; α and λ of None are the defaults."""

    def fit(parts, alpha, penalty, seed):
        told = {"model.loss": "implicit", "model.rank": RANK, "model.seed": seed, "als.weighted": weighted}
        if alpha is not None:
            told |= {"implicit.alpha": alpha, "als.lambda_user": penalty, "als.lambda_item": penalty}
        settings = load(None, [f"{key}={value}" for key, value in told.items()], {})
        learning, model = learning_of(settings), fresh_model(settings)
        fitting.prepare(model, parts.training, cpu, learning)
        for _ in fitting.fit(model, cpu, learning, method="als", n_iterations=ITERATIONS, seed=seed):
            pass
        return model.users.factors, model.items.factors

    return fit


def theirs(parts, alpha, penalty, seed):
    users, items, strengths, _ = parts.training.entries()
    confidences = (1 + alpha * strengths).astype(np.float32)
    matrix = sp.csr_matrix((confidences, (users, items)), shape=(parts.training.n_users, parts.training.n_items))
    model = AlternatingLeastSquares(
        RANK, regularization=penalty, alpha=1.0, iterations=ITERATIONS, num_threads=bench_als.THREADS, random_state=seed
    )
    model.fit(matrix, show_progress=False)
    return model.user_factors, model.item_factors


# --- speed


def agreeing():
    """Return by how much our rows differ from those of implicit's exact solver."""
    rng = np.random.default_rng(3)
    matrix = sp.random_array((300, 200), density=0.1, rng=rng, dtype=np.float32).tocsr()
    x, y = (bench_als.side(rng, n, 16).factors for n in matrix.shape)
    found, expected = x.copy(), x.copy()
    stepper(matrix, matrix.T.tocsr(), 16)(found, y.copy(), sides=(0,))
    confident = sp.csr_matrix((1 + ALPHA * matrix.data, matrix.indices, matrix.indptr), matrix.shape)
    _als.least_squares(confident, expected, y, PENALTY, num_threads=1)
    difference = float(abs(found - expected).max() / abs(expected).max())
    return [Figure("largest difference of a factor, over the largest", 1e6 * difference, "millionths")]


def clicks(rng):
    """Return the matrix of `bench_als` with counts in the place of stars."""
    matrix = bench_als.ratings(rng)
    matrix.data[:] = rng.geometric(0.4, matrix.nnz)
    return matrix


def timed(matrix, rank):
    """Return the objective after each iteration and the seconds until then: ours, and implicit's with CG, from one start."""
    turned = matrix.T.tocsr()
    start = [
        bench_als.side(np.random.default_rng(seed), n, rank).factors * np.float32(0.1)
        for seed, n in ((1, matrix.shape[0]), (2, matrix.shape[1]))
    ]
    cpu.threads = bench_als.THREADS
    solve = stepper(matrix, turned, rank)
    confident = [sp.csr_matrix((1 + ALPHA * m.data, m.indices, m.indptr), m.shape) for m in (matrix, turned)]

    def approximate(x, y):
        _als.least_squares_cg(confident[0], x, y, PENALTY, num_threads=bench_als.THREADS, cg_steps=3)
        _als.least_squares_cg(confident[1], y, x, PENALTY, num_threads=bench_als.THREADS, cg_steps=3)

    solve(*(factors.copy() for factors in start))  # compiles
    exact, rough = (course(step, matrix, *(factors.copy() for factors in start)) for step in (solve, approximate))
    goal = rough[-1][0]
    reached = next((seconds for value, seconds in exact if value <= goal), float("nan"))
    per = [course_[-1][1] / len(course_) for course_ in (exact, rough)]
    return [
        Figure("ours: one iteration", per[0], "s"),
        Figure("implicit, 3 steps of CG: one iteration", per[1], "s"),
        Figure(f"implicit: objective after {STEPS} iterations, ours = 1", goal / exact[-1][0]),
        Figure(f"implicit: until its objective after {STEPS} iterations", rough[-1][1], "s"),
        Figure("ours: until that objective", reached, "s"),
        Figure("times faster to that objective", rough[-1][1] / reached, at_least=1),
    ]


def stepper(matrix, turned, rank):
    """Return one exact iteration of ours."""
    histories = bench_als.histories(matrix), bench_als.histories(turned)
    rows = [np.arange(n, dtype=np.int32) for n in matrix.shape]
    penalties = [np.full(n, PENALTY, np.float32) for n in matrix.shape]
    counted = [np.ones(n, bool) for n in matrix.shape]

    def solve(x, y, sides=(0, 1)):
        tables = [Side(table, np.zeros(len(table), np.float32)) for table in (x, y)]
        for own in sides:
            gram = gram_of(tables[1 - own].factors, counted[1 - own])
            how = {"alpha": ALPHA, "penalties": penalties[own]}
            cpu.implicit(tables[own], tables[1 - own], rows[own], histories[own], gram, **how)

    return solve


def course(step, matrix, x, y):
    """Return (objective, seconds so far) after each iteration."""
    found, seconds = [], 0.0
    for _ in range(STEPS):
        began = time.perf_counter()
        step(x, y)
        seconds += time.perf_counter() - began
        found.append((objective(matrix, x, y), seconds))
    return found


def objective(matrix, x, y):
    """Return the objective of `api.Kernels.implicit`, in double precision."""
    entries = matrix.tocoo()
    scores = np.einsum("nk,nk->n", x[entries.row], y[entries.col], dtype=np.float64)
    x, y = x.astype(np.float64), y.astype(np.float64)
    observed = (1 + ALPHA * entries.data.astype(np.float64)) @ (1 - scores) ** 2 - (scores**2).sum()
    return 0.5 * (observed + np.sum((x.T @ x) * (y.T @ y)) + PENALTY * ((x**2).sum() + (y**2).sum()))


if __name__ == "__main__":
    main()
