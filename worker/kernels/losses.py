"""What a score costs: ℓ(x, s), its derivatives by s, and the prediction that s means.

    squared    ½ (x − s)²                                        prediction s
    logistic   log(1 + eˢ) − x s, x is 0 or 1                    prediction σ(s) = 1 / (1 + e⁻ˢ)
    poisson    eˢ − x s, x ≥ 0 (−log p but for log x!)           prediction eˢ
    ordinal    −log P(x),  P(x = level j) = σ(θ_j − s) − σ(θ_{j−1} − s), θ_{−1} = −∞, the last θ = ∞     prediction Σ level_j P(j)

All four are convex in s. Every function is written once, for numpy's arrays and for compiled code: ufuncs of numbers or arrays,
*kind* one number. *lower* and *upper* are the cut points around x's category (`around`); what has no categories ignores them.

Source of the ordinal loss: McCullagh, J. R. Statist. Soc. B 42(2), 1980 (proportional odds).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from factorstream.worker.kernels.api import F64, Loss

SQUARED, LOGISTIC, POISSON, ORDINAL = range(4)
KINDS = {"squared": SQUARED, "logistic": LOGISTIC, "poisson": POISSON, "ordinal": ORDINAL}

TOP = 30.0
"""Where Poisson's eˢ goes on as a straight line: no count is near 10¹³, and nothing overflows."""
LEAST_GAP = 1e-9
"""Cut points never come nearer: each category keeps a probability."""


def value(kind: int, x: Any, s: Any, lower: Any, upper: Any) -> Any:
    """Return ℓ(x, s)."""
    if kind == LOGISTIC:
        return np.maximum(s, 0.0) + np.log1p(np.exp(-np.abs(s))) - x * s
    if kind == POISSON:
        return np.exp(np.minimum(s, TOP)) * (1.0 + np.maximum(s - TOP, 0.0)) - x * s
    if kind == ORDINAL:  # σ(a) − σ(b) = σ(a) σ(−b) (1 − e^(b − a)), without cancellation in either tail
        a, b = upper - s, lower - s
        not_above = np.maximum(-a, 0.0) + np.log1p(np.exp(-np.abs(a)))
        not_below = np.maximum(b, 0.0) + np.log1p(np.exp(-np.abs(b)))
        return not_above + not_below - np.log(-np.expm1(-np.maximum(upper - lower, LEAST_GAP)))
    return 0.5 * (x - s) * (x - s)


def slope(kind: int, x: Any, s: Any, lower: Any, upper: Any) -> Any:
    """Return ∂ℓ/∂s."""
    if kind == LOGISTIC:
        return 0.5 + 0.5 * np.tanh(0.5 * s) - x
    if kind == POISSON:
        return np.exp(np.minimum(s, TOP)) - x
    if kind == ORDINAL:  # 1 − σ(a) − σ(b)
        return -0.5 * (np.tanh(0.5 * (upper - s)) + np.tanh(0.5 * (lower - s)))
    return s - x


def curvature(kind: int, x: Any, s: Any, lower: Any, upper: Any) -> Any:
    """Return ∂²ℓ/∂s², never negative."""
    if kind == LOGISTIC:
        t = np.tanh(0.5 * s)
        return 0.25 * (1.0 - t * t)
    if kind == POISSON:
        return np.exp(np.minimum(s, TOP))
    if kind == ORDINAL:
        a, b = np.tanh(0.5 * (upper - s)), np.tanh(0.5 * (lower - s))
        return 0.25 * (1.0 - a * a) + 0.25 * (1.0 - b * b)
    return 1.0 + 0.0 * s


def steepest(kind: int, x: Any, s: Any) -> Any:
    """Return an upper bound of the curvature anywhere between s and where ℓ is least."""
    if kind == LOGISTIC:
        return 0.25 + 0.0 * s
    if kind == POISSON:
        return np.maximum(x, np.exp(np.minimum(s, TOP)))
    if kind == ORDINAL:
        return 0.5 + 0.0 * s
    return 1.0 + 0.0 * s


def around(x: Any, lowest: Any, step: Any, cuts: Any) -> Any:
    """Return the cut points below and above the category x, −∞ and ∞ at the ends; NaN without cut points."""
    n = len(cuts)
    if n == 0 or np.isnan(x):
        return np.nan, np.nan
    level = int(min(max(np.floor((x - lowest) / step + 0.5), 0.0), float(n)))
    return (cuts[level - 1] if level > 0 else -np.inf), (cuts[level] if level < n else np.inf)


def bounds(loss: Loss, ratings: F64) -> tuple[F64, F64]:
    """Return the cut points below and above each rating's category (`around`), for numpy."""
    if not len(loss.cuts):
        nothing = np.full(len(ratings), np.nan)
        return nothing, nothing
    edges = np.concatenate([[-np.inf], loss.cuts, [np.inf]])
    levels = np.nan_to_num(np.floor((ratings - loss.lowest) / loss.step + 0.5)).clip(0, len(loss.cuts)).astype(np.int64)
    known = np.isfinite(ratings)
    return np.where(known, edges[levels], np.nan), np.where(known, edges[levels + 1], np.nan)


def values(loss: Loss, ratings: F64, scores: F64) -> F64:
    """Return ℓ(x, s) of each rating; NaN where either is."""
    with np.errstate(invalid="ignore", over="ignore"):
        found: F64 = value(KINDS[loss.name], ratings, scores, *bounds(loss, ratings))
    return found
