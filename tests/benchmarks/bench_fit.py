"""Seconds to a holdout RMSE: `fit --method sgd` beside LIBMF and `fit --method als`, over 20 million ratings.

    python -m tests.benchmarks.bench_fit [--ratings 20000000] [--rank 32] [--picture docs/race.svg]

All learn the same generated ratings (low rank, levels, noise, popular items and busy users), on both cores, and are asked about
the same 5 %. Seconds are of learning: they begin where the ratings lie in memory, before anyone shuffles, sorts or cuts into
blocks, and leave out parsing, compiling and asking for the error. Ours are as the defaults are; LIBMF, whose default λ ends far
above, may choose the best of some on this very data, and has no biases to learn.
"""

import argparse
from itertools import accumulate
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as Sheet

from factorstream.worker import fitting, plots
from factorstream.worker.config import load
from factorstream.worker.fitting.splits import NEVER
from factorstream.worker.kernels import cpu
from factorstream.worker.local import generated
from factorstream.worker.model.ratings import Held, Ratings
from factorstream.worker.wiring import fresh_model, learning_of
from tests.benchmarks.libmf import LibMF
from tests.benchmarks.streams import ROOT
from tests.benchmarks.table import Figure, show

N_USERS, N_ITEMS, HOLDOUT, SEED = 200_000, 20_000, 0.05, 0
N_THREADS = 2
N_SGD, N_ALS, N_LIBMF, N_TUNING = 10, 5, 20, 8
PENALTIES = (0.02, 0.03, 0.05)
"""λ that LIBMF may choose from; its default is 0.1."""
ABOVE_BEST = (1.10, 1.03, 1.01)
"""The errors raced to, over the least of LIBMF's."""


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ratings", type=int, default=20_000_000)
    options.add_argument("--rank", type=int, default=32)
    options.add_argument("--picture", type=Path, default=ROOT / ".data/race.svg")
    asked = options.parse_args()
    training, holdout = parted(generated.ratings(asked.ratings, N_USERS, N_ITEMS))
    penalty, theirs = libmf(training, holdout, asked.rank)
    courses = {
        "fit --method sgd": ours("sgd", training, holdout, asked.rank, N_SGD),
        f"LIBMF, AVX, λ = {penalty:g}": theirs,
        "fit --method als": ours("als", training, holdout, asked.rank, N_ALS),
    }
    title = f"{asked.ratings / 1e6:g} M ratings, {N_USERS:,} × {N_ITEMS:,}, K = {asked.rank}, {N_THREADS} threads"
    plots.save(drawn(courses, title), asked.picture)
    show(f"fit, seconds to a holdout RMSE, {title}", race(courses))


def race(courses):
    """Return how soon each gets to some errors; the first of *courses* is ours, the second LIBMF."""
    (name, sgd), (peer, theirs), (other, als) = courses.items()
    figures = [Figure(f"least RMSE, {who}", course.y.min()) for who, course in courses.items()]
    figures += [
        Figure(f"one pass after the first, {who}, median", np.median(np.diff(course.x)), "s") for who, course in courses.items()
    ]
    for goal in theirs.y.min() * np.array(ABOVE_BEST):
        soonest = [seconds_to(goal, course) for course in (sgd, theirs, als)]
        figures += [Figure(f"to {goal:.4f}, {who}", at, "s") for who, at in zip((name, peer, other), soonest, strict=True)]
        figures.append(Figure("times sooner than LIBMF", soonest[1] / soonest[0], at_least=1))
        figures.append(Figure("times sooner than als", soonest[2] / soonest[0], at_least=1))
    return figures


def seconds_to(goal, course):
    """Return when the error was first at most *goal*; ∞: never in the passes run."""
    reached = course.x[course.y <= goal]
    return reached[0] if len(reached) else np.inf


def parted(drawn):
    """Return what is learned from and what is asked about, both by (user, item)."""
    order = np.argsort(drawn.users.astype(np.int64) * N_ITEMS + drawn.items)
    held_out = np.random.default_rng(SEED).random(len(order)) < HOLDOUT
    columns = (drawn.users, drawn.items, drawn.ratings, drawn.timestamps_ms)
    return tuple(Held(*(column[order[chosen]] for column in columns)) for chosen in (~held_out, held_out))


def ours(method, training, holdout, rank, n_iterations):
    """Return the course of `fit` with its defaults."""
    settings = load(None, [f"model.rank={rank}"], {})
    learning, model = learning_of(settings), fresh_model(settings)
    fitting.warm_up(rank, cpu, learning, method)
    cpu.threads = N_THREADS
    floors = {"user_floor_ms": np.full(N_USERS, NEVER), "item_floor_ms": np.full(N_ITEMS, NEVER)}
    fitting.prepare(model, Ratings.from_entries(training, **floors), cpu, learning)
    return course(list(fitting.fit(model, cpu, learning, holdout, method=method, n_iterations=n_iterations, seed=SEED)))


def libmf(training, holdout, rank):
    """Return the λ that does best in a few passes, and LIBMF's course with it."""
    peer = LibMF()

    def learn(penalty, n_iterations):
        columns = [held[:3] for held in (training, holdout)]
        how = {"rank": rank, "n_threads": N_THREADS, "n_iterations": n_iterations, "penalty": penalty}
        return peer.learn((N_USERS, N_ITEMS), *columns, **how)

    best = min(PENALTIES, key=lambda penalty: learn(penalty, N_TUNING)[-1].holdout_rmse)
    return best, course(learn(best, N_LIBMF))


def course(iterations):
    """Return the error over the seconds."""
    seconds = list(accumulate(iteration.seconds for iteration in iterations))
    return plots.Course(np.array(seconds), np.array([iteration.holdout_rmse for iteration in iterations]))


@plots.styled
def drawn(courses, title):
    """Draw the error of each against its seconds."""
    sheet = Sheet((7.6, 3.8), layout="constrained")
    axes = sheet.subplots()
    for (name, course), colour in zip(courses.items(), plots.COLOURS, strict=False):
        axes.plot(course.x, course.y, marker="o", markersize=3.5, linewidth=1.4, color=colour, label=name)
    axes.set_xlabel("seconds of learning")
    axes.set_ylabel("RMSE on ratings held out")
    axes.set_xlim(left=0)
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend()
    return sheet


if __name__ == "__main__":
    main()
