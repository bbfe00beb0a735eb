"""Whether a device's kernels do what `reference` does, on a small model drawn from a seed."""

from __future__ import annotations

import numpy as np

from factorstream.worker.kernels import reference
from factorstream.worker.kernels.api import (
    Batch,
    Histories,
    Kernels,
    Loss,
    Moments,
    Objective,
    Optimizer,
    Penalty,
    Rates,
    Side,
)

N_USERS, N_ITEMS, N_EVENTS, RANK, FOLD_IN = 12, 1200, 40, 16, 3
TOLERANCE = 1e-3
"""How far apart numbers of about 1 may be: a hundred times the rounding of float32, a hundredth of any mistake."""
OBJECTIVE = Objective(Penalty(0.1, 0.2, 0.05, weighted=True))
OTHER = Objective(Penalty(0.3, 0.2, 0.1, False, 0.1, 0.1), Loss("ordinal", 1.0, 1.0, np.array([-1.5, -0.4, 0.3, 1.8])))
"""Another loss, whose factors become zero; learned by Adam, a few events only: each is as much work as many of the others."""
PARTS = ("sgd", "fold-in", "other losses", "als", "initialize")


def differences(kernels: Kernels) -> dict[str, float]:
    """Return, for each thing that *kernels* do, the largest difference from the reference; ∞ where they disagree on numbers."""
    return {what: _apart(_outcome(kernels, what), _outcome(reference, what)) for what in PARTS}


def _outcome(kernels: Kernels, what: str) -> np.typing.NDArray[np.float64]:
    random = np.random.default_rng(1)
    users, items = _side(random, N_USERS), _side(random, N_ITEMS)
    returned = np.zeros(0)
    if what == "als":
        histories = _histories([np.sort(random.choice(N_ITEMS, n, replace=False)) for n in (1, 20, 1200)], random)
        rows = np.array([3, 0, 7], np.int32)
        returned = kernels.als(users, items, rows, histories, intercept=3.0, objective=OBJECTIVE, of_users=True)
    elif what == "initialize":
        kernels.initialize(items, 3, 40, seed=7, stream=1, deviation=1.0)
    elif what == "other losses":
        state = Optimizer("adam", beta2=0.99, users=_moments(N_USERS), items=_moments(N_ITEMS))
        batch, rates = _batch(random, 2, 6), Rates(0.05, 0.05, 0.01)
        scored = kernels.sgd(users, items, batch, intercept=0.0, objective=OTHER, rates=rates, optimizer=state)
        returned = np.concatenate([table.astype(np.float64).ravel() for table in (*scored, *state.users, *state.items)])
    else:
        batch = _batch(random, FOLD_IN if what == "fold-in" else 0, N_EVENTS)
        scored = kernels.sgd(users, items, batch, intercept=3.0, objective=OBJECTIVE, rates=Rates(0.05, 0.05, 0.01))
        returned = np.concatenate(scored)
    return np.concatenate([table.astype(np.float64).ravel() for table in (*users, *items, returned)])


def _apart(one: np.typing.NDArray[np.float64], other: np.typing.NDArray[np.float64]) -> float:
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other) / np.maximum(1.0, np.abs(other))
    return float(apart.max()) if np.isfinite(apart).all() else np.inf


def _side(random: np.random.Generator, n: int) -> Side:
    return Side(random.normal(0, 0.3, (n, RANK)).astype(np.float32), random.normal(0, 0.3, n).astype(np.float32))


def _histories(others: list[np.typing.NDArray[np.int64]], random: np.random.Generator) -> Histories:
    starts = np.cumsum([0, *map(len, others)])
    flat = np.concatenate([np.zeros(0, np.int64), *others]).astype(np.int32)
    return Histories(starts.astype(np.int64), flat, random.normal(3.0, 1.0, len(flat)).astype(np.float32))


def _moments(n: int) -> Moments:
    return Moments(np.zeros((n, RANK + 1), np.float32), np.zeros((n, RANK + 1), np.float32), np.zeros(n, np.int32))


def _batch(random: np.random.Generator, longest: int, n: int) -> Batch:
    """Return *n* events of which one user makes a third and one item gets half; histories of at most *longest* ratings."""
    user_rows = np.where(random.random(n) < 1 / 3, 0, random.integers(0, N_USERS, n)).astype(np.int32)
    item_rows = np.where(random.random(n) < 1 / 2, 0, random.integers(0, 30, n)).astype(np.int32)
    lengths = random.integers(0, longest + 1, (2, n))
    users_met = [np.sort(random.choice(N_USERS, k, replace=False)) for k in lengths[1]]
    items_met = [np.sort(random.choice(30, k, replace=False)) for k in lengths[0]]
    user_counts, item_counts = random.integers(1, 40, (2, n)).astype(np.int32)
    ratings = random.normal(3.0, 1.0, n).astype(np.float32)
    histories = _histories(items_met, random), _histories(users_met, random)
    return Batch(user_rows, item_rows, ratings, user_counts, item_counts, *histories)
