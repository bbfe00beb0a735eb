"""Small worlds of ratings for kernels: tables, batches as the store hands them over, and the objective written out."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from factorstream.worker.kernels import devices
from factorstream.worker.kernels.api import Batch, Histories, Objective, Penalty, Rates, Side

Event = tuple[int, int, float]
"""User row, item row, rating (NaN: unrated)."""


ONE_IN, MOST_EFFORT = 12, 150
"""Interpreted kernels take a thousand times as long: one in so many of the examples that ask no more than this is enough."""

OF_A_FILTER = 4
"""How much longer an event takes where rows are posteriors."""


def sparing(test):
    """Let *test* pass over most examples where its kernels are interpreted."""

    @functools.wraps(test)
    def spared(**arguments):
        examples = dict(arguments)
        kernels = examples.pop("filters" if "filters" in examples else "kernels")
        effort = sum(getattr(example, "effort", 0) for example in examples.values())
        effort *= OF_A_FILTER if "filters" in arguments else 1
        chosen = effort <= MOST_EFFORT and zlib.crc32(repr(examples).encode()) % ONE_IN == 0
        if chosen or not interpreted(kernels):
            test(**arguments)

    return spared


def few(kernels, n, most=6):
    """Return *n*, or what is enough where *kernels* are interpreted."""
    return min(n, most) if interpreted(kernels) else n


def spared(kernels, *labels, one_in):
    """Whether *kernels*, interpreted, pass over an example of this name."""
    return interpreted(kernels) and zlib.crc32(repr(labels).encode()) % one_in > 0


def interpreted(kernels):
    """Whether *kernels* are those of a GPU that this machine does not have."""
    return kernels.name == "gpu" and devices.missing() is not None


@dataclass(frozen=True)
class Problem:
    """A model before its ratings, the ratings, and how to learn."""

    users: Side
    items: Side
    events: list[Event]
    fold_in: int
    intercept: float
    penalty: Penalty
    rates: Rates

    @property
    def objective(self):
        return Objective(self.penalty)

    @property
    def effort(self):
        return len(self.events) * self.users.factors.shape[1]


@st.composite
def problems(draw, max_events=60, min_penalty=0.02):
    """Few rows and many events, so that a batch is full of repeats."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_users, n_items, rank = draw(st.integers(1, 6)), draw(st.integers(1, 20)), draw(st.integers(1, 40))
    n_events = draw(st.integers(0, max_events))
    unrates = draw(st.sampled_from([0.0, 0.2]))
    ratings = np.where(rng.random(n_events) < unrates, np.nan, rng.normal(3.5, 1, n_events))
    events = list(
        zip(
            rng.integers(0, n_users, n_events).tolist(),
            rng.integers(0, n_items, n_events).tolist(),
            ratings.tolist(),
            strict=True,
        )
    )
    weights = st.floats(min_penalty, 1)
    return Problem(
        users=side(rng, n_users, rank),
        items=side(rng, n_items, rank),
        events=events,
        fold_in=draw(st.sampled_from([0, 1, 3, 50])),
        intercept=3.5,
        penalty=Penalty(draw(weights), draw(weights), draw(weights), draw(st.booleans())),
        rates=Rates(draw(st.floats(0, 0.1)), draw(st.floats(0, 0.1)), draw(st.sampled_from([0.0, 0.1]))),
    )


def side(rng, rows, rank, spare=3):
    """Return a view of a table that has room for more rows than are used."""
    factors = rng.normal(0, 0.3, (rows + spare, rank)).astype(np.float32)
    biases = rng.normal(0, 0.3, rows + spare).astype(np.float32)
    return Side(factors[:rows], biases[:rows])


def copied(side):
    return Side(side.factors.copy(), side.biases.copy())


def batch_of(events, fold_in):
    """Return *events* as the store hands them over: counts and short histories as of each event."""
    held = {}
    columns = {"user_rows": [], "item_rows": [], "ratings": [], "user_counts": [], "item_counts": []}
    user_histories, item_histories = [], []
    for user, item, rating in events:
        held.pop((user, item), None)
        if not np.isnan(rating):
            held[user, item] = rating
        of_user = sorted((m, x) for (n, m), x in held.items() if n == user)
        of_item = sorted((n, x) for (n, m), x in held.items() if m == item)
        for name, value in zip(columns, (user, item, rating, len(of_user), len(of_item)), strict=True):
            columns[name].append(value)
        user_histories.append(of_user if len(of_user) <= fold_in else [])
        item_histories.append(of_item if len(of_item) <= fold_in else [])
    integers = {name: np.array(column, np.int32) for name, column in columns.items() if name != "ratings"}
    return Batch(
        ratings=np.array(columns["ratings"], np.float32),
        user_histories=histories_of(user_histories),
        item_histories=histories_of(item_histories),
        **integers,
    )


def histories_of(entries):
    """Return lists of (other row, rating), each ascending, as columns."""
    starts = np.cumsum([0, *map(len, entries)])
    flat = [pair for entry in entries for pair in entry]
    others, ratings = [pair[0] for pair in flat], [pair[1] for pair in flat]
    return Histories(starts.astype(np.int64), np.array(others, np.int32), np.array(ratings, np.float32))


def slice_of(batch, begin, end):
    """Return events *begin* to *end* as a batch of their own."""
    return Batch(
        *(column[begin:end] for column in batch[:5]),
        user_histories=entries_of(batch.user_histories, begin, end),
        item_histories=entries_of(batch.item_histories, begin, end),
    )


def entries_of(histories, begin, end):
    starts = histories.starts[begin : end + 1]
    kept = slice(starts[0], starts[-1])
    return Histories(starts - starts[0], histories.others[kept], histories.ratings[kept])


def objective(users, items, ratings, intercept, penalty):
    """Return the objective of `api`, in float64; *ratings* is {(user, item): rating}."""
    p, b, q, c = (np.asarray(table, np.float64) for table in (*users, *items))
    total = 0.0
    user_counts, item_counts = np.zeros(len(p)), np.zeros(len(q))
    for (n, m), x in ratings.items():
        total += 0.5 * (x - (intercept + b[n] + c[m] + p[n] @ q[m])) ** 2
        user_counts[n] += 1
        item_counts[m] += 1
    if not penalty.weighted:
        user_counts[:], item_counts[:] = 1, 1
    total += 0.5 * (penalty.user * user_counts @ (p**2).sum(1) + penalty.item * item_counts @ (q**2).sum(1))
    return total + 0.5 * penalty.bias * (user_counts @ b**2 + item_counts @ c**2)
