"""Posteriors of rows in plain numpy and float64: slow, and what every other set of kernels means. See `beliefs.Filters`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from factorstream.worker.kernels.api import F32, F64, I32, Batch, Histories, Side
from factorstream.worker.kernels.beliefs import MEETINGS, Beliefs, Foreseen, Prior, Smoothed

name = "reference"


class Equations(NamedTuple):
    """A row of `Beliefs.equations`."""

    matrix: F64
    """``Σ E[x xᵀ]``, ``(D, D)``."""
    right: F64
    """``Σ E[x y]``, ``(D,)``."""
    met: F64
    """``(D,)``."""
    center: float


class Outlook(NamedTuple):
    """A row of `Beliefs.outlook`."""

    variances: F64
    """Of the factors, ``(K,)``."""
    covariances: F64
    """Of these with the bias, ``(K,)``."""
    bias_variance: float
    effects: F64
    """``(D,)``."""


class Posterior(NamedTuple):
    """A row, solved."""

    mean: F64
    covariance: F64
    prior_mean: F64
    prior_variances: F64


def hold(beliefs: Beliefs, n: int) -> Beliefs:
    """Return *beliefs*: these kernels learn on the host."""
    return beliefs


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
    foreseen = Foreseen(*np.full((5, len(batch.ratings)), np.nan))
    sides = ((users, user_beliefs, user_prior), (items, item_beliefs, item_prior))
    for j, rating in enumerate(batch.ratings.astype(np.float64)):
        events = (
            (int(batch.user_rows[j]), int(batch.user_counts[j]), _history(batch.user_histories, j)),
            (int(batch.item_rows[j]), int(batch.item_counts[j]), _history(batch.item_histories, j)),
        )
        w, z = _row(users, events[0][0]), _row(items, events[1][0])
        with np.errstate(all="ignore"):
            product = w[:-1] @ z[:-1]
            error = rating - (intercept + w[-1] + z[-1] + product)
            variance = noise + _uncertainty(w, z, user_beliefs, item_beliefs, events[0][0], events[1][0])
            new = [_learned(sides[s], sides[1 - s], events[s], events[1 - s][0], rating, intercept, noise) for s in (0, 1)]
        for side, event, learned in zip(sides, events, new, strict=True):
            if learned is not None and not _write(side[0], side[1], event[0], *learned):
                error = np.nan
        for column, value in zip(foreseen, (error, w[-1], z[-1], product, variance), strict=True):
            column[j] = value
    with np.errstate(over="ignore"):
        return Foreseen(*(column.astype(np.float32) for column in foreseen))


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
    told = Smoothed(*(np.zeros(len(rows)) for _ in Smoothed._fields))
    for j, row in enumerate(rows):
        others, ratings = _history(histories, j)
        old = _row(own, row)
        with np.errstate(all="ignore"):
            equations, squares = _gathered(other, other_beliefs, others, ratings, intercept)
            solved = _solved(equations, len(others), noise, prior)
        if _write(own, own_beliefs, row, equations, solved):
            told.gains[j] = _gain(old, equations, solved, noise)
            told.misfits[j] = (
                squares
                - 2 * solved.mean @ equations.right
                + np.sum(equations.matrix * (np.outer(solved.mean, solved.mean) + solved.covariance))
            )
            surprises = (solved.mean - solved.prior_mean) ** 2 + np.diag(solved.covariance)
            told.factor_surprises[j], told.bias_surprises[j] = surprises[:-1].sum(), surprises[-1]
            told.bias_targets[j], told.bias_weights[j] = _bias_alone(solved, equations, len(others))
    return told


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
    rank = other.factors.shape[1]
    ridge = np.append(np.full(rank, factor_ridge * prior.factors), bias_ridge * prior.bias)
    for j, row in enumerate(rows):
        others, _ = _history(histories, j)
        counts = other_counts[others].astype(np.float64)
        shares = 1 / np.sqrt(counts + MEETINGS)
        means = np.column_stack([other.factors[others], other.biases[others]]).astype(np.float64)
        means[:, -1] -= prior.level + prior.slope * np.log1p(counts)
        met = _met(other_beliefs, others, rank)
        effects = own_beliefs.outlook[row, -rank - 1 :]
        change = (shares @ (means - shares[:, None] * met) - ridge * effects) / (shares @ shares + ridge)
        effects += change.astype(np.float32)
        first = _triangle(rank) + rank + 1
        other_beliefs.equations[others, first : first + rank + 1] += change.astype(np.float32)


def _triangle(rank: int) -> int:
    return (rank + 1) * (rank + 2) // 2


def _row(side: Side, row: int) -> F64:
    """Return ``[u, b]``."""
    return np.append(side.factors[row].astype(np.float64), side.biases[row])


def _history(histories: Histories, j: int) -> tuple[I32, F32]:
    entry = slice(histories.starts[j], histories.starts[j + 1])
    return histories.others[entry], histories.ratings[entry]


def _met(beliefs: Beliefs, rows: I32, rank: int) -> F64:
    first = _triangle(rank) + rank + 1
    return beliefs.equations[rows, first : first + rank + 1].astype(np.float64)


def _equations(beliefs: Beliefs, row: int, rank: int) -> Equations:
    flat, size, n = beliefs.equations[row].astype(np.float64), rank + 1, _triangle(rank)
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = flat[:n]
    matrix += np.triu(matrix, 1).T
    return Equations(matrix, flat[n : n + size], flat[n + size : n + 2 * size], float(flat[-1]))


def _outlook(beliefs: Beliefs, row: int, rank: int) -> Outlook:
    flat = beliefs.outlook[row].astype(np.float64)
    return Outlook(flat[:rank], flat[rank : 2 * rank], float(flat[2 * rank]), flat[2 * rank + 1 :])


def _uncertainty(w: F64, z: F64, user_beliefs: Beliefs, item_beliefs: Beliefs, user: int, item: int) -> float:
    """Return the variance of a pair's score."""
    rank = len(w) - 1
    u, v, up, down = w[:-1], z[:-1], _outlook(user_beliefs, user, rank), _outlook(item_beliefs, item, rank)
    products = v**2 * up.variances + u**2 * down.variances + up.variances * down.variances
    together = 2 * (v @ up.covariances + u @ down.covariances)
    return float(up.bias_variance + down.bias_variance + products.sum() + together)


def _gathered(other: Side, beliefs: Beliefs, others: I32, ratings: F32, intercept: float) -> tuple[Equations, float]:
    """Return the equations of a row with these ratings, and ``Σ E[y²]``."""
    rank = other.factors.shape[1]
    size = rank + 1
    equations, squares = Equations(np.zeros((size, size)), np.zeros(size), np.zeros(size), intercept), 0.0
    for row, rating in zip(others, ratings.astype(np.float64), strict=True):
        equations = _with(equations, _row(other, row), _outlook(beliefs, row, rank), rating)
        squares += (rating - intercept - float(other.biases[row])) ** 2 + float(beliefs.outlook[row, 2 * rank])
    return equations, squares


def _with(equations: Equations, z: F64, outlook: Outlook, rating: float) -> Equations:
    """Return *equations* with one rating more, whose other row is *z*."""
    x = np.append(z[:-1], 1.0)
    right = x * (rating - equations.center - z[-1]) - np.append(outlook.covariances, 0.0)
    matrix = np.outer(x, x) + np.diag(np.append(outlook.variances, 0.0))
    return Equations(equations.matrix + matrix, equations.right + right, equations.met + outlook.effects, equations.center)


def _learned(
    own: tuple[Side, Beliefs, Prior],
    other: tuple[Side, Beliefs, Prior],
    event: tuple[int, int, tuple[I32, F32]],
    other_row: int,
    rating: float,
    intercept: float,
    noise: float,
) -> tuple[Equations, Posterior] | None:
    """Return what an event makes of its row of one side; None when nothing."""
    (side, beliefs, prior), (row, count, (others, ratings)) = own, event
    rank = side.factors.shape[1]
    start = np.zeros(rank)
    if len(others) or not count:
        equations, _ = _gathered(other[0], other[1], others, ratings, intercept)
    elif np.isnan(rating):
        return None
    else:
        equations = _recentered(_equations(beliefs, row, rank), intercept)
        equations = _with(equations, _row(other[0], other_row), _outlook(other[1], other_row, rank), rating)
        if count == 1:
            start = side.factors[row].astype(np.float64)
    return equations, _solved(equations, count, noise, prior, start)


def _recentered(equations: Equations, intercept: float) -> Equations:
    """Return the same equations for another intercept."""
    shift = intercept - equations.center
    return Equations(equations.matrix, equations.right - shift * equations.matrix[:, -1], equations.met, intercept)


def _solved(equations: Equations, count: int, noise: float, prior: Prior, start: F64 | None = None) -> Posterior:
    rank = len(equations.right) - 1
    mean = equations.met / np.sqrt(count + MEETINGS)
    mean[-1] += prior.level + prior.slope * np.log1p(count)
    if start is not None:
        mean[:-1] += start
    variances = np.append(np.full(rank, prior.factors), prior.bias)
    precision = equations.matrix / noise + np.diag(1 / variances)
    if not np.isfinite(precision).all():
        nothing = np.full(rank + 1, np.nan)
        return Posterior(nothing, np.full((rank + 1, rank + 1), np.nan), mean, variances)
    covariance = np.linalg.inv(precision)
    solution = np.linalg.solve(precision, equations.right / noise + mean / variances)
    return Posterior(solution, np.asarray(covariance, np.float64), mean, variances)


def _gain(old: F64, equations: Equations, solved: Posterior, noise: float) -> float:
    if not np.isfinite(old).all():
        return float(np.inf)
    change = solved.mean - old
    quadratic = change @ equations.matrix @ change + noise * np.sum(change**2 / solved.prior_variances)
    return float(0.5 * quadratic)


def _bias_alone(solved: Posterior, equations: Equations, count: int) -> tuple[float, float]:
    """Return what the ratings alone say of the bias less what the rows met say, and the weight of that."""
    variance, prior_variance = solved.covariance[-1, -1], solved.prior_variances[-1]
    information = 1 / variance - 1 / prior_variance
    if not information * prior_variance > 1e-4:
        return 0.0, 0.0
    alone = (solved.mean[-1] / variance - solved.prior_mean[-1] / prior_variance) / information
    return alone - equations.met[-1] / np.sqrt(count + MEETINGS), 1 / (1 / information + prior_variance)


def _write(side: Side, beliefs: Beliefs, row: int, equations: Equations, solved: Posterior) -> bool:
    """Write a row if every number is one that float32 holds; return whether it was."""
    rank = side.factors.shape[1]
    parts = (equations.matrix[np.triu_indices(rank + 1)], equations.right, equations.met, [equations.center])
    diagonal = np.diag(solved.covariance)
    outlook = np.concatenate([diagonal[:-1], solved.covariance[-1, :-1], diagonal[-1:]])
    with np.errstate(over="ignore"):
        new, kept = solved.mean.astype(np.float32), np.concatenate(parts).astype(np.float32)
        outlook = outlook.astype(np.float32)
    if not (np.isfinite(new).all() and np.isfinite(kept).all() and np.isfinite(outlook).all()):
        return False
    side.factors[row], side.biases[row] = new[:-1], new[-1]
    beliefs.equations[row], beliefs.outlook[row, : 2 * rank + 1] = kept, outlook
    return True
