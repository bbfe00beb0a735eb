"""The kernels in plain numpy and float64: slow, and what every other set of kernels means. See `api.Kernels`.

A row is handled here as one vector ``w = [u, b]``: its factors, then its bias.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from factorstream.worker.kernels.api import F32, F64, I32, Batch, Histories, Penalty, Rates, Side

name = "reference"

SINGULAR = 1e-6
"""Directions of a row's problem that weigh less than this share of its heaviest hold nothing but the rounding of float32."""


def sgd(users: Side, items: Side, batch: Batch, *, intercept: float, penalty: Penalty, rates: Rates) -> F32:
    """Learn from *batch*, one event after another (`api.Kernels.sgd`)."""
    errors = np.full(len(batch.ratings), np.nan)
    for j, (user, item, rating) in enumerate(zip(batch.user_rows, batch.item_rows, batch.ratings, strict=True)):
        w, z = _row(users, user), _row(items, item)
        with np.errstate(all="ignore"):
            errors[j] = error = rating - (intercept + w[-1] + z[-1] + w[:-1] @ z[:-1])
            pull = error * _bound(w, z, batch, j, rates)
            new_w = _learned(
                w, z, pull, batch.user_counts[j], items, batch.user_histories, j, intercept, penalty, penalty.user, rates
            )
            new_z = _learned(
                z, w, pull, batch.item_counts[j], users, batch.item_histories, j, intercept, penalty, penalty.item, rates
            )
        stays = [not _write(users, user, new_w), not _write(items, item, new_z)]
        if any(stays):
            errors[j] = np.nan
    with np.errstate(over="ignore"):
        return errors.astype(np.float32)


def als(
    own: Side,
    other: Side,
    rows: I32,
    histories: Histories,
    *,
    intercept: float,
    penalty: float,
    bias_penalty: float,
    weighted: bool,
) -> F64:
    """Solve each of *rows* exactly (`api.Kernels.als`)."""
    gains = np.zeros(len(rows))
    for j, row in enumerate(rows):
        others, ratings = _history(histories, j)
        weight = len(ratings) if weighted else 1.0
        design, target = _problem(other, others, ratings, intercept, weight * penalty, weight * bias_penalty)
        old, new = _row(own, row), _solution(design, target)
        if _write(own, row, new):
            change = design @ (new - old)
            gains[j] = 0.5 * change @ change if np.isfinite(old).all() else np.inf
    return gains


def initialize(side: Side, first: int, stop: int, *, seed: int, stream: int, deviation: float) -> None:
    """Fill new rows (`api.Kernels.initialize`)."""
    rank = side.factors.shape[1]
    side.biases[first:stop] = 0
    for row in range(first, stop):
        key = splitmix64(splitmix64(splitmix64(seed) ^ stream) ^ row)
        for k in range(rank):
            bits = splitmix64(key + k // 2)
            radius = math.sqrt(-2 * math.log(((bits >> 32) + 1) / 2**32))
            angle = 2 * math.pi * (bits & 0xFFFFFFFF) / 2**32
            side.factors[row, k] = deviation * radius * (math.cos(angle) if k % 2 == 0 else math.sin(angle))


def splitmix64(counter: int) -> int:
    """Return 64 random bits for *counter*.

    Source: Steele, Lea and Flood, OOPSLA 2014; Vigna's constants.
    """
    mask = 2**64 - 1
    bits = (counter + 0x9E3779B97F4A7C15) & mask
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & mask
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & mask
    return bits ^ (bits >> 31)


def _row(side: Side, row: int) -> F64:
    """Return ``[u, b]``."""
    return np.append(side.factors[row].astype(np.float64), side.biases[row])


def _write(side: Side, row: int, new: F64 | None) -> bool:
    """Write ``[u, b]`` if every number is one that float32 holds; return whether it was; None changes nothing and is well."""
    if new is None:
        return True
    with np.errstate(over="ignore"):
        narrow = new.astype(np.float32)
    if not np.isfinite(narrow).all():
        return False
    side.factors[row], side.biases[row] = narrow[:-1], narrow[-1]
    return True


def _history(histories: Histories, j: int) -> tuple[I32, F32]:
    """Return the other rows and ratings of entry *j*."""
    entry = slice(histories.starts[j], histories.starts[j + 1])
    return histories.others[entry], histories.ratings[entry]


def _learned(
    w: F64,
    z: F64,
    error: float,
    count: int,
    other: Side,
    histories: Histories,
    j: int,
    intercept: float,
    penalty: Penalty,
    factor_penalty: float,
    rates: Rates,
) -> F64 | None:
    """Return what event *j* makes of row *w*, whose rating is by row *z* of *other*; None when nothing."""
    others, ratings = _history(histories, j)
    if len(ratings):
        weight = len(ratings) if penalty.weighted else 1.0
        return _solution(*_problem(other, others, ratings, intercept, weight * factor_penalty, weight * penalty.bias))
    if not np.isfinite(error):
        return None
    rate = _by_column(rates.factors, rates.biases, len(w)) / (1 + rates.decay * count)
    weights = _by_column(factor_penalty, penalty.bias, len(w))
    downhill = error * np.append(z[:-1], 1)
    if penalty.weighted:
        return w + rate * (downhill - weights * w)
    return (w + rate * downhill) / (1 + rate * weights / max(count, 1))


def _bound(w: F64, z: F64, batch: Batch, j: int, rates: Rates) -> float:
    """Return by what the error of event *j*'s steps is multiplied, so that these take back at most half of it."""
    taken_back = 0.0
    for histories, count, other in (
        (batch.user_histories, batch.user_counts[j], z),
        (batch.item_histories, batch.item_counts[j], w),
    ):
        if not len(_history(histories, j)[0]):
            taken_back += (rates.factors * other[:-1] @ other[:-1] + rates.biases) / (1 + rates.decay * max(count, 1))
    return 1.0 if taken_back <= 0.5 else 0.5 / taken_back


def _by_column(factor: float, bias: float, size: int) -> F64:
    """Return one number for each factor, another for the bias."""
    return np.append(np.full(size - 1, factor), bias)


def _problem(other: Side, others: I32, ratings: F32, intercept: float, penalty: float, bias_penalty: float) -> tuple[F64, F64]:
    """Return A and y such that the objective over one row is ``½ |A w − y|²``."""
    rank = other.factors.shape[1]
    design = np.column_stack([other.factors[others].astype(np.float64), np.ones(len(others))])
    target = ratings.astype(np.float64) - intercept - other.biases[others]
    roots = np.sqrt(_by_column(penalty, bias_penalty, rank + 1))
    return np.vstack([design, np.diag(roots)]), np.append(target, np.zeros(rank + 1))


def _solution(design: F64, target: F64) -> F64:
    """Return the ``w`` of minimum norm among the minimisers of ``½ |A w − y|²``; NaN where the problem is not finite."""
    if not (np.isfinite(design).all() and np.isfinite(target).all()):
        return np.full(design.shape[1], np.nan)
    return cast(F64, np.linalg.lstsq(design, target, rcond=SINGULAR)[0])
