"""Prior means from the rows met, in plain numpy: what `cpu_effects` means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, I32, Batch, Histories, Side
from factorstream.worker.kernels.effects import CAUTION, Effects, Pull


def meet(users: Effects, items: Effects, batch: Batch, changes: NDArray[np.int8]) -> tuple[F32, F32]:
    """Tell rows of whom they meet (`api.Kernels.meet`)."""
    means = np.zeros((2, len(changes), users.said.shape[1]), np.float32)
    for j, (n, m, change) in enumerate(zip(batch.user_rows, batch.item_rows, changes, strict=True)):
        users.told[n] += change * items.said[m]
        items.told[m] += change * users.said[n]
        means[0, j] = users.told[n] / np.sqrt(batch.user_counts[j] + CAUTION)
        means[1, j] = items.told[m] / np.sqrt(batch.item_counts[j] + CAUTION)
    return means[0], means[1]


def recall(own: Effects, other: Effects, rows: I32, histories: Histories) -> F32:
    """Sum anew what *rows* were told (`api.Kernels.recall`)."""
    means = np.zeros((len(rows), own.said.shape[1]), np.float32)
    for r, row in enumerate(rows):
        met = _met(histories, r)
        own.told[row] = other.said[met].sum(axis=0)
        means[r] = own.told[row] / np.sqrt(len(met) + CAUTION)
    return means


def attribute(own: Effects, other: Effects, side: Side, rows: I32, histories: Histories, counts: I32, pull: Pull) -> None:
    """Find the effects of *rows* (`api.Kernels.attribute`)."""
    rank = side.factors.shape[1]
    weights = np.append(np.full(rank, pull.factors), pull.biases)
    ridges = np.append(np.full(rank, pull.factor_ridge), pull.bias_ridge)
    for r, row in enumerate(rows):
        met = _met(histories, r)
        if not len(met):
            own.said[row] = 0
        scales = 1 / np.sqrt(counts[met] + CAUTION)
        values = np.column_stack([side.factors[met], side.biases[met]])
        left = scales @ (values - scales[:, None] * other.told[met])
        change = (weights * left - ridges * own.said[row]) / (weights * (scales @ scales) + ridges)
        if np.isfinite(change).all():
            own.said[row] += change
            other.told[met] += change


def _met(histories: Histories, r: int) -> I32:
    return histories.others[histories.starts[r] : histories.starts[r + 1]]
