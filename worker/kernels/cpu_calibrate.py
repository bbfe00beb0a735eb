"""The calibrator, compiled: a correction of each score and a step of recursive least squares, one rating after another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from factorstream.worker.kernels import terms
from factorstream.worker.kernels.compiled import Int, bare, inlined, prefetch
from factorstream.worker.kernels.simd_terms import dot_terms, take_square, weigh_rows
from factorstream.worker.kernels.terms import (
    BURST,
    BURST_MS,
    DAY,
    DAY_MS,
    FIVE,
    FIVE_BY_ITEM_BIAS,
    FIVE_BY_ITEM_COUNT,
    FIVE_BY_USER_BIAS,
    HOUR,
    HOUR_MS,
    I_DAY,
    I_HOUR,
    I_TWENTY,
    ITEM_BIAS,
    ITEM_BIAS_WHILE_SHORT,
    ITEM_COUNT,
    ITEM_IS_NEW,
    KEEP_FIVE,
    KEEP_THIRTY,
    KEEP_TWENTY,
    LEVEL,
    MINUTE,
    MINUTE_MS,
    MOST,
    MOST_PART,
    N_TERMS,
    NOISE_PSEUDO_COUNT,
    NOISE_SHARE,
    PRODUCT,
    STEADY_BURST,
    STEADY_FIVE,
    THIRTY,
    THIRTY_BY_ITEM_COUNT,
    TWENTY,
    TYPICAL_COUNT,
    U_BURST,
    U_FIVE,
    U_LAGGED,
    U_LAST,
    U_MINUTE,
    U_POWER,
    U_RESIDUALS,
    U_THIRTY,
    USER_BIAS,
    USER_BIAS_WHILE_SHORT,
    USER_COUNT,
    USER_IS_NEW,
    USER_NOISE,
    WANDER,
)

OF_BURST, OF_MINUTE, OF_FIVE, OF_THIRTY = (terms.PSEUDO_COUNTS[name] for name in ("burst", "minute", "five", "thirty"))
OF_HOUR, OF_DAY, OF_TWENTY, OF_STEADY = (terms.PSEUDO_COUNTS[name] for name in ("hour", "day", "twenty", "steady"))
HUGE = 1e30
AHEAD = 4
"""Ratings between asking for rows and using them."""
GROWN = np.log1p(np.arange(1024)) / 5
"""What most rows' numbers of ratings are made into."""


@bare
def calibrate(memory: Any, scored: Any, batch: Any, times: Any, spread: float, first: Any, room: Any, errors: Any) -> None:
    """Fill *errors* and learn, as `api.Kernels.calibrate` says.

    *first* are the weights' first variances; *room* is scratch, ``(2, N_TERMS)``.
    """
    g, gain, unit = room[0], room[1], 1 / spread
    last = len(batch.user_rows) - 1
    for j in range(len(batch.user_rows)):
        ask(memory, np.int64(batch.user_rows[min(j + AHEAD, last)]), np.int64(batch.item_rows[min(j + AHEAD, last)]))
        error = np.float64(scored.errors[j])
        errors[j] = scored.errors[j]
        b, c, d = np.float64(scored.user_biases[j]), np.float64(scored.item_biases[j]), np.float64(scored.products[j])
        if not abs(error) + abs(b) + abs(c) + abs(d) < HUGE:
            continue
        user, item, now = np.int64(batch.user_rows[j]), np.int64(batch.item_rows[j]), times[j]
        n, m = max(batch.user_counts[j] - 1, 0), max(batch.item_counts[j] - 1, 0)
        whole = error + b + c + d
        u, i = memory.users[user], memory.items[item]
        age_user(u, now, memory.user_ms[user])
        age_item(i, now, memory.item_ms[item])
        fill_terms(g, u, i, n, m, b * unit, c * unit, d * unit, unit, memory.noise[0])
        errors[j] = whole - spread * correct(memory, g, whole * unit, first, gain)
        remember(u, i, within(error * unit, MOST), b * unit, c * unit, spread)
        memory.user_ms[user] = max(memory.user_ms[user], now)
        memory.item_ms[item] = max(memory.item_ms[item], now)
        memory.newest_ms[0] = max(memory.newest_ms[0], now)


@inlined
def ask(memory: Any, user: Int, item: Int) -> None:
    """Ask for the memory of two rows."""
    of_user, of_item = user * memory.users.shape[1], item * memory.items.shape[1]
    prefetch(memory.users, of_user)
    prefetch(memory.users, of_user + memory.users.shape[1] - 1)  # a row may begin in one line and end in the next
    prefetch(memory.items, of_item)
    prefetch(memory.items, of_item + memory.items.shape[1] - 1)
    prefetch(memory.user_ms, user)
    prefetch(memory.item_ms, item)


@inlined
def within(number: float, most: float) -> float:
    """Return *number*, or the nearest that is not above *most*."""
    return min(max(number, -most), most)


@inlined
def age_user(u: Any, now: Int, then: Int) -> None:
    """Let time pass for a user's sums."""
    passed = now - then
    if passed > BURST_MS:
        u[U_BURST] = 0
        u[U_BURST + 1] = 0
    if passed > 0:
        kept = math.exp(-passed / MINUTE_MS)
        u[U_MINUTE] *= kept
        u[U_MINUTE + 1] *= kept


@inlined
def age_item(i: Any, now: Int, then: Int) -> None:
    """Let time pass for an item's sums."""
    passed = now - then
    if passed > 0:
        hour, day = math.exp(-passed / HOUR_MS), math.exp(-passed / DAY_MS)
        i[I_HOUR] *= hour
        i[I_HOUR + 1] *= hour
        i[I_DAY] *= day
        i[I_DAY + 1] *= day


@inlined
def mean(sums: Any, at: int, bias: float, pseudo_count: float, unit: float) -> float:
    """Return a mean of residuals, in spreads, of which *unit* is the inverse; *bias* likewise."""
    total, weight = np.float64(sums[at]) * unit, np.float64(sums[at + 1])
    return within((total - bias * weight) / (weight + pseudo_count), MOST)


@inlined
def grown(count: Int) -> float:
    """Return log(1 + *count*) / 5."""
    return GROWN[count] if count < len(GROWN) else math.log1p(count) / 5


@inlined
def fill_terms(g: Any, u: Any, i: Any, n: Int, m: Int, b: float, c: float, d: float, unit: float, noise: float) -> None:
    """Fill *g*; b, c and d are in spreads, of which *unit* is the inverse, *noise* in squared ones."""
    b, c, d = within(b, MOST_PART), within(c, MOST_PART), within(d, MOST_PART)
    g[LEVEL] = 1
    g[PRODUCT], g[USER_BIAS], g[ITEM_BIAS] = d, b, c
    own_noise = (u[U_POWER] + NOISE_PSEUDO_COUNT * noise) / (u[U_RESIDUALS] + NOISE_PSEUDO_COUNT)
    g[USER_NOISE] = within(own_noise - noise, MOST)
    g[USER_BIAS_WHILE_SHORT] = b / (1 + n / 5.0)
    g[ITEM_BIAS_WHILE_SHORT] = c / (1 + m / 5.0)
    g[USER_COUNT], g[USER_IS_NEW] = grown(n), 1 / (1.0 + n)
    g[ITEM_COUNT], g[ITEM_IS_NEW] = grown(m), 1 / (1.0 + m)
    g[BURST] = mean(u, U_BURST, b, OF_BURST, unit)
    g[MINUTE] = mean(u, U_MINUTE, b, OF_MINUTE, unit)
    g[FIVE] = mean(u, U_FIVE, b, OF_FIVE, unit)
    g[THIRTY] = mean(u, U_THIRTY, b, OF_THIRTY, unit)
    steadiness = u[U_LAGGED] / (u[U_POWER] + OF_STEADY)
    g[STEADY_BURST], g[STEADY_FIVE] = steadiness * g[BURST], steadiness * g[FIVE]
    g[FIVE_BY_USER_BIAS], g[FIVE_BY_ITEM_BIAS] = b * g[FIVE], c * g[FIVE]
    g[FIVE_BY_ITEM_COUNT] = (g[ITEM_COUNT] - TYPICAL_COUNT) * g[FIVE]
    g[THIRTY_BY_ITEM_COUNT] = (g[ITEM_COUNT] - TYPICAL_COUNT) * g[THIRTY]
    g[HOUR] = mean(i, I_HOUR, c, OF_HOUR, unit)
    g[DAY] = mean(i, I_DAY, c, OF_DAY, unit)
    g[TWENTY] = mean(i, I_TWENTY, c, OF_TWENTY, unit)


@inlined
def correct(memory: Any, g: Any, target: float, first: Any, gain: Any) -> float:
    """Return ``Σ w g``; then take a step of recursive least squares towards *target*."""
    weights, covariance = memory.weights, memory.covariance
    found = dot_terms(weights, g)
    for k in range(N_TERMS):
        if covariance[k, k] < first[k]:
            covariance[k, k] += WANDER * first[k]
    weigh_rows(covariance, g, gain)  # it is symmetric
    error = within(target - found, MOST)
    memory.noise[0] += NOISE_SHARE * (error * error - memory.noise[0])
    variance = memory.noise[0] + dot_terms(gain, g)
    if not memory.noise[0] < variance < HUGE:  # rounding has used the covariance up
        for r in range(N_TERMS):
            for k in range(N_TERMS):
                covariance[r, k] = first[r] if r == k else 0.0
        return found
    step, root = error / variance, 1 / math.sqrt(variance)
    for k in range(N_TERMS):
        weights[k] += gain[k] * step
        gain[k] *= root
    take_square(covariance, gain)
    return found


@inlined
def remember(u: Any, i: Any, residual: float, b: float, c: float, spread: float) -> None:
    """Add a rating's residual to the sums of both rows; it and the biases are in spreads."""
    of_user = (residual + within(b, MOST_PART)) * spread
    of_item = (residual + within(c, MOST_PART)) * spread
    u[U_FIVE] *= KEEP_FIVE
    u[U_FIVE + 1] *= KEEP_FIVE
    u[U_THIRTY] *= KEEP_THIRTY
    u[U_THIRTY + 1] *= KEEP_THIRTY
    i[I_TWENTY] *= KEEP_TWENTY
    i[I_TWENTY + 1] *= KEEP_TWENTY
    for at in (U_BURST, U_MINUTE, U_FIVE, U_THIRTY):
        u[at] += of_user
        u[at + 1] += 1
    for at in (I_HOUR, I_DAY, I_TWENTY):
        i[at] += of_item
        i[at + 1] += 1
    u[U_LAGGED] += residual * u[U_LAST]
    u[U_POWER] += residual * residual
    u[U_LAST] = residual
    u[U_RESIDUALS] += 1
