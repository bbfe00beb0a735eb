"""What a score means: the prediction, or the probability of each category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Link = Literal["identity", "sigmoid", "exp", "ordinal"]


def link(
    name: Link, scores: NDArray[np.float64], categories: Sequence[float] = (), cuts: Sequence[float] = ()
) -> NDArray[np.float64]:
    """Return the predictions that *scores* mean; ordinal: the rating to expect."""
    if name == "identity":
        return scores
    if name == "exp":
        return np.exp(scores)
    if name == "ordinal":
        return category_probabilities(scores, cuts) @ np.asarray(categories, np.float64)
    return _sigmoid(scores)


def category_probabilities(scores: NDArray[np.float64], cuts: Sequence[float]) -> NDArray[np.float64]:
    """Return the probability of each category at each of *scores*, ``(n, len(cuts) + 1)``: differences of ``σ(cut − score)``."""
    edges = _sigmoid(np.asarray(cuts, np.float64) - np.asarray(scores, np.float64)[..., None])
    ends = np.zeros((*edges.shape[:-1], 1))
    return np.diff(np.concatenate([ends, edges, ends + 1.0], axis=-1))


def _sigmoid(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``1 / (1 + e⁻ˢ)``, without overflow for large negative scores."""
    return 0.5 * (1.0 + np.tanh(0.5 * scores))
