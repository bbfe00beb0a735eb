"""Posteriors of rows, compiled for this machine's processor by numba; see `beliefs.Filters` for what these do."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from factorstream.worker.kernels import cpu_posterior, cpu_posterior_solve
from factorstream.worker.kernels.api import I32, Batch, Histories, Side
from factorstream.worker.kernels.beliefs import Beliefs, Foreseen, Prior, Smoothed
from factorstream.worker.kernels.layout import batch_as_columns, column, flat, histories_as_columns, strided

name = "cpu"
SHARES = cpu_posterior.shares()


def hold(beliefs: Beliefs, n: int) -> Beliefs:
    """Return *beliefs*: these kernels learn on the host."""
    return beliefs


def filter_batch(
    users: Side,
    items: Side,
    user_beliefs: Beliefs,
    item_beliefs: Beliefs,
    batch: Batch,
    *,
    intercept: float,
    noise: float,
    user_prior: Prior,
    item_prior: Prior,
) -> Foreseen:
    """Learn from *batch*, one event after another (`beliefs.Filters.filter_batch`)."""
    foreseen, rank = Foreseen(*np.empty((5, len(batch.ratings)), np.float32)), users.factors.shape[1]
    rooms = cpu_posterior_solve.room(rank)
    cpu_posterior.learn(
        _tables(users, user_beliefs),
        _tables(items, item_beliefs),
        batch_as_columns(batch),
        np.float32(intercept),
        np.float32(noise),
        _prior(user_prior),
        _prior(item_prior),
        rooms,
        cpu_posterior_solve.panel(rank),
        cpu_posterior.group(rooms),
        foreseen,
    )
    return foreseen


def smooth(
    own: Side,
    other: Side,
    own_beliefs: Beliefs,
    other_beliefs: Beliefs,
    rows: I32,
    histories: Histories,
    *,
    intercept: float,
    noise: float,
    prior: Prior,
) -> Smoothed:
    """Solve each of *rows* from its history (`beliefs.Filters.smooth`)."""
    told, taken, rank = np.zeros((len(rows), len(Smoothed._fields))), np.zeros(1, np.int64), own.factors.shape[1]
    tables, others = _tables(own, own_beliefs), _tables(other, other_beliefs)
    rows, histories = column(rows, np.int32), histories_as_columns(histories)
    numbers = np.float32(intercept), np.float32(noise), _prior(prior)
    cpu_posterior.smooth(
        tables, others, rows, histories, taken, *numbers, cpu_posterior_solve.room(rank), cpu_posterior_solve.panel(rank), told
    )
    return Smoothed(*told.T)


def explain(
    own_beliefs: Beliefs,
    other: Side,
    other_beliefs: Beliefs,
    rows: I32,
    histories: Histories,
    other_counts: I32,
    *,
    factor_ridge: float,
    bias_ridge: float,
    prior: Prior,
) -> None:
    """Re-estimate the effects of *rows* (`beliefs.Filters.explain`)."""
    cpu_posterior.explain(
        flat(own_beliefs.outlook),
        _tables(other, other_beliefs),
        column(rows, np.int32),
        histories_as_columns(histories),
        strided(other_counts),
        np.float32(factor_ridge * prior.factors),
        np.float32(bias_ridge * prior.bias),
        _prior(prior),
        SHARES,
        np.empty(cpu_posterior_solve.vector_width(other.factors.shape[1]), np.float32),
    )


def _tables(side: Side, beliefs: Beliefs) -> cpu_posterior_solve.Tables:
    """Return both as flat tables."""
    return cpu_posterior_solve.Tables(flat(side.factors), flat(side.biases), flat(beliefs.equations), flat(beliefs.outlook))


def _prior(prior: Prior) -> Any:
    """Return *prior* with the type of number that is compiled for."""
    return Prior(*cast(Any, map(np.float32, prior)))
