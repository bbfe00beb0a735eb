"""What a score costs, in Triton (`losses` says what each loss means); which one is known when a kernel is compiled.

Cut points come in one column of float64, the *edges*: the lowest category, the distance of the categories, −∞, the cut points, ∞.
"""

from __future__ import annotations

import numpy as np

from factorstream.worker.kernels import losses
from factorstream.worker.kernels.api import F64, Loss
from factorstream.worker.kernels.gpu_language import NAN, finite, inner, tl

SQUARED, LOGISTIC = tl.constexpr(losses.SQUARED), tl.constexpr(losses.LOGISTIC)
POISSON, ORDINAL = tl.constexpr(losses.POISSON), tl.constexpr(losses.ORDINAL)
TOP = tl.constexpr(losses.TOP)


def edges_of(loss: Loss) -> F64:
    """Return the edges of *loss*; without cut points there is one category that has none around it."""
    ends = (-np.inf, np.inf) if len(loss.cuts) else (np.nan, np.nan)
    return np.array([loss.lowest, loss.step, ends[0], *loss.cuts, ends[1]])


@inner
def around(x, edges, n_cuts, LOSS: tl.constexpr):
    """Return the cut points below and above the category of each of *x*, in float64; numbers for what has no categories."""
    if LOSS == ORDINAL:
        lowest, step = tl.load(edges), tl.load(edges + 1)
        level = tl.floor((tl.where(finite(x), x, 0.0).to(tl.float64) - lowest) / step + 0.5)
        place = edges + 2 + tl.minimum(tl.maximum(level, 0.0), n_cuts).to(tl.int32)
        return tl.load(place), tl.load(place + 1)
    else:
        return 0.0 * x, 0.0 * x


@inner
def sigmoid(s):
    """Return ``1 / (1 + e⁻ˢ)``."""
    return 1.0 / (1.0 + tl.exp(-s))


@inner
def bump(s):
    """Return the derivative of `sigmoid`."""
    tail = tl.exp(-tl.abs(s))
    return tail / ((1.0 + tail) * (1.0 + tail))


@inner
def softplus(s):
    """Return ``log(1 + eˢ)``."""
    return tl.maximum(s, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(s)))


@inner
def value(x, s, lower, upper, LOSS: tl.constexpr):
    """Return ℓ(x, s), but for what does not depend on s."""
    if LOSS == LOGISTIC:
        return softplus(s) - x * s
    elif LOSS == POISSON:
        return tl.exp(tl.minimum(s, TOP)) * (1.0 + tl.maximum(s - TOP, 0.0)) - x * s
    elif LOSS == ORDINAL:
        return softplus(s - upper) + softplus(lower - s)
    else:
        return 0.5 * (x - s) * (x - s)


@inner
def slope(x, s, lower, upper, LOSS: tl.constexpr):
    """Return ∂ℓ/∂s."""
    if LOSS == LOGISTIC:
        return (1.0 - x) * sigmoid(s) - x * sigmoid(-s)  # no difference of numbers near 1
    elif LOSS == POISSON:
        return tl.exp(tl.minimum(s, TOP)) - x
    elif LOSS == ORDINAL:
        return sigmoid(s - upper) - sigmoid(lower - s)
    else:
        return s - x


@inner
def curvature(x, s, lower, upper, LOSS: tl.constexpr):
    """Return ∂²ℓ/∂s², never negative."""
    if LOSS == LOGISTIC:
        return bump(s)
    elif LOSS == POISSON:
        return tl.exp(tl.minimum(s, TOP))
    elif LOSS == ORDINAL:
        return bump(upper - s) + bump(lower - s)
    else:
        return 1.0 + 0.0 * s


@inner
def steepest(x, s, LOSS: tl.constexpr):
    """Return an upper bound of the curvature anywhere between s and where ℓ is least."""
    if LOSS == LOGISTIC:
        return 0.25 + 0.0 * s
    elif LOSS == POISSON:
        return tl.maximum(x, tl.exp(tl.minimum(s, TOP)))
    elif LOSS == ORDINAL:
        return 0.5 + 0.0 * s
    else:
        return 1.0 + 0.0 * s


@inner
def steepness(x, score, edges, n_cuts, LOSS: tl.constexpr):
    """Return ∂ℓ/∂s; NaN for an unrate, and where the score is not finite."""
    lower, upper = around(x, edges, n_cuts, LOSS)
    steep = slope(x, score, lower.to(tl.float32), upper.to(tl.float32), LOSS)
    return tl.where(finite(x) & finite(score), steep, NAN)
