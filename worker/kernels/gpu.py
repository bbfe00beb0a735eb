"""The kernels for an NVIDIA GPU, in Triton and torch; see `api.Kernels` for what they do. Without a GPU they run interpreted.

Tables stay on the device (`Resident`) and come back to the host when somebody reads them there. What these kernels do not do, the
CPU's do in their place (`devices` says what that is), as they do where the device has no memory left.
"""

from __future__ import annotations

import logging
from typing import cast

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels import gpu_general_learn, gpu_learn, gpu_moments, gpu_solve, gpu_start, reference
from factorstream.worker.kernels.api import (
    F32,
    F64,
    I32,
    I64,
    SGD,
    Batch,
    Held,
    Histories,
    Kernels,
    Moments,
    Objective,
    Optimizer,
    Rates,
    Rows,
    Scored,
    Side,
    Solver,
)
from factorstream.worker.kernels.devices import is_plain, unsupported, unsupported_steps
from factorstream.worker.kernels.effects import Effects, Pull
from factorstream.worker.kernels.gpu_language import cdiv
from factorstream.worker.kernels.gpu_learn import entries_of, learn, longest, part_of, programs, work_of
from factorstream.worker.kernels.gpu_moments import ResidentMoments
from factorstream.worker.kernels.gpu_solve import rows_of, solve
from factorstream.worker.kernels.gpu_tables import Full, Resident, sent, width_of
from factorstream.worker.kernels.terms import Memory

name = "gpu"
log = logging.getLogger(__name__)

FEWEST = 64
"""Events that are not cut in halves any more when memory is short."""


def hold(side: Rows, n: int) -> Rows:
    """Return *side*, rows below *n* in use, where these kernels learn (`api.Kernels.hold`)."""
    if isinstance(side, Moments):
        return gpu_moments.resident(side, n)
    resident = side if isinstance(side, Resident) else Resident(*side)
    resident.ensure(n)
    return resident


def keep(held: Held) -> Held:
    """Return *held* in the form in which these kernels use it again and again most quickly (`api.Kernels.keep`)."""
    return cast(Held, gpu_learn.kept(held) if isinstance(held, Batch) else gpu_solve.kept(held))


def sgd(
    users: Side,
    items: Side,
    batch: Batch,
    *,
    intercept: float,
    objective: Objective,
    rates: Rates,
    optimizer: Optimizer = SGD,
) -> Scored:
    """Learn from *batch*, one event after another (`api.Kernels.sgd`)."""
    n = len(batch.ratings)
    if not n:
        return Scored(*np.empty((4, 0), np.float32))
    here, there = _resident(users), _resident(items)
    remembered = _with_moments(optimizer, here.n, there.n)
    of_users, of_items = gpu_moments.of_both(remembered)
    length, penalty = longest(batch), objective.penalty
    singular = length and not (penalty.user > 0 and penalty.item > 0 and (penalty.bias > 0 or not objective.biased))
    unknown = unsupported_steps(objective, optimizer, rank=here.factors.shape[1], fold_in=length)
    if unknown or singular or here.missing or there.missing or of_users.missing or of_items.missing:
        scored = _sgd_on_host(here, there, batch, intercept=intercept, objective=objective, rates=rates, optimizer=remembered)
    else:
        scored = _sgd(here, there, batch, intercept, objective, rates, remembered)
    _return(here, users)
    _return(there, items)
    _return(of_users, optimizer.users)
    _return(of_items, optimizer.items)
    return scored


def als(
    own: Side,
    other: Side,
    rows: I32,
    histories: Histories,
    *,
    intercept: float,
    objective: Objective,
    of_users: bool,
    solver: Solver = "auto",
) -> F64:
    """Solve each of *rows* (`api.Kernels.als`); exactly, whatever *solver* says."""
    if not len(rows):
        return np.zeros(0)
    here, there = _resident(own), _resident(other)
    if unsupported(objective, rank=own.factors.shape[1]) or here.missing or there.missing:
        gains = _als_on_host(here, there, rows, histories, intercept=intercept, objective=objective, of_users=of_users)
    else:
        gains = _als(here, there, np.ascontiguousarray(rows, np.int32), histories, intercept, objective, of_users)
    _return(here, own)
    return gains


def implicit(
    own: Side,
    other: Side,
    rows: I32,
    histories: Histories,
    gram: F64,
    *,
    alpha: float,
    penalties: F32,
    solver: Solver = "auto",
) -> F64:
    """Let the CPU solve each of *rows* over all pairs (`api.Kernels.implicit`)."""
    own.fetch()
    other.fetch()
    gains = _cpu().implicit(Side(*own), Side(*other), rows, histories, gram, alpha=alpha, penalties=penalties, solver=solver)
    own.send(rows)
    return gains


def calibrate(memory: Memory, scored: Scored, batch: Batch, timestamps_ms: I64, *, spread: float) -> F32:
    """Let the CPU correct each score (`api.Kernels.calibrate`)."""
    return _cpu().calibrate(memory, scored, batch, timestamps_ms, spread=spread)


def meet(users: Effects, items: Effects, batch: Batch, changes: NDArray[np.int8]) -> tuple[F32, F32]:
    """Let the CPU say what rows are expected to be (`api.Kernels.meet`)."""
    return _cpu().meet(users, items, batch, changes)


def recall(own: Effects, other: Effects, side: Side, rows: I32, histories: Histories) -> tuple[F32, F32]:
    """Let the CPU say what rows are expected to be (`api.Kernels.recall`)."""
    side.fetch()
    return _cpu().recall(own, other, Side(*side), rows, histories)


def attribute(own: Effects, other: Effects, side: Side, rows: I32, histories: Histories, counts: I32, pull: Pull) -> None:
    """Let the CPU find out what meeting rows says (`api.Kernels.attribute`)."""
    side.fetch()
    _cpu().attribute(own, other, Side(*side), rows, histories, counts, pull)


def initialize(side: Side, first: int, stop: int, *, seed: int, stream: int, deviation: float) -> None:
    """Fill new rows (`api.Kernels.initialize`)."""
    if stop <= first:
        return
    if not isinstance(side, Resident):
        new = Resident(side.factors[first:stop], side.biases[first:stop])
        new.ensure(stop - first)
        _fill(new, 0, first, stop - first, seed, stream, deviation)
        new.fetch()
        return
    side.ensure(stop)
    if side.missing:
        _cpu().initialize(Side(*side), first, stop, seed=seed, stream=stream, deviation=deviation)
    else:
        _fill(side, first, first, stop - first, seed, stream, deviation)


def _fill(side: Resident, place: int, first: int, n: int, seed: int, stream: int, deviation: float) -> None:
    """Fill *n* rows of *side* from *place* on as rows *first* and on."""
    bits = reference.splitmix64(reference.splitmix64(seed) ^ stream % 2**64)
    start = sent(np.array([bits], np.uint64).view(np.int64), np.int64)
    rank = side.factors.shape[1]
    tables = [table[place : place + n] for table in side.tables]
    grid = (cdiv(n * rank, gpu_start.BLOCK.value),)
    gpu_start.fill[grid](*tables, start, first, n * rank, rank, float(deviation), WIDTH=width_of(rank))
    side.changed(slice(place, place + n))


def _resident(side: Side) -> Resident:
    """Return *side* on the device; all of it for this call alone, if no `hold` put it there."""
    if isinstance(side, Resident):
        return side
    resident = Resident(*side)
    resident.ensure(len(side.biases))
    return resident


def _return(resident: Resident | ResidentMoments, side: Side | Moments) -> None:
    """Bring *side* back to the host, if it was on the device for one call alone."""
    if resident is not side:
        resident.fetch()


def _cpu() -> Kernels:
    from factorstream.worker.kernels import cpu

    return cpu


def _with_moments(optimizer: Optimizer, n_users: int, n_items: int) -> Optimizer:
    """Return *optimizer* with what it remembers on the device; all of it for this call alone, if no `hold` put it there."""
    users, items = optimizer.users, optimizer.items
    return optimizer._replace(users=gpu_moments.resident(users, n_users), items=gpu_moments.resident(items, n_items))


def _sgd_on_host(
    users: Resident, items: Resident, batch: Batch, *, intercept: float, objective: Objective, rates: Rates, optimizer: Optimizer
) -> Scored:
    """Let the CPU learn, and take what it changed."""
    of_users, of_items = gpu_moments.of_both(optimizer)
    held = (users, batch.user_rows), (items, batch.item_rows), (of_users, batch.user_rows), (of_items, batch.item_rows)
    for one, _ in held:
        one.fetch()
    scored = _cpu().sgd(
        Side(*users),
        Side(*items),
        Batch(*batch),
        intercept=intercept,
        objective=objective,
        rates=rates,
        optimizer=optimizer._replace(users=Moments(*of_users), items=Moments(*of_items)),
    )
    for one, rows in held:
        one.send(rows)
    return scored


def _als_on_host(
    own: Resident, other: Resident, rows: I32, histories: Histories, *, intercept: float, objective: Objective, of_users: bool
) -> F64:
    """Let the CPU solve, and take what it changed."""
    own.fetch()
    other.fetch()
    gains = _cpu().als(
        Side(*own),
        Side(*other),
        rows,
        Histories(*histories),
        intercept=intercept,
        objective=objective,
        of_users=of_users,
        solver="exact",
    )
    own.send(rows)
    return gains


def _sgd(
    users: Resident, items: Resident, batch: Batch, intercept: float, objective: Objective, rates: Rates, optimizer: Optimizer
) -> Scored:
    """Learn on the device, a part of the batch at a time where memory is short."""
    n, of_users, of_items = len(batch.ratings), *gpu_moments.of_both(optimizer)
    try:
        if is_plain(objective, optimizer):
            work = work_of(batch, programs(width_of(users.factors.shape[1])))
            scored = learn(users.tables, items.tables, users.factors.shape[1], work, intercept, objective, rates)
        else:
            scored = gpu_general_learn.learn(users, items, batch, intercept, objective, rates, optimizer)
    except Full as full:
        if n <= FEWEST:
            return _sgd_on_host(users, items, batch, intercept=intercept, objective=objective, rates=rates, optimizer=optimizer)
        log.warning("the GPU has no memory for %s ratings at once, and learns half as many at a time: %s", f"{n:,}", full)
        parts = [part_of(batch, 0, n // 2), part_of(batch, n // 2, n)]
        learned = [_sgd(users, items, part, intercept, objective, rates, optimizer) for part in parts]
        return Scored(*np.concatenate(learned, axis=1))
    for held, rows in (((users, of_users), batch.user_rows), ((items, of_items), batch.item_rows)):
        for one in held:
            one.changed(rows)
    return Scored(*scored.cpu().numpy())


def _als(
    own: Resident, other: Resident, rows: I32, histories: Histories, intercept: float, objective: Objective, of_users: bool
) -> F64:
    """Solve on the device, a part of the rows at a time where memory is short."""
    n = len(rows)
    try:
        gains = solve(own.tables, other.tables, own.factors.shape[1], rows, rows_of(histories), intercept, objective, of_users)
    except Full as full:
        if n <= 1:
            return _als_on_host(own, other, rows, histories, intercept=intercept, objective=objective, of_users=of_users)
        log.warning("the GPU has no memory for %s rows at once, and solves half as many at a time: %s", f"{n:,}", full)
        parts = ((0, n // 2), (n // 2, n))
        return np.concatenate(
            [_als(own, other, rows[a:b], entries_of(histories, a, b), intercept, objective, of_users) for a, b in parts]
        )
    own.changed(rows)
    return gains
