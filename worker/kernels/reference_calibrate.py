"""The calibrator in plain numpy: what `cpu_calibrate` means."""

from __future__ import annotations

import math

import numpy as np

from factorstream.worker.kernels import terms
from factorstream.worker.kernels.api import F32, F64, I64, Batch, Scored
from factorstream.worker.kernels.terms import Memory

HUGE = 1e30


def calibrate(memory: Memory, scored: Scored, batch: Batch, timestamps_ms: I64, *, spread: float) -> F32:
    """Correct each score, then learn from its rating (`api.Kernels.calibrate`)."""
    errors = scored.errors.copy()
    for j, (user, item, now) in enumerate(zip(batch.user_rows, batch.item_rows, timestamps_ms, strict=True)):
        b, c, d = (float(column[j]) for column in scored[1:])
        if not abs(float(errors[j])) + abs(b) + abs(c) + abs(d) < HUGE:
            continue
        whole = float(errors[j]) + b + c + d
        counts = tuple(max(int(column[j]) - 1, 0) for column in (batch.user_counts, batch.item_counts))
        u, i = memory.users[user], memory.items[item]
        _age(u, i, now - memory.user_ms[user], now - memory.item_ms[item])
        parts = np.clip(np.array([b, c, d]) / spread, -terms.MOST_PART, terms.MOST_PART)
        g = _terms(u, i, counts, parts, spread, float(memory.noise[0]))
        errors[j] = whole - spread * _correct(memory, g, whole / spread)
        residual = _within((whole - b - c - d) / spread)
        _remember_user(u, residual, residual * spread + np.clip(b, -terms.MOST_PART * spread, terms.MOST_PART * spread))
        _remember_item(i, residual * spread + np.clip(c, -terms.MOST_PART * spread, terms.MOST_PART * spread))
        for times, at in ((memory.user_ms, user), (memory.item_ms, item), (memory.newest_ms, 0)):
            times[at] = max(times[at], now)
    return errors


def _within(number: float) -> float:
    return float(np.clip(number, -terms.MOST, terms.MOST))


def _age(u: F32, i: F32, since_user: int, since_item: int) -> None:
    """Let time pass for both rows' sums."""
    if since_user > terms.BURST_MS:
        u[terms.U_BURST : terms.U_BURST + 2] = 0
    u[terms.U_MINUTE : terms.U_MINUTE + 2] *= math.exp(-max(since_user, 0) / terms.MINUTE_MS)
    i[terms.I_HOUR : terms.I_HOUR + 2] *= math.exp(-max(since_item, 0) / terms.HOUR_MS)
    i[terms.I_DAY : terms.I_DAY + 2] *= math.exp(-max(since_item, 0) / terms.DAY_MS)


def _mean(sums: F32, at: int, bias: float, pseudo_count: float, spread: float) -> float:
    total, weight = float(sums[at]) / spread, float(sums[at + 1])
    return _within((total - bias * weight) / (weight + pseudo_count))


def _terms(u: F32, i: F32, counts: tuple[int, ...], parts: F64, spread: float, noise: float) -> F64:
    """Return g."""
    (n, m), (b, c, d), pseudo = counts, parts, terms.PSEUDO_COUNTS
    popularity = math.log1p(m) / 5
    burst, minute, five, thirty = (
        _mean(u, at, b, pseudo[name], spread)
        for at, name in (
            (terms.U_BURST, "burst"),
            (terms.U_MINUTE, "minute"),
            (terms.U_FIVE, "five"),
            (terms.U_THIRTY, "thirty"),
        )
    )
    recent = [
        _mean(i, at, c, pseudo[name], spread)
        for at, name in ((terms.I_HOUR, "hour"), (terms.I_DAY, "day"), (terms.I_TWENTY, "twenty"))
    ]
    steadiness = float(u[terms.U_LAGGED]) / (float(u[terms.U_POWER]) + pseudo["steady"])
    of_counts = [math.log1p(n) / 5, 1 / (1 + n), popularity, 1 / (1 + m)]
    own_noise = (float(u[terms.U_POWER]) + terms.NOISE_PSEUDO_COUNT * noise) / (
        float(u[terms.U_RESIDUALS]) + terms.NOISE_PSEUDO_COUNT
    )
    static = [1.0, d, b, c, _within(own_noise - noise), b / (1 + n / 5), c / (1 + m / 5), *of_counts]
    session = [burst, minute, five, thirty, steadiness * burst, steadiness * five, b * five, c * five]
    by_popularity = [(popularity - terms.TYPICAL_COUNT) * five, (popularity - terms.TYPICAL_COUNT) * thirty]
    return np.array([*static, *session, *by_popularity, *recent])


def _correct(memory: Memory, g: F64, target: float) -> float:
    """Return ``Σ w g``; then take a step of recursive least squares towards *target*."""
    first = terms.first_variances()
    found = float(memory.weights @ g)
    memory.covariance[:] += np.diag(np.where(np.diag(memory.covariance) < first, terms.WANDER * first, 0.0))
    gain = memory.covariance @ g
    error = _within(target - found)
    memory.noise[:] += terms.NOISE_SHARE * (error**2 - memory.noise)
    variance = memory.noise[0] + gain @ g
    if not memory.noise[0] < variance < HUGE:
        memory.covariance[:] = np.diag(first)
        return found
    memory.weights[:] += gain * error / variance
    memory.covariance[:] -= np.outer(gain, gain) / variance
    return found


def _remember_user(u: F32, residual: float, own: float) -> None:
    """Add to a user's sums a rating's *residual* (in spreads), *own*: with the user's bias left in."""
    u[terms.U_FIVE : terms.U_FIVE + 2] *= terms.KEEP_FIVE
    u[terms.U_THIRTY : terms.U_THIRTY + 2] *= terms.KEEP_THIRTY
    for at in (terms.U_BURST, terms.U_MINUTE, terms.U_FIVE, terms.U_THIRTY):
        u[at : at + 2] += (own, 1)
    u[terms.U_LAGGED] += residual * u[terms.U_LAST]
    u[terms.U_POWER] += residual**2
    u[terms.U_LAST] = residual
    u[terms.U_RESIDUALS] += 1


def _remember_item(i: F32, own: float) -> None:
    """The same for an item."""
    i[terms.I_TWENTY : terms.I_TWENTY + 2] *= terms.KEEP_TWENTY
    for at in (terms.I_HOUR, terms.I_DAY, terms.I_TWENTY):
        i[at : at + 2] += (own, 1)
