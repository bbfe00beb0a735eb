"""The kernels for an NVIDIA GPU, in Triton and torch; see `api.Kernels` for what they do. Without a GPU they run interpreted.

Tables stay on the device (`Resident`) and come back to the host when somebody reads them there. What these kernels do not do, the
CPU's do in their place (`devices` says what that is), as they do where the device has no memory left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels import gpu_general_learn, gpu_learn, gpu_met, gpu_moments, gpu_solve, gpu_start, reference
from factorstream.worker.kernels.api import (
    F32,
    F64,
    I32,
    I64,
    NO_MEANS,
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
from factorstream.worker.kernels.devices import is_plain, too_long, too_wide
from factorstream.worker.kernels.effects import Effects, Pull
from factorstream.worker.kernels.gpu_language import cdiv
from factorstream.worker.kernels.gpu_learn import entries_of, learn, longest, part_of, programs, work_of
from factorstream.worker.kernels.gpu_moments import ResidentMoments
from factorstream.worker.kernels.gpu_solve import picked, rows_of, solve, solve_any, solve_pairs
from factorstream.worker.kernels.gpu_tables import Full, Resident, lent, mirror_of, sent, width_of
from factorstream.worker.kernels.terms import Memory

name = "gpu"
log = logging.getLogger(__name__)

FEWEST = 64
"""Events that are not cut in halves any more when memory is short."""
HALVED = "the GPU has no memory for %s rows at once, and solves half as many at a time: %s"


def hold(side: Rows, n: int) -> Rows:
    """Return *side*, rows below *n* in use, where these kernels learn (`api.Kernels.hold`)."""
    if isinstance(side, Moments):
        return gpu_moments.resident(side, n)
    mirror = mirror_of(side)
    mirror.ensure(n)
    return cast(Rows, mirror)


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
    apart: I64 | None = None,
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
    unknown = too_long(length) or (not is_plain(objective, optimizer) and too_wide(here.factors.shape[1]))
    how: dict[str, Any] = {"intercept": intercept, "objective": objective, "rates": rates, "optimizer": remembered}
    learn_all: Callable[..., Scored] = _sgd_on_host if unknown or singular else _sgd
    scored = learn_all(here, there, batch, apart=apart, **how)
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
    means: F32 = NO_MEANS,
    solver: Solver = "auto",
) -> F64:
    """Solve each of *rows* (`api.Kernels.als`); exactly, whatever *solver* says."""
    if not len(rows):
        return np.zeros(0)
    how: dict[str, Any] = {"intercept": intercept, "objective": objective, "of_users": of_users}
    if len(means):
        return _als_around(means, own, other, rows, histories, **how)
    here, there = _resident(own), _resident(other)
    solve_all: Callable[..., F64] = _als_on_host if too_wide(own.factors.shape[1]) else _als
    gains = solve_all(here, there, np.ascontiguousarray(rows, np.int32), histories, **how)
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
    """Solve each of *rows* over all pairs (`api.Kernels.implicit`); exactly, whatever *solver* says."""
    if not len(rows):
        return np.zeros(0)
    here, there = _resident(own), _resident(other)
    if too_wide(own.factors.shape[1]):
        gains = _implicit_on_host(here, there, rows, histories, gram, alpha, penalties)
    else:
        gains = _implicit(here, there, np.ascontiguousarray(rows, np.int32), histories, gram, alpha, penalties)
    _return(here, own)
    return gains


def calibrate(memory: Memory, scored: Scored, batch: Batch, timestamps_ms: I64, *, spread: float) -> F32:
    """Let the CPU correct each score (`api.Kernels.calibrate`)."""
    return _cpu().calibrate(memory, scored, batch, timestamps_ms, spread=spread)


def meet(users: Effects, items: Effects, batch: Batch, changes: NDArray[np.int8]) -> tuple[F32, F32]:
    """Tell rows of whom they meet (`api.Kernels.meet`)."""
    with lent(users, items) as (of_users, of_items):
        return gpu_met.meet(of_users, of_items, batch, changes)


def recall(own: Effects, other: Effects, rows: I32, histories: Histories) -> F32:
    """Sum anew what *rows* were told (`api.Kernels.recall`)."""
    with lent(own, other) as (here, there):
        return gpu_met.recall(here, there, rows, histories)


def attribute(own: Effects, other: Effects, side: Side, rows: I32, histories: Histories, counts: I32, pull: Pull) -> None:
    """Find the effects of *rows* (`api.Kernels.attribute`)."""
    with lent(own, other, side) as (here, there, met):
        gpu_met.attribute(here, there, met, rows, histories, counts, pull)


def initialize(side: Side, first: int, stop: int, *, seed: int, stream: int, deviation: float) -> None:
    """Fill new rows (`api.Kernels.initialize`)."""
    if stop <= first:
        return
    held = side if isinstance(side, Resident) else Resident(side.factors[first:stop], side.biases[first:stop])
    held.ensure(stop if held is side else stop - first)
    if held.missing:
        _cpu().initialize(Side(*side), first, stop, seed=seed, stream=stream, deviation=deviation)
    else:
        _fill(held, first if held is side else 0, first, stop - first, seed, stream, deviation)
        if held is not side:
            held.fetch()


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
    users: Resident,
    items: Resident,
    batch: Batch,
    *,
    intercept: float,
    objective: Objective,
    rates: Rates,
    optimizer: Optimizer,
    apart: I64 | None = None,
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
        apart=apart,
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


def _implicit_on_host(
    own: Resident, other: Resident, rows: I32, histories: Histories, gram: F64, alpha: float, penalties: F32
) -> F64:
    """Let the CPU solve over all pairs, and take what it changed."""
    own.fetch()
    other.fetch()
    held = Histories(*histories)
    gains = _cpu().implicit(Side(*own), Side(*other), rows, held, gram, alpha=alpha, penalties=penalties, solver="exact")
    own.send(rows)
    return gains


def _sgd(users: Resident, items: Resident, batch: Batch, apart: I64 | None = None, **how: Any) -> Scored:
    """Learn on the device, a part of the batch at a time where memory is short; on the host what has no room there."""
    n = len(batch.ratings)
    if any(held.missing for held in (users, items, *gpu_moments.of_both(how["optimizer"]))):
        return _sgd_on_host(users, items, batch, apart=apart, **how)
    try:
        return _sgd_at_once(users, items, batch, **how)
    except Full as full:
        if n > FEWEST:
            log.warning("the GPU has no memory for %s ratings at once, and learns half as many at a time: %s", f"{n:,}", full)
    # not before the exception is gone, and with it what the device holds for the attempt that failed
    if n <= FEWEST:
        return _sgd_on_host(users, items, batch, apart=apart, **how)
    learned = [_sgd(users, items, part_of(batch, *ends), **how) for ends in ((0, n // 2), (n // 2, n))]
    return Scored(*np.concatenate(learned, axis=1))


def _sgd_at_once(
    users: Resident, items: Resident, batch: Batch, *, intercept: float, objective: Objective, rates: Rates, optimizer: Optimizer
) -> Scored:
    """Learn on the device. Raises `Full` before anything is changed."""
    if is_plain(objective, optimizer):
        work = work_of(batch, programs(width_of(users.factors.shape[1])))
        scored = learn(users.tables, items.tables, users.factors.shape[1], work, intercept, objective, rates)
    else:
        scored = gpu_general_learn.learn(users, items, batch, intercept, objective, rates, optimizer)
    of_users, of_items = gpu_moments.of_both(optimizer)
    for held, rows in (((users, of_users), batch.user_rows), ((items, of_items), batch.item_rows)):
        for one in held:
            one.changed(rows)
    return Scored(*scored.cpu().numpy())


def _als_around(means: F32, own: Side, other: Side, rows: I32, histories: Histories, **how: Any) -> F64:
    """Solve for the rows' distances from their prior means, with ratings less what these predict."""
    with lent(own, other) as (here, there):
        less = histories._replace(ratings=gpu_met.less(there, histories, means))
        here.add(rows, -means)
        try:
            return als(here, there, rows, less, **how)
        finally:
            here.add(rows, means)


def _als(own: Resident, other: Resident, rows: I32, histories: Histories, **how: Any) -> F64:
    """Solve on the device, a part of the rows at a time where memory is short; on the host what has no room there."""
    n = len(rows)
    if own.missing or other.missing:
        return _als_on_host(own, other, rows, histories, **how)
    try:
        return _als_at_once(own, other, rows, histories, **how)
    except Full as full:
        if n > 1:
            log.warning(HALVED, f"{n:,}", full)
    # not before the exception is gone, as in `_sgd`
    if n <= 1:
        return _als_on_host(own, other, rows, histories, **how)
    parts = ((0, n // 2), (n // 2, n))
    return np.concatenate([_als(own, other, rows[a:b], entries_of(histories, a, b), **how) for a, b in parts])


def _als_at_once(
    own: Resident, other: Resident, rows: I32, histories: Histories, *, intercept: float, objective: Objective, of_users: bool
) -> F64:
    """Solve on the device, and on the host what needs float64. Raises `Full` before anything is changed."""
    work, rank, solver = rows_of(histories), own.factors.shape[1], solve if objective.is_least_squares else solve_any
    gains, left = solver(own.tables, other.tables, rank, rows, work, intercept, objective, of_users)
    own.changed(rows)
    if len(left):
        some = picked(histories, left)
        gains[left] = _als_on_host(own, other, rows[left], some, intercept=intercept, objective=objective, of_users=of_users)
    return gains


def _implicit(own: Resident, other: Resident, rows: I32, histories: Histories, gram: F64, alpha: float, penalties: F32) -> F64:
    """Solve over all pairs on the device, as `_als` does."""
    n = len(rows)
    if own.missing or other.missing:
        return _implicit_on_host(own, other, rows, histories, gram, alpha, penalties)
    try:
        return _implicit_at_once(own, other, rows, histories, gram, alpha, penalties)
    except Full as full:
        if n > 1:
            log.warning(HALVED, f"{n:,}", full)
    # not before the exception is gone, as in `_sgd`
    if n <= 1:
        return _implicit_on_host(own, other, rows, histories, gram, alpha, penalties)
    parts = ((0, n // 2), (n // 2, n))
    return np.concatenate(
        [_implicit(own, other, rows[a:b], entries_of(histories, a, b), gram, alpha, penalties[a:b]) for a, b in parts]
    )


def _implicit_at_once(
    own: Resident, other: Resident, rows: I32, histories: Histories, gram: F64, alpha: float, penalties: F32
) -> F64:
    """Solve over all pairs on the device, and on the host what needs float64. Raises `Full` before anything is changed."""
    work, rank = rows_of(histories), own.factors.shape[1]
    gains, left = solve_pairs(own.tables, other.tables, rank, rows, work, gram, alpha, penalties)
    own.changed(rows)
    if len(left):
        gains[left] = _implicit_on_host(own, other, rows[left], picked(histories, left), gram, alpha, penalties[left])
    return gains
