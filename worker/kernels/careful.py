"""Rows that float32 cannot solve, in float64: λ = 0, many ratings explained by few, values far apart."""

from __future__ import annotations

import numpy as np

from factorstream.worker.kernels.api import F32, F64, Histories, Side

SINGULAR = 1e-12
"""Squared singular values below this share of the largest count as zero: factors are float32, their differences no finer."""


def solve_carefully(
    own: Side, other: Side, row: int, history: Histories, mean: F32, intercept: float, penalty: float, bias_penalty: float
) -> float:
    """Set *row* to its minimiser over all of *history*; return how much that gained.

    *mean* is the row's prior mean, ``(K + 1,)``; of many minimisers the nearest to it is taken. A solution
    that is not finite leaves the row.
    """
    rank = other.factors.shape[1]
    design = np.column_stack([other.factors[history.others].astype(np.float64), np.ones(len(history.others))])
    target = history.ratings.astype(np.float64) - intercept - other.biases[history.others]
    weights = np.append(np.full(rank, penalty), bias_penalty)
    with np.errstate(invalid="ignore"):
        gram, right = design.T @ design + np.diag(weights), design.T @ (target - design @ mean)
    if not (np.isfinite(gram).all() and np.isfinite(right).all()):
        return 0.0
    old = np.append(own.factors[row].astype(np.float64), own.biases[row])
    with np.errstate(over="ignore"):
        new = (minimum_norm(gram, right) + mean).astype(np.float32)
    if not np.isfinite(new).all():
        return 0.0
    own.factors[row], own.biases[row] = new[:-1], new[-1]
    change = new - old
    return float(0.5 * change @ gram @ change) if np.isfinite(old).all() else np.inf


def minimum_norm(gram: F64, right: F64) -> F64:
    """Return ``G⁺ right`` for a symmetric G."""
    values, vectors = np.linalg.eigh(gram)
    vectors, values = vectors[:, values > SINGULAR * values[-1]], values[values > SINGULAR * values[-1]]
    solution: F64 = vectors @ (vectors.T @ right / values)
    return solution
