"""The kernels compiled for this machine's processor by numba; see `api.Kernels` for what they do."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels import (
    cpu_als,
    cpu_calibrate,
    cpu_cg,
    cpu_effects,
    cpu_general,
    cpu_implicit,
    cpu_implicit_cg,
    cpu_rows,
    cpu_sgd,
    cpu_short,
    cpu_start,
    reference,
)
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
    Objective,
    Optimizer,
    Rates,
    Rows,
    Scored,
    Side,
    Solver,
)
from factorstream.worker.kernels.careful import solve_carefully
from factorstream.worker.kernels.compiled import LANES, Int
from factorstream.worker.kernels.cpu_fold import scratch
from factorstream.worker.kernels.effects import Effects, Pull
from factorstream.worker.kernels.layout import batch_as_columns, column, histories_as_columns, strided
from factorstream.worker.kernels.terms import N_TERMS, Memory, first_variances

name = "cpu"

Task = tuple[Side, Side, I32, Histories, F32, tuple[Any, Any, Any, bool]]
"""Least squares: both sides flat, rows, their histories, prior means flat; the intercept, λ, μ and whether these are weighted."""

threads = len(os.sched_getaffinity(0)) or 1
"""How many solve rows, and learn from parts of a batch that share none; their number changes no bit."""

CG_FROM = 64
"""The rank from which ``auto`` solves by conjugate gradients."""

IMPLICIT_CG_FROM = 64
"""The same of clicks."""

WORTH_A_THREAD = 200_000
"""Ratings times factors that take a thread some tenths of a millisecond in rows of usual length: less is not worth waking one."""

COSTS = 10
"""How many times as long as least squares other problems take, about."""


def hold(side: Rows, n: int) -> Rows:
    """Return *side*: these kernels learn on the host."""
    return side


def keep(held: Held) -> Held:
    """Return *held*: these kernels use it as it is."""
    return held


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
    flat_users, flat_items, batch = _side(users), _side(items), batch_as_columns(batch)
    if not objective.is_least_squares or optimizer.name != "sgd" or rates.power:
        return _sgd(users, items, batch, intercept, objective, rates, optimizer)
    n, rank, penalty = len(batch.ratings), users.factors.shape[1], objective.penalty
    flat = batch._replace(user_means=batch.user_means.reshape(-1), item_means=batch.item_means.reshape(-1))
    scored, longest = Scored(*np.empty((4, n), np.float32)), max(_longest(batch.user_histories), _longest(batch.item_histories))
    weights = cpu_sgd.Penalty(_scalar(penalty.user), _scalar(penalty.item), _scalar(penalty.bias), bool(penalty.weighted))
    numbers = _scalar(intercept), weights, cpu_sgd.Rates(*map(_scalar, rates[:3]))
    starts = np.array([0, n]) if apart is None else column(apart, np.int64)
    reached, taken = np.zeros(len(starts) - 1, np.int64), np.zeros(1, np.int64)

    def work() -> None:
        room = scratch(longest, rank)
        cpu_sgd.learn_apart(flat_users, flat_items, flat, starts, taken, reached, *numbers, room, scored)

    in_threads(work, n * rank if len(reached) > 1 else 0)
    for part in np.flatnonzero(reached < starts[1:]):
        done, stop, room = int(reached[part]), int(starts[part + 1]), scratch(longest, rank)
        while done < stop:
            event = _event(batch, done)
            one = reference.sgd(users, items, event, intercept=intercept, objective=objective, rates=rates)
            for filled, found in zip(scored, one, strict=True):
                filled[done] = found[0]
            done = cpu_sgd.learn(flat_users, flat_items, flat, done + 1, stop, *numbers, room, scored)
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
    """Solve each of *rows* (`api.Kernels.als`)."""
    if not objective.is_least_squares:
        return _als(own, other, column(rows, np.int32), histories_as_columns(histories), intercept, objective, of_users)
    penalty, _ = objective.penalty.on(users=of_users)
    weights = penalty, objective.penalty.bias, objective.penalty.weighted
    return _least_squares(own, other, rows, histories, means, intercept, weights, solver)


def _sgd(
    users: Side, items: Side, batch: Batch, intercept: float, objective: Objective, rates: Rates, optimizer: Optimizer
) -> Scored:
    """Learn from *batch* whatever is asked for."""
    rank, longest = users.factors.shape[1], max(_longest(batch.user_histories), _longest(batch.item_histories))
    scored = Scored(*np.empty((4, len(batch.ratings)), np.float32))
    cpu_general.learn(
        *users,
        *items,
        batch,
        cpu_general.task_of(objective, intercept),
        cpu_general.weights_of(objective),
        cpu_general.stepping_of(rates, optimizer),
        optimizer.users,
        optimizer.items,
        cpu_rows.room(longest, rank),
        cpu_general.own(rank),
        cpu_general.own(rank),
        scored,
    )
    return scored


def _als(own: Side, other: Side, rows: I32, histories: Histories, intercept: float, objective: Objective, of_users: bool) -> F64:
    """Solve each of *rows* whatever is asked for."""
    _side(own), _side(other)
    rank, longest = own.factors.shape[1], _longest(histories)
    gains, taken = np.zeros(len(rows)), np.zeros(1, np.int64)
    task, weights = cpu_general.task_of(objective, intercept), cpu_general.weights_of(objective)

    def work() -> None:
        room = cpu_rows.room(longest, rank)
        cpu_general.solve_rows(*own, *other, rows, histories, taken, task, weights, of_users, room, gains)

    in_threads(work, COSTS * len(histories.others) * rank)
    return gains


def _least_squares(
    own: Side,
    other: Side,
    rows: I32,
    histories: Histories,
    means: F32,
    intercept: float,
    weights: tuple[float, float, bool],
    solver: Solver,
) -> F64:
    """Solve each of *rows*; *weights* are λ, μ and whether they are weighted."""
    flat_own, flat_other, rows, histories = _side(own), _side(other), column(rows, np.int32), histories_as_columns(histories)
    counts, gains = np.diff(histories.starts), np.zeros(len(rows))
    penalty, bias_penalty, weighted = weights
    careful = np.full(len(rows), penalty <= 0)
    if penalty > 0:
        numbers = _scalar(intercept), _scalar(penalty), _scalar(bias_penalty), bool(weighted)
        task = flat_own, flat_other, rows, histories, column(means, np.float32).reshape(-1), numbers
        left = np.ones(len(rows), np.bool_)
        _one_by_one(task, counts, gains, careful, left)
        if solver == "cg" or (solver == "auto" and own.factors.shape[1] >= CG_FROM):
            _by_conjugate_gradients(task, counts, gains, left)
        _by_factoring(task, counts, np.flatnonzero(left), gains, careful)
    for j in np.flatnonzero(careful):
        weight, ratings = counts[j] if weighted else 1, _entry(histories, j)
        mean = means[j] if len(means) else np.zeros(own.factors.shape[1] + 1, np.float32)
        gains[j] = solve_carefully(own, other, rows[j], ratings, mean, intercept, weight * penalty, weight * bias_penalty)
    return gains


def _one_by_one(task: Task, counts: I64, gains: F64, careful: NDArray[np.bool_], left: NDArray[np.bool_]) -> None:
    """Solve the rows with few ratings, and clear *left* there; mark those as *careful* that float32 cannot solve."""
    own, other, rows, histories, means, numbers = task
    rank = len(own.factors) // len(own.biases)
    entries, taken = cpu_short.fitting(counts, rank), np.zeros(1, np.int64)
    left[entries] = False

    def work() -> None:
        room = scratch(cpu_short.MOST, rank)
        cpu_short.solve_rows(own, other, rows, histories, means, entries, taken, numbers, room, gains, careful)

    in_threads(work, 8 * int(counts[entries].sum()) * rank)


def _by_conjugate_gradients(task: Task, counts: I64, gains: F64, left: NDArray[np.bool_]) -> None:
    """Solve the rows that this suits; clear *left* where it went well."""
    own, other, rows, histories, means, numbers = task
    rank = len(own.factors) // len(own.biases)
    entries, taken = cpu_cg.fitting(counts, rank), np.zeros(1, np.int64)

    def work() -> None:
        room = cpu_cg.room(rank, int(counts[entries].max(initial=0)))
        cpu_cg.solve_rows(own, other, rows, histories, means, entries, taken, numbers, room, gains, left)

    in_threads(work, int(counts[entries].sum()) * rank)


def _by_factoring(task: Task, counts: I64, entries: I64, gains: F64, careful: NDArray[np.bool_]) -> None:
    """Solve *entries* exactly; mark those as *careful* that float32 cannot."""
    own, other, rows, histories, means, numbers = task
    rank = len(own.factors) // len(own.biases)
    pieces, groups, taken = cpu_als.pieces(counts, rank), cpu_als.groups(entries, counts, rank), np.zeros((2, 1), np.int64)

    def sum_pieces() -> None:
        cpu_als.sum_pieces(own, other, rows, histories, pieces, taken[0], numbers, cpu_als.room(rank))

    def solve_groups() -> None:
        room = cpu_als.room(rank)
        cpu_als.solve_groups(own, other, rows, histories, means, pieces, groups, taken[1], numbers, room, gains, careful)

    # called with nothing to do, too: the first call compiles, and that is to be when a worker starts
    in_threads(sum_pieces, len(pieces.entries) * cpu_als.PIECE * rank)
    in_threads(solve_groups, int(counts[entries].sum()) * rank)


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
    """Solve each of *rows* over all pairs (`api.Kernels.implicit`)."""
    flat_own, flat_other, rows, histories = _side(own), _side(other), column(rows, np.int32), histories_as_columns(histories)
    rank, counts = own.factors.shape[1], np.diff(histories.starts)
    gains, careful, left = np.zeros(len(rows)), penalties <= 0, np.ones(len(rows), np.bool_)
    if solver == "cg" or (solver == "auto" and rank >= IMPLICIT_CG_FROM):
        _by_whitening((own, flat_other, rows, histories), counts, gram, alpha, penalties, gains, left)
    entries = np.flatnonzero(left)
    groups, taken = cpu_implicit.groups(entries, counts), np.zeros(1, np.int64)
    flat_gram, weights = cpu_implicit.padded_gram(gram), column(penalties, np.float32)

    def work() -> None:
        room = cpu_implicit.room(rank)
        cpu_implicit.solve_groups(
            flat_own, flat_other, rows, histories, groups, taken, flat_gram, _scalar(alpha), weights, room, gains, careful
        )

    if not careful.all():
        in_threads(work, (int(counts[entries].sum()) + rank * len(entries)) * rank)
    for j in np.flatnonzero(careful):
        one = rows[j : j + 1]
        gains[j] = reference.implicit(own, other, one, _entry(histories, j), gram, alpha=alpha, penalties=penalties[j : j + 1])[0]
    return gains


def calibrate(memory: Memory, scored: Scored, batch: Batch, timestamps_ms: I64, *, spread: float) -> F32:
    """Correct each score, then learn from its rating (`api.Kernels.calibrate`)."""
    errors, room = np.empty(len(batch.ratings), np.float32), np.empty((2, N_TERMS))
    times = column(timestamps_ms, np.int64)
    cpu_calibrate.calibrate(memory, scored, batch_as_columns(batch), times, float(spread), first_variances(), room, errors)
    return errors


def meet(users: Effects, items: Effects, batch: Batch, changes: NDArray[np.int8]) -> tuple[F32, F32]:
    """Tell rows of whom they meet (`api.Kernels.meet`)."""
    width = users.said.shape[1]
    means = np.empty((2, len(changes), width), np.float32)
    flat = [one.reshape(-1) for one in means]
    cpu_effects.meet(_effects(users), _effects(items), batch_as_columns(batch), column(changes, np.int8), width, *flat)
    return means[0], means[1]


def recall(own: Effects, other: Effects, rows: I32, histories: Histories) -> F32:
    """Sum anew what *rows* were told (`api.Kernels.recall`)."""
    width = own.said.shape[1]
    means, columns = np.empty((len(rows), width), np.float32), (column(rows, np.int32), histories_as_columns(histories))
    cpu_effects.recall(_effects(own), _effects(other), *columns, width, means.reshape(-1))
    return means


def attribute(own: Effects, other: Effects, side: Side, rows: I32, histories: Histories, counts: I32, pull: Pull) -> None:
    """Find the effects of *rows* (`api.Kernels.attribute`)."""
    width, flat = own.said.shape[1], _side(side)
    columns = column(rows, np.int32), histories_as_columns(histories), strided(counts)
    room, strengths = np.empty(width + LANES, np.float32), Pull(*map(_scalar, pull))
    cpu_effects.attribute(_effects(own), _effects(other), *flat, *columns, width, strengths, room)


def _effects(effects: Effects) -> Effects:
    return Effects(effects.said.reshape(-1), effects.told.reshape(-1))


def _by_whitening(
    task: tuple[Side, Side, I32, Histories],
    counts: I64,
    gram: F64,
    alpha: float,
    penalties: F32,
    gains: F64,
    left: NDArray[np.bool_],
) -> None:
    """Solve the rows that conjugate gradients suit, where all have one λ; clear *left* where it went well."""
    own, other, rows, histories = task
    rank = own.factors.shape[1]
    entries = cpu_implicit_cg.fitting(counts, rank)
    if not len(entries) or penalties.min() <= 0 or penalties.min() < penalties.max():
        return
    matrices = cpu_implicit_cg.whitening(gram, float(penalties[0]))
    if matrices is None:
        return
    lower, inverse_turned, inverse = matrices
    others, named = _named(histories.others)
    old = own.factors[rows]
    finite = np.isfinite(old).all(axis=1)
    old[~finite] = 0
    every = np.arange(len(rows), dtype=np.int32)
    turned = _turned(other.factors, rank, rank, others, inverse_turned)
    solution = _turned(old.reshape(-1), rank, rank, every, lower)
    taken, histories = np.zeros(1, np.int64), histories._replace(others=named)

    def work() -> None:
        room = cpu_implicit_cg.room(rank, int(counts[entries].max()))
        cpu_implicit_cg.solve_rows(turned, rank, histories, entries, taken, _scalar(alpha), solution, room, gains, left)

    in_threads(work, 4 * int(counts[entries].sum()) * rank)
    width = len(solution) // len(rows)
    new = _turned(solution, width, rank, every, inverse).reshape(len(rows), -1)[:, :rank]
    left |= ~np.isfinite(new).all(axis=1)
    done = ~left
    own.factors[rows[done]] = new[done]
    gains[done & ~finite] = np.inf


def _turned(factors: F32, stride: int, rank: int, rows: I32, matrix: F32) -> F32:
    """Return *rows* of the flat *factors* times *matrix*, ``(len(rows), padded(K))``, flat."""
    out, taken = np.empty(len(rows) * (len(matrix) // rank), np.float32), np.zeros(1, np.int64)
    in_threads(lambda: cpu_implicit_cg.turn_rows(factors, stride, rank, rows, matrix, taken, out), len(rows) * len(matrix) // 4)
    return out


def _named(rows: I32) -> tuple[I32, I32]:
    """Return the different ones of *rows*, ascending, and which of them each is."""
    there = np.zeros(int(rows.max(initial=-1)) + 1, np.bool_)
    there[rows] = True
    places = np.cumsum(there, dtype=np.int32) - np.int32(1)
    return np.flatnonzero(there).astype(np.int32), places[rows]


def initialize(side: Side, first: int, stop: int, *, seed: int, stream: int, deviation: float) -> None:
    """Fill new rows (`api.Kernels.initialize`)."""
    rank, bits = side.factors.shape[1], 2**64
    cpu_start.fill(_side(side).factors, rank, first, stop, np.uint64(seed % bits), np.uint64(stream % bits), float(deviation))
    side.biases[first:stop] = 0


def in_threads(work: Callable[[], None], size: int) -> None:
    """Run *work* in as many threads as *size*, in ratings times factors, is worth; it shares itself out."""
    waiting = [_pool().submit(work) for _ in range(min(threads, 1 + size // WORTH_A_THREAD) - 1)]
    work()
    for other in waiting:
        if not other.cancel():  # what has not begun by now has nothing left to do
            other.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=threads, thread_name_prefix="als")


def _scalar(number: float) -> Any:
    """Return *number* as float32: what numba sees decides which code it compiles."""
    return np.float32(number)


def _side(side: Side) -> Side:
    """Return *side* with its factors flat, if it can be changed in place: a copy would take the changes with it."""
    for table, dimensions in ((side.factors, 2), (side.biases, 1)):
        if table.dtype != np.float32 or table.ndim != dimensions or not table.flags.carray:
            raise TypeError(
                f"a writable C-contiguous float32 table of {dimensions} dimensions was expected, not {table.dtype} {table.shape}"
            )
    if len(side.factors) != len(side.biases):
        raise TypeError(f"as many biases as rows of factors were expected, not {len(side.biases)} and {len(side.factors)}")
    return Side(side.factors.reshape(-1), side.biases)


def _event(batch: Batch, j: Int) -> Batch:
    """Return event *j* as a batch of its own."""
    one = slice(j, j + 1)
    return Batch(
        user_rows=batch.user_rows[one],
        item_rows=batch.item_rows[one],
        ratings=batch.ratings[one],
        user_counts=batch.user_counts[one],
        item_counts=batch.item_counts[one],
        user_histories=_entry(batch.user_histories, j),
        item_histories=_entry(batch.item_histories, j),
        user_means=batch.user_means[one],
        item_means=batch.item_means[one],
    )


def _entry(histories: Histories, j: Int) -> Histories:
    begin, end = histories.starts[j : j + 2]
    return Histories(np.array([0, end - begin]), histories.others[begin:end], histories.ratings[begin:end])


def _longest(histories: Histories) -> int:
    return int(np.diff(histories.starts).max()) if len(histories.others) else 0
