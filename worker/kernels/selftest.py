"""Whether a device's kernels do what `reference` does, on a small model drawn from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from factorstream.worker.kernels import reference, reference_filter
from factorstream.worker.kernels.api import (
    SGD,
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
from factorstream.worker.kernels.beliefs import Beliefs, Filters, Prior, equations_width, outlook_width

N_USERS, N_ITEMS, N_EVENTS, N_OF_EACH, RANK, FOLD_IN = 12, 1200, 40, 8, 16, 3
TOLERANCE = 1e-3
"""How far apart numbers of about 1 may be: a hundred times the rounding of float32, a hundredth of any mistake."""
OBJECTIVE = Objective(Penalty(0.1, 0.2, 0.05, weighted=True))
STARS = Loss("ordinal", 1.0, 1.0, np.array([1.5, 2.6, 3.3, 4.8]))
ANY_OBJECTIVE = Objective(OBJECTIVE.penalty._replace(l1_user=0.02, l1_item=0.01), STARS)
PRIOR = Prior(0.2, 0.3, 0.1, 0.05)
STEPS, SOLVES = ("sgd", "fold-in", "general steps", "general fold-in"), ("als", "logistic als", "implicit")


def differences(kernels: Kernels) -> dict[str, float]:
    """Return, for each thing that *kernels* do, the largest difference from the reference; ∞ where they disagree on numbers."""
    return {what: _apart(_outcome(kernels, what), _outcome(reference, what)) for what in (*STEPS, *SOLVES, "initialize")}


def filter_differences(filters: Filters) -> dict[str, float]:
    """Return the same of what *filters* do."""
    parts = ("filter", "smooth", "explain")
    return {what: _apart(_filtered(filters, what), _filtered(reference_filter, what)) for what in parts}


def _outcome(kernels: Kernels, what: str) -> np.typing.NDArray[np.float64]:
    random = np.random.default_rng(1)
    users, items = _side(random, N_USERS), _side(random, N_ITEMS)
    returned = np.zeros(0)
    if what in STEPS:
        returned = _stepped(kernels, what, users, items, random)
    elif what in SOLVES:
        returned = _solved(kernels, what, users, items, random)
    else:
        kernels.initialize(items, 3, 40, seed=7, stream=1, deviation=1.0)
    return np.concatenate([table.astype(np.float64).ravel() for table in (*users, *items, returned)])


def _stepped(kernels: Kernels, what: str, users: Side, items: Side, random: np.random.Generator) -> np.typing.NDArray[np.float64]:
    """Learn from events; return what is told of each, and what the optimizer remembers."""
    longest, general = FOLD_IN if what.endswith("fold-in") else 0, what.startswith("general")
    batch = _batch(random, longest, N_OF_EACH if general else N_EVENTS)
    objective, optimizer = OBJECTIVE, SGD
    if general:
        objective, optimizer = ANY_OBJECTIVE, Optimizer("adam", 0.9, 0.99, 1e-8, _moments(N_USERS), _moments(N_ITEMS))
        batch = batch._replace(ratings=np.clip(np.rint(batch.ratings), 1, 5))
    scored = kernels.sgd(
        users, items, batch, intercept=3.0, objective=objective, rates=Rates(0.05, 0.05, 0.01), optimizer=optimizer
    )
    return np.concatenate([table.astype(np.float64).ravel() for table in (*scored, *optimizer.users, *optimizer.items)])


def _solved(kernels: Kernels, what: str, users: Side, items: Side, random: np.random.Generator) -> np.typing.NDArray[np.float64]:
    """Solve three rows of *users*; return the gains."""
    histories = _histories([np.sort(random.choice(N_ITEMS, n, replace=False)) for n in (1, 20, 1200)], random)
    rows = np.array([3, 0, 7], np.int32)
    if what == "als":
        return kernels.als(users, items, rows, histories, intercept=3.0, objective=OBJECTIVE, of_users=True)
    histories = histories._replace(ratings=(histories.ratings > 3).astype(np.float32))
    if what == "implicit":
        gram = items.factors.T.astype(np.float64) @ items.factors
        return kernels.implicit(users, items, rows, histories, gram, alpha=2.0, penalties=np.full(3, 5.0, np.float32))
    objective = OBJECTIVE._replace(loss=Loss("logistic"))
    return kernels.als(users, items, rows, histories, intercept=0.0, objective=objective, of_users=True)


def _filtered(filters: Filters, what: str) -> np.typing.NDArray[np.float64]:
    random = np.random.default_rng(2)
    users, items = _side(random, N_USERS), _side(random, N_ITEMS)
    user_beliefs, item_beliefs = _beliefs(random, N_USERS), _beliefs(random, N_ITEMS)
    rows = np.array([3, 0, 7], np.int32)
    histories = _histories([np.sort(random.choice(N_ITEMS, n, replace=False)) for n in (1, 20, 1200)], random)
    batch, counts = _batch(random, FOLD_IN, N_OF_EACH), random.integers(1, 40, N_ITEMS).astype(np.int32)
    known = users, items, user_beliefs, item_beliefs
    returned: tuple[np.typing.NDArray[Any], ...] = ()
    if what == "filter":
        returned = filters.filter_batch(*known, batch, intercept=3.0, noise=0.7, user_prior=PRIOR, item_prior=PRIOR)
    elif what == "smooth":
        returned = filters.smooth(*known, rows, histories, intercept=3.0, noise=0.7, prior=PRIOR)
    else:
        ridges = {"factor_ridge": 20.0, "bias_ridge": 20.0}
        filters.explain(user_beliefs, items, item_beliefs, rows, histories, counts, **ridges, prior=PRIOR)
    tables = *users, *items, *user_beliefs, *item_beliefs, *returned
    return np.concatenate([table.astype(np.float64).ravel() for table in tables])


def _apart(one: np.typing.NDArray[np.float64], other: np.typing.NDArray[np.float64]) -> float:
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other) / np.maximum(1.0, np.abs(other))
    return float(apart.max()) if np.isfinite(apart).all() else np.inf


def _side(random: np.random.Generator, n: int) -> Side:
    return Side(random.normal(0, 0.3, (n, RANK)).astype(np.float32), random.normal(0, 0.3, n).astype(np.float32))


def _moments(n: int) -> Moments:
    """Return what an optimizer remembers of rows that took no step."""
    return Moments(np.zeros((n, RANK + 1), np.float32), np.zeros((n, RANK + 1), np.float32), np.zeros(n, np.int32))


def _beliefs(random: np.random.Generator, n: int) -> Beliefs:
    """Return what is believed of rows that have met one row each."""
    met = np.hstack([random.normal(0, 0.3, (n, RANK)), np.ones((n, 1))])
    corner = np.triu_indices(RANK + 1)
    equations = np.zeros((n, equations_width(RANK)), np.float32)
    equations[:, : len(corner[0])], equations[:, -1] = met[:, corner[0]] * met[:, corner[1]], 3.0
    return Beliefs(equations, random.uniform(0.01, 0.1, (n, outlook_width(RANK))).astype(np.float32))


def _histories(others: list[np.typing.NDArray[np.int64]], random: np.random.Generator) -> Histories:
    starts = np.cumsum([0, *map(len, others)])
    flat = np.concatenate([np.zeros(0, np.int64), *others]).astype(np.int32)
    return Histories(starts.astype(np.int64), flat, random.normal(3.0, 1.0, len(flat)).astype(np.float32))


def _batch(random: np.random.Generator, longest: int, n: int = N_EVENTS) -> Batch:
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
