"""One row's problem solved for any objective, compiled: proximal Newton steps, each with a line search (`reference_rows`).

Tables are float32, all arithmetic is float64. Vectors of a row hold K factors, then the bias; a problem without biases leaves
that place zero. What is read of the other side is read from its tables at every pass: a row may be long.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels import losses
from factorstream.worker.kernels.api import F64
from factorstream.worker.kernels.compiled import Int, inlined, inner

NEWTON_STEPS, HALVINGS, PASSES = 50, 40, 2_000
"""At most; a row stops as soon as the next step would gain nothing."""
ENOUGH = 1e-11
"""A step that promises less than this share of the objective is not taken."""
STILL = 1e-20
"""Coordinates have come to rest when none moves the model by more than this share of the objective."""
WEAK = 1e-13
"""A pivot below this share of its diagonal is a direction that the problem does not have."""
FAINT = 1e-11
"""λ = 0 is this share of the problem's weight: the solution of minimum norm, and no digits of another one."""
LEFT = -1.0
"""The gain of a row that is left as it is, for the solution would not be finite."""

value, slope, curvature = inlined(losses.value), inlined(losses.slope), inlined(losses.curvature)
around = inlined(losses.around)


class Row(NamedTuple):
    """λ and κ of one row's problem."""

    ridge: Any
    bias_ridge: Any
    lasso: Any


class Task(NamedTuple):
    """What all rows have in common."""

    intercept: Any
    kind: Any
    lowest: Any
    step: Any
    cuts: Any
    nonnegative: Any
    biased: Any


class Room(NamedTuple):
    """What a solve works on; made once for many."""

    old: F64
    """``(K + 1,)``: the row before …"""
    new: F64
    """… and after."""
    scores: F64
    """``(n,)``."""
    moves: F64
    """``(n,)``: by how much a whole step moves the scores."""
    row: F64
    """``(K + 1,)``: a row of the design."""
    gradient: F64
    target: F64
    """Where the step leads."""
    slope: F64
    """The model's gradient there."""
    hessian: F64
    """``(K + 1, K + 1)``."""
    lower: F64
    """``(K + 1, K + 1)``: a Cholesky factor."""
    right: F64
    """``(K + 1,)``."""
    products: F64
    """``(K + 1, K + 1)``: of pairs of ratings, ``A Λ⁻¹ Aᵀ``."""
    support: NDArray[np.int64]
    """Which numbers are not zero."""


def room(longest: int, rank: int) -> Room:
    """Make room for rows of up to *longest* ratings."""

    def vector() -> F64:
        return np.zeros(rank + 1)

    def square() -> F64:
        return np.zeros((rank + 1, rank + 1))

    return Room(
        old=vector(),
        new=vector(),
        scores=np.zeros(longest),
        moves=np.zeros(longest),
        row=vector(),
        gradient=vector(),
        target=vector(),
        slope=vector(),
        hessian=square(),
        lower=square(),
        right=vector(),
        products=square(),
        support=np.zeros(rank + 1, np.int64),
    )


@inner
def solve_row(q: Any, c: Any, others: Any, ratings: Any, begin: Int, end: Int, task: Any, row: Any, room: Any) -> float:
    """Solve the row ``room.old`` with ratings ``begin:end`` into ``room.new``, as float32 holds it; return the gain or `LEFT`.

    *q* ``(rows, K)`` and *c* are the other side's. The gain is ``F(old) − F(new)``: ∞ where the old row was not finite.
    """
    before = start(q, c, others, ratings, begin, end, task, row, room)
    if before == LEFT:
        return LEFT
    now = objective(ratings, begin, end, task, row, room, room.new, 0.0)
    smooth = row.lasso == 0.0 and not task.nonnegative
    by_ratings = smooth and end - begin < q.shape[1] and row.ridge > 0.0 and (row.bias_ridge > 0.0 or not task.biased)
    if by_ratings:
        multiply_pairs(q, others, begin, end, task, row, room)
    for _ in range(NEWTON_STEPS):
        if by_ratings:
            aim_by_ratings(q, others, ratings, begin, end, task, row, room)
        else:
            aim(q, others, ratings, begin, end, task, row, room, smooth, now)
        promised = expected(row, room, q.shape[1])
        if not promised < -ENOUGH * (1.0 + abs(now)):
            break
        now = advance(q, others, ratings, begin, end, task, row, room, now, promised)
        if task.kind == losses.SQUARED or math.isnan(now):
            break
    for k in range(room.new.shape[0]):
        room.new[k] = np.float64(np.float32(room.new[k]))
        if not math.isfinite(room.new[k]):
            return LEFT
    score_all(q, c, others, begin, end, task, room)
    gain = before - objective(ratings, begin, end, task, row, room, room.new, 0.0)
    if not gain >= 0.0:  # rounding to float32 costs more than there was to gain
        copy(room.old, room.new)
        return 0.0
    return gain


@inlined
def copy(source: Any, target: Any) -> None:
    """Copy all of *source*."""
    for k in range(source.shape[0]):
        target[k] = source[k]


@inner
def read_row(q: Any, other: Int, task: Any, room: Any) -> None:
    """Set ``room.row`` to a row of the design: the other side's factors, and 1 for the bias."""
    rank = q.shape[1]
    for k in range(rank):
        room.row[k] = q[other, k]
    room.row[rank] = 1.0 if task.biased else 0.0


@inner
def score_all(q: Any, c: Any, others: Any, begin: Int, end: Int, task: Any, room: Any) -> None:
    """Set the scores of ``room.new``."""
    rank, w = q.shape[1], room.new
    for j in range(begin, end):
        other = np.int64(others[j])
        score = task.intercept + np.float64(c[other]) + w[rank]
        for k in range(rank):
            score += w[k] * q[other, k]
        room.scores[j - begin] = score


@inner
def objective(ratings: Any, begin: Int, end: Int, task: Any, row: Any, room: Any, w: Any, share: float) -> float:
    """Return F(w), whose scores are ``room.scores`` and that *share* of ``room.moves``."""
    total = 0.0
    for j in range(begin, end):
        x = np.float64(ratings[j])
        lower, upper = around(x, task.lowest, task.step, task.cuts)
        total += value(task.kind, x, room.scores[j - begin] + share * room.moves[j - begin], lower, upper)
    rank = w.shape[0] - 1
    squares, sizes = 0.0, 0.0
    for k in range(rank):
        squares += w[k] * w[k]
        sizes += abs(w[k])
    return total + 0.5 * row.ridge * squares + row.lasso * sizes + 0.5 * row.bias_ridge * w[rank] * w[rank]


@inner
def start(q: Any, c: Any, others: Any, ratings: Any, begin: Int, end: Int, task: Any, row: Any, room: Any) -> float:
    """Set ``room.new``, its scores, to the old row or to zero, whichever is better; return F(old), or `LEFT`."""
    rank, wrong = q.shape[1], 0.0
    for j in range(begin, end):
        room.moves[j - begin] = 0.0
        wrong += 0.0 * np.float64(c[np.int64(others[j])])
        for k in range(rank):
            wrong += 0.0 * np.float64(q[np.int64(others[j]), k])
    if wrong != 0.0:  # NaN: a number is not finite
        return LEFT
    copy(room.old, room.new)
    score_all(q, c, others, begin, end, task, room)
    before = objective(ratings, begin, end, task, row, room, room.new, 0.0)
    for k in range(rank + 1):
        room.new[k] = 0.0
    score_all(q, c, others, begin, end, task, room)
    quadratic = task.kind == losses.SQUARED and row.lasso == 0.0 and not task.nonnegative  # one step from anywhere
    if before < objective(ratings, begin, end, task, row, room, room.new, 0.0) and not quadratic:
        copy(room.old, room.new)
        score_all(q, c, others, begin, end, task, room)
    return before if math.isfinite(before) else math.inf


@inner
def expected(row: Any, room: Any, rank: int) -> float:
    """Return what the model of F promises of the step to ``room.target``: below zero."""
    promised = 0.0
    for k in range(rank + 1):
        promised += room.gradient[k] * (room.target[k] - room.new[k])
    for k in range(rank):
        promised += row.lasso * (abs(room.target[k]) - abs(room.new[k]))
    return promised


@inner
def advance(
    q: Any, others: Any, ratings: Any, begin: Int, end: Int, task: Any, row: Any, room: Any, now: float, promised: float
) -> float:
    """Go towards ``room.target``, as far as F falls as it should; return F there, NaN where no step lowers it."""
    rank, direction = q.shape[1], room.slope
    for k in range(rank + 1):
        direction[k] = room.target[k] - room.new[k]
    for j in range(begin, end):
        move = direction[rank]
        for k in range(rank):
            move += direction[k] * q[np.int64(others[j]), k]
        room.moves[j - begin] = move
    share = 1.0
    for _ in range(HALVINGS):
        for k in range(rank + 1):
            room.target[k] = room.new[k] + share * direction[k]
        reached = objective(ratings, begin, end, task, row, room, room.target, share)
        if reached <= now + 1e-4 * share * promised:
            copy(room.target, room.new)
            for j in range(end - begin):
                room.scores[j] += share * room.moves[j]
                room.moves[j] = 0.0
            return reached
        share *= 0.5
    for j in range(end - begin):
        room.moves[j] = 0.0
    return math.nan


@inner
def aim(
    q: Any, others: Any, ratings: Any, begin: Int, end: Int, task: Any, row: Any, room: Any, smooth: bool, now: float
) -> None:
    """Set ``room.gradient`` and ``room.target``, the minimiser of F's quadratic model at ``room.new``."""
    rank = q.shape[1]
    width = rank + 1
    for i in range(width):
        room.gradient[i] = (row.ridge if i < rank else row.bias_ridge) * room.new[i]
        for k in range(width):
            room.hessian[i, k] = 0.0
        room.hessian[i, i] = row.ridge if i < rank else row.bias_ridge
    for j in range(begin, end):
        read_row(q, np.int64(others[j]), task, room)
        x, s = np.float64(ratings[j]), room.scores[j - begin]
        lower, upper = around(x, task.lowest, task.step, task.cuts)
        steep, bend = slope(task.kind, x, s, lower, upper), curvature(task.kind, x, s, lower, upper)
        for i in range(width):
            room.gradient[i] += steep * room.row[i]
            scale = bend * room.row[i]
            for k in range(width):
                room.hessian[i, k] += scale * room.row[k]
    size = width if task.biased else rank
    room.target[rank] = 0.0
    if smooth:
        trace = 0.0
        for k in range(size):
            trace += room.hessian[k, k]
        for k in range(size):
            room.right[k] = -room.gradient[k]
            for i in range(size):
                room.lower[k, i] = room.hessian[k, i]
            if row.ridge == 0.0:
                room.lower[k, k] += FAINT * trace
        solve(room.lower, room.right, size)
        for k in range(size):
            room.target[k] = room.new[k] + room.right[k]
    else:
        descend(room, size, rank, row.lasso, task.nonnegative, now)


@inner
def solve(matrix: Any, right: Any, size: int) -> None:
    """Solve ``matrix x = right`` in place by ``L Lᵀ``; what the matrix has no direction for becomes zero."""
    for k in range(size):
        whole = matrix[k, k]
        for i in range(k):
            whole -= matrix[k, i] * matrix[k, i]
        strong = whole > WEAK * matrix[k, k]
        pivot = math.sqrt(whole) if strong else 0.0
        inverse = 1.0 / pivot if strong else 0.0
        matrix[k, k] = pivot
        for j in range(k + 1, size):
            rest = matrix[j, k]
            for i in range(k):
                rest -= matrix[j, i] * matrix[k, i]
            matrix[j, k] = rest * inverse
        for i in range(k):
            right[k] -= matrix[k, i] * right[i]
        right[k] *= inverse
    for k in range(size - 1, -1, -1):
        right[k] = right[k] / matrix[k, k] if matrix[k, k] > 0.0 else 0.0
        for i in range(k):
            right[i] -= matrix[k, i] * right[k]


@inner
def multiply_pairs(q: Any, others: Any, begin: Int, end: Int, task: Any, row: Any, room: Any) -> None:
    """Set ``A Λ⁻¹ Aᵀ``, for fewer ratings than factors."""
    rank = q.shape[1]
    of_bias = 1.0 / row.bias_ridge if task.biased else 0.0
    for s in range(end - begin):
        read_row(q, np.int64(others[begin + s]), task, room)
        for t in range(s + 1):
            other = np.int64(others[begin + t])
            product = 0.0
            for k in range(rank):
                product += room.row[k] * q[other, k]
            room.products[s, t] = product / row.ridge + of_bias
            room.products[t, s] = room.products[s, t]


@inner
def aim_by_ratings(q: Any, others: Any, ratings: Any, begin: Int, end: Int, task: Any, row: Any, room: Any) -> None:
    """Do as `aim`, by the n × n matrix ``I + D^½ A Λ⁻¹ Aᵀ D^½`` (Woodbury), where ``H = Λ + Aᵀ D A``."""
    rank, n = q.shape[1], end - begin
    for k in range(rank + 1):
        room.gradient[k] = (row.ridge if k < rank else row.bias_ridge) * room.new[k]
    for s in range(n):
        x, score = np.float64(ratings[begin + s]), room.scores[s]
        lower, upper = around(x, task.lowest, task.step, task.cuts)
        steep = slope(task.kind, x, score, lower, upper)
        room.moves[s] = math.sqrt(curvature(task.kind, x, score, lower, upper))
        read_row(q, np.int64(others[begin + s]), task, room)
        for k in range(rank + 1):
            room.gradient[k] += steep * room.row[k]
    of_bias = 1.0 / row.bias_ridge if task.biased else 0.0
    for s in range(n):
        for t in range(n):
            room.lower[s, t] = room.moves[s] * room.products[s, t] * room.moves[t]
        room.lower[s, s] += 1.0
        read_row(q, np.int64(others[begin + s]), task, room)
        product = 0.0
        for k in range(rank):
            product += room.row[k] * room.gradient[k]
        room.right[s] = room.moves[s] * (product / row.ridge + of_bias * room.gradient[rank])
    solve(room.lower, room.right, n)
    for k in range(rank + 1):
        room.target[k] = room.gradient[k]
    for s in range(n):
        read_row(q, np.int64(others[begin + s]), task, room)
        for k in range(rank + 1):
            room.target[k] -= room.moves[s] * room.right[s] * room.row[k]
        room.moves[s] = 0.0
    for k in range(rank + 1):
        room.target[k] = room.new[k] - room.target[k] * (1.0 / row.ridge if k < rank else of_bias)


@inner
def descend(room: Any, size: int, rank: int, lasso: float, nonnegative: bool, now: float) -> None:
    """Minimise the quadratic model with κ and the constraint, one number after another; exact zeros.

    Once the signs hold, the numbers that are not zero are solved at once, which ends it where these signs are the minimiser's.
    """
    for k in range(size):
        room.target[k], room.slope[k] = room.new[k], room.gradient[k]
    attempt = 2
    for n_passes in range(1, PASSES + 1):
        moved, turned = 0.0, False
        for k in range(size):
            weight = room.hessian[k, k]
            if not weight > 0.0:
                continue
            old = room.target[k]
            best = soft(old * weight - room.slope[k], lasso if k < rank else 0.0) / weight
            if nonnegative and k < rank:
                best = max(best, 0.0)
            if best != old:
                turned = turned or best * old <= 0.0
                moved = max(moved, weight * (best - old) * (best - old))
                shift(room, k, best, size)
        if moved <= STILL * (1.0 + abs(now)):
            break
        if not turned and n_passes >= attempt:
            attempt = 2 * n_passes
            solve_support(room, size, rank, lasso)


@inlined
def soft(number: float, threshold: float) -> float:
    """Return *number* moved towards zero by *threshold*, not beyond it."""
    return math.copysign(max(abs(number) - threshold, 0.0), number)


@inner
def shift(room: Any, k: int, best: float, size: int) -> None:
    """Move one number of the target, and the model's gradient with it."""
    step = best - room.target[k]
    for i in range(size):
        room.slope[i] += room.hessian[k, i] * step
    room.target[k] = best


@inner
def solve_support(room: Any, size: int, rank: int, lasso: float) -> None:
    """Go to the minimiser over the numbers that are not zero, if none of them changes its sign on the way."""
    n = 0
    for k in range(size):
        if room.target[k] != 0.0:
            room.support[n] = k
            n += 1
    for s in range(n):
        k = room.support[s]
        room.right[s] = -room.slope[k] - (math.copysign(lasso, room.target[k]) if k < rank else 0.0)
        for t in range(n):
            room.lower[s, t] = room.hessian[k, room.support[t]]
    solve(room.lower, room.right, n)
    for s in range(n):
        k = room.support[s]
        if k < rank and (room.target[k] + room.right[s]) * room.target[k] <= 0.0:
            return
    for s in range(n):
        k = room.support[s]
        shift(room, k, room.target[k] + room.right[s], size)
