"""What a model says of given pairs, and what its size costs, in double precision."""

from __future__ import annotations

import numpy as np

from factorstream.worker.kernels.api import F32, F64, I32, Penalty, Side
from factorstream.worker.kernels.compiled import compiled


def scores(users: Side, items: Side, user_rows: I32, item_rows: I32, *, intercept: float) -> F64:
    """Return the score of each pair, ``(n,)``; summed in double precision, in the order of the factors."""
    found = np.empty(len(user_rows), np.float64)
    _fill_scores(users.factors, users.biases, items.factors, items.biases, user_rows, item_rows, float(intercept), found)
    return found


@compiled
def _fill_scores(p: F32, b: F32, q: F32, c: F32, user_rows: I32, item_rows: I32, intercept: float, found: F64) -> None:
    for j in range(len(found)):
        user, item = user_rows[j], item_rows[j]
        score = intercept + np.float64(b[user]) + np.float64(c[item])
        for k in range(p.shape[1]):
            score += np.float64(p[user, k]) * np.float64(q[item, k])
        found[j] = score


def over_observed(off: F64, ratings: F32, alpha: float) -> float:
    """Return ``½ Σ (1 + α x) (p − s)² − s²`` of the pairs held, *off* being their ``p − s``.

    That is what they add to ``½ Σ s²`` over all pairs, which Gram matrices give.
    """
    preferred = (ratings > 0).astype(np.float64)
    return 0.5 * float((1 + alpha * ratings.astype(np.float64)) @ off**2 - ((preferred - off) ** 2).sum())


def penalties(side: Side, counts: I32, penalty: Penalty, *, users: bool) -> float:
    """Return ``Σ ½ λ_n |u_n|² + Σ κ_n |u_n|₁ + Σ ½ μ_n b_n²`` of the rows whose ratings *counts* are."""
    n, (ridge, lasso) = len(counts), penalty.on(users=users)
    weights = counts.astype(np.float64) if penalty.weighted else np.ones(n)
    squares = np.einsum("nk,nk->n", side.factors[:n], side.factors[:n], dtype=np.float64)
    total = 0.5 * float(weights @ (ridge * squares + penalty.bias * side.biases[:n].astype(np.float64) ** 2))
    return total + (lasso * float(weights @ np.abs(side.factors[:n]).sum(1, dtype=np.float64)) if lasso else 0.0)
