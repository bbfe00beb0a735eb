"""Posteriors of rows on an NVIDIA GPU, in Triton; see `beliefs.Filters` for what these do. Without a GPU they run interpreted.

Sides and beliefs stay on the device (`gpu_tables.Mirror`); where it has no memory left, the CPU's kernels do the same.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any, TypedDict

import numpy as np

from factorstream.worker.kernels import cpu_filter, gpu_posterior, gpu_schedule
from factorstream.worker.kernels.api import I32, Batch, Histories, Side
from factorstream.worker.kernels.beliefs import Beliefs, Filters, Foreseen, Prior, Smoothed
from factorstream.worker.kernels.effects import Pull
from factorstream.worker.kernels.gpu_learn import IN_ORDER, entries_of, part_of, programs
from factorstream.worker.kernels.gpu_met import attribute_rows, refuse_missing
from factorstream.worker.kernels.gpu_solve import rows_of, warps
from factorstream.worker.kernels.gpu_tables import (
    Full,
    Mirror,
    Resident,
    ResidentBeliefs,
    Tensor,
    batch_on_device,
    empty,
    full_when_short,
    lent,
    mirror_of,
    sent,
    width_of,
    zeros,
)

name = "gpu"
log = logging.getLogger(__name__)

FEWEST = 64
"""Events that are not cut in halves any more when memory is short."""
TILE, LONG_TILE = 16, 32
"""Ratings of a history whose products are summed by one matrix product: of an event's row, of a sweep's."""


class Filtering(TypedDict):
    """What is the same for all events of a call."""

    intercept: float
    noise: float
    user_prior: Prior
    item_prior: Prior


class Smoothing(TypedDict):
    """What is the same for all rows of a call."""

    intercept: float
    noise: float
    prior: Prior


def hold(beliefs: Beliefs, n: int) -> Beliefs:
    """Return *beliefs*, rows below *n* in use, where these kernels learn (`beliefs.Filters.hold`)."""
    mirror: ResidentBeliefs = mirror_of(beliefs)
    mirror.ensure(n)
    return mirror


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
    if not len(batch.ratings):
        return Foreseen(*np.empty((5, 0), np.float32))
    how = Filtering(intercept=intercept, noise=noise, user_prior=user_prior, item_prior=item_prior)
    with lent(users, items, user_beliefs, item_beliefs) as held:
        return _filter(held, batch, how)


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
    if not len(rows):
        return Smoothed(*np.zeros((6, 0)))
    how = Smoothing(intercept=intercept, noise=noise, prior=prior)
    with lent(own, other, own_beliefs, other_beliefs) as held:
        return _smooth(held, rows, histories, how)


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
    if not len(rows):
        return
    with lent(own_beliefs, other, other_beliefs) as held:
        with contextlib.suppress(Full):
            refuse_missing(*held)
            _explain(held, rows, histories, other_counts, factor_ridge, bias_ridge, prior)
            return
        _explain_on_host(held, rows, histories, other_counts, factor_ridge, bias_ridge, prior)


Held = tuple[Resident, Resident, ResidentBeliefs, ResidentBeliefs]
"""One side's rows, the other's, and the beliefs of both."""


def _any_missing(held: tuple[Mirror, ...]) -> bool:
    return any(mirror.missing for mirror in held)


def _cpu() -> Filters:
    return cpu_filter


def _filter(held: Held, batch: Batch, how: Filtering) -> Foreseen:
    """Learn on the device, a part of the batch at a time where memory is short; on the host what has no room there."""
    n = len(batch.ratings)
    if _any_missing(held):
        return _filter_on_host(held, batch, how)
    try:
        return _filter_at_once(held, batch, how)
    except Full as full:
        if n > FEWEST:
            log.warning("the GPU has no memory for %s ratings at once, and learns half as many at a time: %s", f"{n:,}", full)
    # not before the exception is gone, and with it what the device holds for the attempt that failed
    if n <= FEWEST:
        return _filter_on_host(held, batch, how)
    learned = [_filter(held, part_of(batch, *ends), how) for ends in ((0, n // 2), (n // 2, n))]
    return Foreseen(*np.concatenate(learned, axis=1))


def _filter_at_once(held: Held, batch: Batch, how: Filtering) -> Foreseen:
    """Learn on the device. Raises `Full` before anything is changed."""
    foreseen = _filtered(held, batch, how).cpu().numpy()
    for mirror, rows in _written(held, batch):
        mirror.changed(rows)
    return Foreseen(*foreseen)


@np.errstate(all="ignore")
def _filtered(held: Held, batch: Batch, how: Filtering) -> Tensor:
    """Run the kernel; return the columns of `Foreseen`. Raises `Full` before anything is changed."""
    users, items, user_beliefs, item_beliefs = held
    n, n_reads, rank = len(batch.ratings), len(batch.user_histories.others), users.factors.shape[1]
    there = batch_on_device(batch)
    with full_when_short():
        order = gpu_schedule.order_of(there)
    n_accesses, width = len(order.wait), width_of(rank)
    signals, foreseen = zeros((n_accesses + 1,)), empty((5, n))
    columns = *there[:5], *there.user_histories, *there.item_histories, *order, signals, signals[n_accesses:], foreseen
    gpu_posterior.filter_events[(min(programs(width), n),)](
        *users.tables,
        *user_beliefs.tables,
        *items.tables,
        *item_beliefs.tables,
        *columns,
        n,
        n_reads,
        rank,
        *map(float, (how["intercept"], how["noise"], *how["user_prior"], *how["item_prior"])),
        WIDTH=width,
        TILE=TILE,
        **IN_ORDER,
    )
    return foreseen


def _filter_on_host(held: Held, batch: Batch, how: Filtering) -> Foreseen:
    """Let the CPU learn, and take what it changed."""
    sides, beliefs = _on_host(held)
    foreseen = _cpu().filter_batch(*sides, *beliefs, Batch(*batch), **how)
    for mirror, rows in _written(held, batch):
        mirror.send(rows)
    return foreseen


def _written(held: tuple[Mirror, ...], batch: Batch) -> list[tuple[Mirror, I32]]:
    """Return what *batch* changes, and which rows of it."""
    return list(zip(held, (batch.user_rows, batch.item_rows) * 2, strict=True))


def _on_host(held: Held) -> tuple[tuple[Side, Side], tuple[Beliefs, Beliefs]]:
    """Return all of it as the CPU's kernels take it, up to date."""
    for mirror in held:
        mirror.fetch()
    own, other, own_beliefs, other_beliefs = held
    return (Side(*own), Side(*other)), (Beliefs(*own_beliefs), Beliefs(*other_beliefs))


def _smooth(held: Held, rows: I32, histories: Histories, how: Smoothing) -> Smoothed:
    """Solve on the device, a part of the rows at a time where memory is short; on the host what has no room there."""
    n = len(rows)
    if _any_missing(held):
        return _smooth_on_host(held, rows, histories, how)
    try:
        return _smooth_at_once(held, rows, histories, how)
    except Full as full:
        if n > 1:
            log.warning("the GPU has no memory for %s rows at once, and solves half as many at a time: %s", f"{n:,}", full)
    # not before the exception is gone, as in `_filter`
    if n <= 1:
        return _smooth_on_host(held, rows, histories, how)
    parts = ((0, n // 2), (n // 2, n))
    solved = [_smooth(held, rows[a:b], entries_of(histories, a, b), how) for a, b in parts]
    return Smoothed(*np.concatenate(solved, axis=1))


def _smooth_at_once(held: Held, rows: I32, histories: Histories, how: Smoothing) -> Smoothed:
    """Solve on the device. Raises `Full` before anything is changed."""
    told = _smoothed(held, rows, histories, how).cpu().numpy().astype(np.float64)
    held[0].changed(rows)
    held[2].changed(rows)
    return Smoothed(*told)


@np.errstate(all="ignore")
def _smoothed(held: Held, rows: I32, histories: Histories, how: Smoothing) -> Tensor:
    """Run the kernel; return the columns of `Smoothed`. Raises `Full` before anything is changed."""
    own, other, own_beliefs, other_beliefs = held
    n, rank = len(rows), own.factors.shape[1]
    there, told, width = rows_of(histories).histories, empty((6, n)).zero_(), width_of(rank)
    longest_first = np.argsort(-np.diff(histories.starts), kind="stable")
    gpu_posterior.smooth_rows[(n,)](
        *own.tables,
        *own_beliefs.tables,
        *other.tables,
        other_beliefs.tables[1],
        sent(rows, np.int32),
        sent(longest_first, np.int32),
        *there,
        told,
        n,
        rank,
        *map(float, (how["intercept"], how["noise"], *how["prior"])),
        WIDTH=width,
        TILE=LONG_TILE,
        num_warps=warps(width),
    )
    return told


def _smooth_on_host(held: Held, rows: I32, histories: Histories, how: Smoothing) -> Smoothed:
    """Let the CPU solve, and take what it changed."""
    sides, beliefs = _on_host(held)
    told = _cpu().smooth(*sides, *beliefs, rows, Histories(*histories), **how)
    held[0].send(rows)
    held[2].send(rows)
    return told


def _explain(
    held: tuple[ResidentBeliefs, Resident, ResidentBeliefs],
    rows: I32,
    histories: Histories,
    other_counts: I32,
    factor_ridge: float,
    bias_ridge: float,
    prior: Prior,
) -> None:
    """Find effects on the device. Raises `Full` before anything is changed."""
    own_beliefs, other, other_beliefs = held
    rank, equations, outlook = other.factors.shape[1], other_beliefs.tables[0], own_beliefs.tables[1]
    said, told = outlook.view(-1)[2 * rank + 1 :], equations.view(-1)[(rank + 1) * (rank + 4) // 2 :]
    pull = Pull(1.0, 1.0, factor_ridge * prior.factors, bias_ridge * prior.bias)
    strides = outlook.shape[1], equations.shape[1]
    attribute_rows(said, told, strides, other, rows, histories, other_counts, pull, float(prior.level), float(prior.slope))
    own_beliefs.changed(rows)
    other_beliefs.changed(histories.others)


def _explain_on_host(
    held: tuple[Any, ...],
    rows: I32,
    histories: Histories,
    other_counts: I32,
    factor_ridge: float,
    bias_ridge: float,
    prior: Prior,
) -> None:
    """Let the CPU find effects, and take what it changed."""
    own_beliefs, other, other_beliefs = held
    for mirror in held:
        mirror.fetch()
    _cpu().explain(
        Beliefs(*own_beliefs),
        Side(*other),
        Beliefs(*other_beliefs),
        rows,
        Histories(*histories),
        other_counts,
        factor_ridge=factor_ridge,
        bias_ridge=bias_ridge,
        prior=prior,
    )
    own_beliefs.send(rows)
    other_beliefs.send(histories.others)
