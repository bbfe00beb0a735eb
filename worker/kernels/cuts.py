"""The steps of cut points between ordered categories (`losses`: ordinal), compiled."""

from __future__ import annotations

import math

import numpy as np

from factorstream.worker.kernels.api import F32, F64
from factorstream.worker.kernels.compiled import compiled

LEAST_GAP = 0.01
"""Neighbours never come nearer: a category that nobody uses keeps a probability."""


@compiled
def follow(cuts: F64, ratings: F32, scores: F64, lowest: float, step: float, rate: float) -> None:
    """Step *cuts* down the slope of the loss of each rating, in order, in place; what is not finite counts nothing.

    With a = σ(θ_j − s), b = σ(θ_{j−1} − s): ∂ℓ/∂θ_j = −(1 − a) / ((1 − b) γ) and ∂ℓ/∂θ_{j−1} = b / (a γ),
    γ = 1 − e^(θ_{j−1} − θ_j).
    """
    n = len(cuts)
    for j in range(len(ratings)):
        if not (math.isfinite(ratings[j]) and math.isfinite(scores[j])):
            continue
        level = int(min(max(np.floor((np.float64(ratings[j]) - lowest) / step + 0.5), 0.0), float(n)))
        a = 1.0 if level == n else 0.5 + 0.5 * math.tanh(0.5 * (cuts[level] - scores[j]))
        b = 0.0 if level == 0 else 0.5 + 0.5 * math.tanh(0.5 * (cuts[level - 1] - scores[j]))
        width = 1.0 if level in (0, n) else -math.expm1(cuts[level - 1] - cuts[level])
        if level < n:
            ceiling = cuts[level + 1] - LEAST_GAP if level + 1 < n else math.inf
            cuts[level] = min(cuts[level] + rate * (1.0 - a) / (max(1.0 - b, 1e-12) * width), ceiling)
        if level > 0:
            floor = cuts[level - 2] + LEAST_GAP if level > 1 else -math.inf
            cuts[level - 1] = max(cuts[level - 1] - rate * b / (max(a, 1e-12) * width), floor)
