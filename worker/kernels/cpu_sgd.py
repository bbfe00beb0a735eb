"""Stochastic gradient descent, compiled: one rating after another, the rows of the next ones on their way from memory."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from factorstream.worker.kernels.compiled import Int, bare, inlined, inner
from factorstream.worker.kernels.cpu_fold import fold_in, padded
from factorstream.worker.kernels.simd import add_scaled, ask_for, can_step, dot_and_norms, step_pair, take_number

AHEAD = 8
"""Ratings between asking for rows and using them: 8 to 32 are equally fast at K = 64."""

SOON = 2
"""The same in events that fold in, which take longer."""

HUGE = np.float32(1e30)
"""Where all that makes a step is below it, its result is finite."""

ONE, HALF, NAN = np.float32(1), np.float32(0.5), np.float32(np.nan)


class Penalty(NamedTuple):
    """λ of least squares."""

    user: Any
    item: Any
    bias: Any
    weighted: Any


class Rates(NamedTuple):
    """Step sizes: a row with n ratings steps by ``rate / (1 + decay * n)``."""

    factors: Any
    biases: Any
    decay: Any


class RowRates(NamedTuple):
    """A row's step sizes."""

    factors: Any
    biases: Any


class Step(NamedTuple):
    """A row's move, from both rows' old values: ``u ← keep u + step v``, ``b ← bias_keep b + bias_step``."""

    keep: Any
    step: Any
    bias_keep: Any
    bias_step: Any


@bare
def learn_apart(
    users: Any,
    items: Any,
    batch: Any,
    apart: Any,
    taken: Any,
    reached: Any,
    intercept: Any,
    penalty: Any,
    rates: Any,
    room: Any,
    scored: Any,
) -> None:
    """Do `learn` with parts of *batch*, from ``apart[part]`` to ``apart[part + 1]``, and say in *reached* what it returned.

    Parts are taken from *taken*, a counter that threads share.
    """
    part = take_number(taken)
    while part < len(reached):
        reached[part] = learn(users, items, batch, apart[part], apart[part + 1], intercept, penalty, rates, room, scored)
        part = take_number(taken)


@bare
def learn(
    users: Any, items: Any, batch: Any, first: int, n: int, intercept: Any, penalty: Any, rates: Any, room: Any, scored: Any
) -> int:
    """Learn from *batch* in order, from event *first* to before event *n*, as `Kernels.sgd` says, and fill *scored*.

    Returns the event it stopped before, since its fold-in needs more than float32, or *n*.
    Tables and prior means are flat; *room* is scratch for the longest history.
    """
    while first < n:
        stop = next_history(batch, first, n)
        if stop > first:
            step_all(
                users.factors, users.biases, items.factors, items.biases, batch, first, stop, n, intercept, penalty, rates, scored
            )
        if stop + SOON < n:
            ask_event(users.factors, users.biases, items.factors, items.biases, batch, stop + SOON)
        if stop == n or not fold(
            users.factors, users.biases, items.factors, items.biases, batch, stop, intercept, penalty, rates, room, scored
        ):
            return stop
        first = stop + 1
    return n


@inlined
def next_history(batch: Any, first: int, n: int) -> int:
    """Return the next event from *first* on that folds a row in, or *n*."""
    while first < n and not has_history(batch.user_histories, first) and not has_history(batch.item_histories, first):
        first += 1
    return first


@inlined
def has_history(histories: Any, j: Int) -> bool:
    """Whether event *j* folds its row in."""
    return histories.starts[np.uint64(j + 1)] > histories.starts[np.uint64(j)]


@inner
def step_all(
    p: Any,
    b: Any,
    q: Any,
    c: Any,
    batch: Any,
    first: int,
    stop: int,
    n: int,
    intercept: Any,
    penalty: Any,
    rates: Any,
    scored: Any,
) -> None:
    """Step both rows of each event from *first* to *stop*, none of which folds a row in; *n* ends what is learned here."""
    rank = p.shape[0] // b.shape[0]
    for t in range(first, stop):
        if t + AHEAD < n:
            ask(p, b, batch.user_rows[np.uint64(t + AHEAD)], rank)
            ask(q, c, batch.item_rows[np.uint64(t + AHEAD)], rank)
        j = np.uint64(t)
        user, item = np.uint64(batch.user_rows[j]), np.uint64(batch.item_rows[j])
        p_at, q_at = np.int64(user) * rank, np.int64(item) * rank
        bias, item_bias = b[user], c[item]
        product, user_norm, item_norm = dot_and_norms(p, p_at, q, q_at, rank)
        error = batch.ratings[j] - (intercept + bias + item_bias + product)
        user_rates, item_rates = rates_of(batch.user_counts[j], rates), rates_of(batch.item_counts[j], rates)
        taken_back = share(user_rates, item_norm) + share(item_rates, user_norm)
        pull = bounded(error, taken_back)
        up = step_of(pull, batch.user_counts[j], penalty.user, penalty.bias, penalty.weighted, user_rates)
        down = step_of(pull, batch.item_counts[j], penalty.item, penalty.bias, penalty.weighted, item_rates)
        new_bias, new_item_bias = up.bias_keep * bias + up.bias_step, down.bias_keep * item_bias + down.bias_step
        if has_means(batch.user_means):
            mean_at = t * (rank + 1)
            new_bias += (ONE - up.bias_keep) * batch.user_means[np.uint64(mean_at + rank)]
            new_item_bias += (ONE - down.bias_keep) * batch.item_means[np.uint64(mean_at + rank)]
        size = abs(up.keep) + abs(up.step) + abs(down.keep) + abs(down.step) + abs(new_bias) + abs(new_item_bias)
        if size + user_norm + item_norm < HUGE:
            step_pair(p, p_at, q, q_at, rank, up.keep, up.step, down.keep, down.step)
            b[user], c[item] = new_bias, new_item_bias
            if has_means(batch.user_means):
                add_scaled(p, p_at, ONE - up.keep, batch.user_means, t * (rank + 1), rank)
                add_scaled(q, q_at, ONE - down.keep, batch.item_means, t * (rank + 1), rank)
        elif not step_carefully(p, b, np.int64(user), up, q, c, np.int64(item), down, rank):
            error = NAN
        scored.errors[j], scored.user_biases[j], scored.item_biases[j], scored.products[j] = error, bias, item_bias, product


@inlined
def has_means(means: Any) -> bool:
    """Whether events have prior means other than zero."""
    return means.shape[0] > 0


@inner
def step_carefully(p: Any, b: Any, user: Int, up: Step, q: Any, c: Any, item: Int, down: Step, rank: int) -> bool:
    """Step both rows of an event, or one, or none, so that all stay finite; return whether both stepped."""
    user_moves = may_step(p, b, user, q, item, rank, up)
    item_moves = may_step(q, c, item, p, user, rank, down)
    if user_moves and item_moves:
        step_pair(p, user * rank, q, item * rank, rank, up.keep, up.step, down.keep, down.step)
        b[user] = up.bias_keep * b[user] + up.bias_step
        c[item] = down.bias_keep * c[item] + down.bias_step
    elif user_moves:
        step_row(p, b, user, q, item, rank, up)
    elif item_moves:
        step_row(q, c, item, p, user, rank, down)
    return user_moves and item_moves


@inlined
def ask_event(p: Any, b: Any, q: Any, c: Any, batch: Any, j: Int) -> None:
    """Ask for all rows that event *j* needs."""
    rank = p.shape[0] // b.shape[0]
    ask(p, b, batch.user_rows[j], rank)
    ask(q, c, batch.item_rows[j], rank)
    for h in range(batch.user_histories.starts[j], batch.user_histories.starts[j + 1]):
        ask(q, c, batch.user_histories.others[h], rank)
    for h in range(batch.item_histories.starts[j], batch.item_histories.starts[j + 1]):
        ask(p, b, batch.item_histories.others[h], rank)


@inlined
def ask(factors: Any, biases: Any, row: Int, rank: int) -> None:
    """Ask for a row and its bias."""
    ask_for(factors, np.int64(row) * rank, rank)
    ask_for(biases, np.int64(row), 1)


@inlined
def rates_of(count: int, rates: Any) -> RowRates:
    """Return the rates of a row that holds *count* ratings."""
    if rates.decay > 0:
        cooled = ONE / (ONE + rates.decay * np.float32(max(count, 1)))
        return RowRates(rates.factors * cooled, rates.biases * cooled)
    return RowRates(rates.factors, rates.biases)


@inlined
def share(rates: RowRates, other_norm: Any) -> Any:
    """Return what share of the error a row's step takes back: ``η |v|² + η_b``."""
    return rates.factors * other_norm + rates.biases


@inlined
def bounded(error: Any, taken_back: Any) -> Any:
    """Return the error to step by: of the whole one, at most half is taken back at once."""
    return error if taken_back <= HALF else error * (HALF / taken_back)


@inlined
def step_of(error: Any, count: int, penalty: Any, bias_penalty: Any, weighted: bool, rates: RowRates) -> Step:
    """Return the gradient step of a row that holds *count* ratings; proximal when the penalty is not weighted by them."""
    n = np.float32(max(count, 1))
    rate, bias_rate = rates.factors, rates.biases
    if weighted:
        return Step(ONE - rate * penalty, rate * error, ONE - bias_rate * bias_penalty, bias_rate * error)
    keep, bias_keep = n / (n + rate * penalty), n / (n + bias_rate * bias_penalty)
    return Step(keep, keep * rate * error, bias_keep, bias_keep * bias_rate * error)


@inlined
def may_step(own: Any, biases: Any, row: Int, other: Any, other_row: Int, rank: int, step: Step) -> bool:
    """Whether a row that steps stays finite (it does not when the event's error is not)."""
    fine = math.isfinite(step.bias_keep * biases[row] + step.bias_step)
    return fine and can_step(own, row * rank, other, other_row * rank, rank, step.keep, step.step)


@inlined
def step_row(own: Any, biases: Any, row: Int, other: Any, other_row: Int, rank: int, step: Step) -> None:
    """Step one row, and leave the other's as it is."""
    for k in range(rank):
        own[row * rank + k] = step.keep * own[row * rank + k] + step.step * other[other_row * rank + k]
    biases[row] = step.bias_keep * biases[row] + step.bias_step


@inlined
def fold(
    p: Any, b: Any, q: Any, c: Any, batch: Any, j: Int, intercept: Any, penalty: Any, rates: Any, room: Any, scored: Any
) -> bool:
    """Solve the rows of event *j* that come with their history, and step the other; return whether float32 was good enough.

    Both are solved before anything is written: each against the other side as it was before the event.
    """
    rank = p.shape[0] // b.shape[0]
    user, item = np.int64(batch.user_rows[j]), np.int64(batch.item_rows[j])
    fold_user, fold_item = has_history(batch.user_histories, j), has_history(batch.item_histories, j)
    if fold_user and not solve(
        q, c, rank, batch.user_histories, batch.user_means, j, intercept, penalty.user, penalty, room, room.new_user
    ):
        return False
    if fold_item and not solve(
        p, b, rank, batch.item_histories, batch.item_means, j, intercept, penalty.item, penalty, room, room.new_item
    ):
        return False
    product, user_norm, item_norm = dot_and_norms(p, user * rank, q, item * rank, rank)
    bias, item_bias = b[user], c[item]
    error = batch.ratings[j] - (intercept + bias + item_bias + product)
    user_rates, item_rates = rates_of(batch.user_counts[j], rates), rates_of(batch.item_counts[j], rates)
    taken_back = np.float32(0)
    if not fold_user:
        taken_back += share(user_rates, item_norm)
    if not fold_item:
        taken_back += share(item_rates, user_norm)
    pull = bounded(error, taken_back)
    up = step_of(pull, batch.user_counts[j], penalty.user, penalty.bias, penalty.weighted, user_rates)
    down = step_of(pull, batch.item_counts[j], penalty.item, penalty.bias, penalty.weighted, item_rates)
    user_moves = fold_user or may_step(p, b, user, q, item, rank, up)
    item_moves = fold_item or may_step(q, c, item, p, user, rank, down)
    if user_moves and not fold_user:
        step_row(p, b, user, q, item, rank, up)
        if has_means(batch.user_means):
            pull_row(p, b, user, rank, up, batch.user_means, j)
    if item_moves and not fold_item:
        step_row(q, c, item, p, user, rank, down)
        if has_means(batch.item_means):
            pull_row(q, c, item, rank, down, batch.item_means, j)
    if fold_user:
        put(room.new_user, rank, p, b, user)
    if fold_item:
        put(room.new_item, rank, q, c, item)
    scored.errors[j] = error if user_moves and item_moves else NAN
    scored.user_biases[j], scored.item_biases[j], scored.products[j] = bias, item_bias, product
    return True


@inlined
def pull_row(factors: Any, biases: Any, row: Int, rank: int, step: Step, means: Any, j: Int) -> None:
    """Add to a row that kept a share of what it was the rest of its prior mean."""
    add_scaled(factors, row * rank, ONE - step.keep, means, j * (rank + 1), rank)
    biases[row] += (ONE - step.bias_keep) * means[j * (rank + 1) + rank]


@inlined
def solve(
    factors: Any,
    biases: Any,
    rank: int,
    histories: Any,
    means: Any,
    j: Int,
    intercept: Any,
    penalty: Any,
    penalties: Any,
    room: Any,
    new: Any,
) -> bool:
    """Solve the row whose history event *j* carries into *new*; return whether float32 was good enough."""
    begin, end = histories.starts[j], histories.starts[j + 1]
    weight = np.float32(end - begin) if penalties.weighted else ONE
    others, ratings = histories.others, histories.ratings
    return fold_in(
        factors,
        biases,
        rank,
        others,
        ratings,
        begin,
        end,
        means,
        j * (rank + 1),
        intercept,
        weight * penalty,
        weight * penalties.bias,
        room,
        new,
    )


@inlined
def put(new: Any, rank: int, factors: Any, biases: Any, row: Int) -> None:
    """Write a solved row to its table."""
    for k in range(rank):
        factors[row * rank + k] = new[k]
    biases[row] = new[padded(rank)]
