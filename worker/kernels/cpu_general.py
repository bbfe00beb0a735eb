"""SGD and row solves for any loss, penalty, constraint and optimizer, compiled once: what `cpu_sgd` and `cpu_als` are not for.

The loss and the optimizer are numbers inside the loop, so that there is one signature. Tables are float32, sums are float64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from factorstream.worker.kernels import losses
from factorstream.worker.kernels.api import F64, Objective, Optimizer, Rates
from factorstream.worker.kernels.compiled import Int, bare, inlined, inner
from factorstream.worker.kernels.cpu_rows import LEFT, Row, Task, around, copy, slope, soft, solve_row
from factorstream.worker.kernels.simd import take_number

PLAIN, MOMENTUM, ADAGRAD, RMSPROP, ADAM = range(5)
OPTIMIZERS = {"sgd": PLAIN, "momentum": MOMENTUM, "adagrad": ADAGRAD, "rmsprop": RMSPROP, "adam": ADAM}

BAD, KEPT, SOLVED, STEPPED = range(4)
"""What an event makes of a row: numbers that are not finite, nothing, the minimiser, a step."""

NAN = np.float32(np.nan)
steepest = inlined(losses.steepest)


class Weights(NamedTuple):
    """λ and κ of both sides, before they are weighted."""

    user: Any
    item: Any
    bias: Any
    user_lasso: Any
    item_lasso: Any
    weighted: Any


class Stepping(NamedTuple):
    """Rates and the optimizer's numbers."""

    rate: Any
    bias_rate: Any
    decay: Any
    power: Any
    kind: Any
    beta1: Any
    beta2: Any
    epsilon: Any


class Own(NamedTuple):
    """One side's row in an event, vectors ``(K + 1,)``."""

    old: F64
    new: F64
    rate: F64
    """η of each number."""
    first: F64
    """What becomes of the optimizer's state."""
    second: F64


def own(rank: int) -> Own:
    """Make room for a row."""
    return Own(*(np.zeros(rank + 1) for _ in Own._fields))


def task_of(objective: Objective, intercept: float) -> Task:
    """Return what is compiled for of *objective*, but for its weights."""
    loss = objective.loss
    numbers = float(intercept), losses.KINDS[loss.name], float(loss.lowest), float(loss.step)
    return Task(*numbers, np.require(loss.cuts, np.float64, ["C", "A", "W"]), bool(objective.nonnegative), bool(objective.biased))


def weights_of(objective: Objective) -> Weights:
    """Return λ and κ of *objective*."""
    user, item, bias, weighted, user_lasso, item_lasso = objective.penalty
    return Weights(float(user), float(item), float(bias), float(user_lasso), float(item_lasso), bool(weighted))


def stepping_of(rates: Rates, optimizer: Optimizer) -> Stepping:
    """Return rates and optimizer as numbers."""
    factors, biases, decay, power = map(float, rates)
    beta1, beta2, epsilon = map(float, (optimizer.beta1, optimizer.beta2, optimizer.epsilon))
    return Stepping(factors, biases, decay, power, OPTIMIZERS[optimizer.name], beta1, beta2, epsilon)


@inlined
def row_of(weights: Any, n: Int, users: bool) -> Row:
    """Return λ and κ of a row that holds *n* ratings."""
    weight = np.float64(n) if weights.weighted else 1.0
    ridge = weights.user if users else weights.item
    lasso = weights.user_lasso if users else weights.item_lasso
    return Row(weight * ridge, weight * weights.bias, weight * lasso)


@bare
def solve_rows(
    p: Any,
    b: Any,
    q: Any,
    c: Any,
    rows: Any,
    histories: Any,
    taken: Any,
    task: Any,
    weights: Any,
    users: bool,
    room: Any,
    gains: Any,
) -> None:
    """Solve rows, as long as the counter *taken* has any left, and set their gains; several threads may share the work."""
    rank = p.shape[1]
    while True:
        j = take_number(taken)
        if j >= rows.shape[0]:
            return
        row = np.int64(rows[j])
        begin, end = histories.starts[j], histories.starts[j + 1]
        read(p, b, row, room.old)
        problem = row_of(weights, end - begin, users)
        gain = solve_row(q, c, histories.others, histories.ratings, begin, end, task, problem, room)
        if gain == LEFT:
            gains[j] = 0.0
            continue
        gains[j] = gain
        for k in range(rank):
            p[row, k] = np.float32(room.new[k])
        b[row] = np.float32(room.new[rank])


@bare
def learn(
    p: Any,
    b: Any,
    q: Any,
    c: Any,
    batch: Any,
    task: Any,
    weights: Any,
    stepping: Any,
    of_users: Any,
    of_items: Any,
    room: Any,
    user: Any,
    item: Any,
    scored: Any,
) -> None:
    """Learn from *batch* in order, as `Kernels.sgd` says, and fill *scored*.

    *of_users* and *of_items* are `Moments`; *room*, *user* and *item* are worked on.
    """
    rank = p.shape[1]
    for j in range(batch.ratings.shape[0]):
        n, m, x = np.int64(batch.user_rows[j]), np.int64(batch.item_rows[j]), np.float64(batch.ratings[j])
        read(p, b, n, user.old)
        read(q, c, m, item.old)
        product = 0.0
        for k in range(rank):
            product += user.old[k] * item.old[k]
        score = task.intercept + user.old[rank] + item.old[rank] + product
        scored.user_biases[j], scored.item_biases[j], scored.products[j] = user.old[rank], item.old[rank], product
        set_rates(user.rate, batch.user_counts[j], task.biased, stepping)
        set_rates(item.rate, batch.item_counts[j], task.biased, stepping)
        folds = has_history(batch.user_histories, j), has_history(batch.item_histories, j)
        steep = steepness(x, score, task) * bound(x, score, user, item, folds, task, stepping)
        of_user = new_row(
            q,
            c,
            user,
            item.old,
            batch.user_histories,
            j,
            batch.user_counts[j],
            steep,
            task,
            weights,
            stepping,
            of_users,
            n,
            True,
            room,
        )
        of_item = new_row(
            p,
            b,
            item,
            user.old,
            batch.item_histories,
            j,
            batch.item_counts[j],
            steep,
            task,
            weights,
            stepping,
            of_items,
            m,
            False,
            room,
        )
        write(of_user, p, b, n, user, stepping, of_users)
        write(of_item, q, c, m, item, stepping, of_items)
        scored.errors[j] = np.float32(x - score) if of_user != BAD and of_item != BAD else NAN


@inlined
def has_history(histories: Any, j: Int) -> bool:
    """Whether event *j* folds its row in."""
    return histories.starts[j + 1] > histories.starts[j]


@inner
def read(factors: Any, biases: Any, row: Int, vector: Any) -> None:
    """Read a row, its bias last."""
    rank = factors.shape[1]
    for k in range(rank):
        vector[k] = factors[row, k]
    vector[rank] = biases[row]


@inner
def set_rates(rate: Any, count: Int, biased: bool, stepping: Any) -> None:
    """Set η of each number of a row that holds *count* ratings."""
    n = np.float64(max(count, 1))
    cooled = 1.0 / ((1.0 + stepping.decay * n) * n**stepping.power)
    rank = rate.shape[0] - 1
    for k in range(rank):
        rate[k] = stepping.rate * cooled
    rate[rank] = stepping.bias_rate * cooled if biased else 0.0


@inner
def steepness(x: float, score: float, task: Any) -> float:
    """Return ∂ℓ/∂s; NaN for an unrate, and where the score is not finite."""
    if not (math.isfinite(score) and math.isfinite(x)):
        return math.nan
    lower, upper = around(x, task.lowest, task.step, task.cuts)
    return slope(task.kind, x, score, lower, upper)


@inner
def bound(x: float, score: float, user: Any, item: Any, folds: Any, task: Any, stepping: Any) -> float:
    """Return by what the slope of an event's steps is multiplied, so that these take back at most half of the error."""
    if stepping.kind > MOMENTUM:
        return 1.0
    taken_back = 0.0
    if not folds[0]:
        taken_back += share(user.rate, item.old)
    if not folds[1]:
        taken_back += share(item.rate, user.old)
    if stepping.kind == MOMENTUM:
        taken_back /= 1.0 - stepping.beta1
    taken_back *= steepest(task.kind, x, score)
    return 1.0 if taken_back <= 0.5 else 0.5 / taken_back


@inlined
def share(rate: Any, other: Any) -> float:
    """Return what share of the error a row's step takes back: ``η |v|² + η_b``."""
    rank = rate.shape[0] - 1
    total = rate[rank]
    for k in range(rank):
        total += rate[k] * other[k] * other[k]
    return total


@inner
def new_row(
    q: Any,
    c: Any,
    mine: Any,
    other: Any,
    histories: Any,
    j: Int,
    count: Int,
    steep: float,
    task: Any,
    weights: Any,
    stepping: Any,
    moments: Any,
    row: Int,
    users: bool,
    room: Any,
) -> int:
    """Set ``mine.new`` to what event *j* makes of a row; *q* and *c* are the other side's tables. Return what happened to it."""
    if has_history(histories, j):
        begin, end = histories.starts[j], histories.starts[j + 1]
        copy(mine.old, room.old)
        gain = solve_row(q, c, histories.others, histories.ratings, begin, end, task, row_of(weights, end - begin, users), room)
        copy(room.new, mine.new)
        return BAD if gain == LEFT else SOLVED
    if not math.isfinite(steep):
        return KEPT
    problem = row_of(weights, 1, users)
    turn(mine, other, steep, problem, weights.weighted, moments, row, stepping)
    shrink(mine, problem, 1.0 if weights.weighted else 1.0 / max(count, 1), weights.weighted, task.nonnegative)
    for k in range(mine.new.shape[0]):
        if not math.isfinite(np.float32(mine.new[k])):
            return BAD
        if stepping.kind != PLAIN and not math.isfinite(np.float32(mine.first[k]) + np.float32(mine.second[k])):
            return BAD
    return STEPPED


@inner
def turn(mine: Any, other: Any, steep: float, problem: Any, weighted: bool, moments: Any, row: Int, stepping: Any) -> None:
    """Step against the gradient as the optimizer turns it; set ``mine.rate`` to the rate of each number that it took."""
    kind, rank = stepping.kind, mine.new.shape[0] - 1
    beta1, beta2 = stepping.beta1, stepping.beta2
    left1, left2 = 1.0, 1.0
    if kind == ADAM:
        t = np.float64(moments.steps[row] + 1)
        left1, left2 = 1.0 - beta1**t, 1.0 - beta2**t
    for k in range(rank + 1):
        g = steep * (other[k] if k < rank else 1.0)
        if weighted:
            g += (problem.ridge if k < rank else problem.bias_ridge) * mine.old[k]
        direction, mine.first[k], mine.second[k] = g, 0.0, 0.0
        if kind == MOMENTUM:
            direction = mine.first[k] = beta1 * moments.first[row, k] + g
        elif kind == ADAGRAD:
            mine.second[k] = moments.second[row, k] + g * g
            mine.rate[k] /= math.sqrt(mine.second[k]) + stepping.epsilon
        elif kind >= RMSPROP:
            mine.second[k] = beta2 * moments.second[row, k] + (1.0 - beta2) * g * g
            mine.rate[k] /= math.sqrt(mine.second[k] / left2) + stepping.epsilon
        if kind == ADAM:
            mine.first[k] = beta1 * moments.first[row, k] + (1.0 - beta1) * g
            direction = mine.first[k] / left1
        mine.new[k] = mine.old[k] - mine.rate[k] * direction


@inner
def shrink(mine: Any, problem: Any, weight: float, weighted: bool, nonnegative: bool) -> None:
    """Do what is proximal of a step: κ, then λ unless its gradient was in the step, then the constraint."""
    rank = mine.new.shape[0] - 1
    for k in range(rank + 1):
        number, rate = mine.new[k], mine.rate[k]
        if k < rank:
            number = soft(number, rate * weight * problem.lasso)
        if not weighted:
            number /= 1.0 + rate * weight * (problem.ridge if k < rank else problem.bias_ridge)
        if nonnegative and k < rank:
            number = max(number, 0.0)
        mine.new[k] = number


@inner
def write(what: int, factors: Any, biases: Any, row: Int, mine: Any, stepping: Any, moments: Any) -> None:
    """Write a row that was solved or stepped, and what its optimizer remembers of the step."""
    if what < SOLVED:
        return
    rank = factors.shape[1]
    for k in range(rank):
        factors[row, k] = np.float32(mine.new[k])
    biases[row] = np.float32(mine.new[rank])
    if what == SOLVED or stepping.kind == PLAIN:
        return
    for k in range(rank + 1):
        if stepping.kind == MOMENTUM or stepping.kind == ADAM:
            moments.first[row, k] = np.float32(mine.first[k])
        if stepping.kind != MOMENTUM:
            moments.second[row, k] = np.float32(mine.second[k])
    if stepping.kind == ADAM:
        moments.steps[row] += 1
