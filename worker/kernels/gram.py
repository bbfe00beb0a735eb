"""Gram matrices ``Σ v vᵀ`` in double precision: made whole, or kept up to date row by row, always in the same order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, F64, I32
from factorstream.worker.kernels.compiled import Int, bare

AT_ONCE = 8
"""Rows added together, so that the matrix is read and written once for all of them."""


def gram_of(factors: F32, counted: NDArray[np.bool_]) -> F64:
    """Return ``Σ v vᵀ`` over the rows of *factors*, ``(n, K)``, that are *counted*, ``(n,)``, and finite."""
    rank = factors.shape[1]
    gram = np.zeros((rank, rank))
    _add_rows(gram, factors, counted & np.isfinite(factors).all(axis=1), np.zeros((AT_ONCE, rank)))
    return gram


@bare
def _add_rows(gram: F64, factors: F32, counted: NDArray[np.bool_], panel: F64) -> None:
    n_rows, rank = counted.shape[0], factors.shape[1]
    for first in range(0, n_rows, AT_ONCE):
        for t in range(AT_ONCE):
            row = first + t
            whole = row < n_rows and counted[row]
            for k in range(rank):
                panel[t, k] = np.float64(factors[row, k]) if whole else 0.0
        for a in range(rank):
            p0, p1, p2, p3 = panel[0, a], panel[1, a], panel[2, a], panel[3, a]
            p4, p5, p6, p7 = panel[4, a], panel[5, a], panel[6, a], panel[7, a]
            for b in range(rank):
                left = p0 * panel[0, b] + p1 * panel[1, b] + p2 * panel[2, b] + p3 * panel[3, b]
                right = p4 * panel[4, b] + p5 * panel[5, b] + p6 * panel[6, b] + p7 * panel[7, b]
                gram[a, b] += left + right


@bare
def replace_rows(gram: F64, factors: F32, counted: NDArray[np.bool_], rows: I32, new: F32, held: I32) -> Int:
    """Put ``new[j]`` in the place of row ``rows[j]``, one after another, in *factors* and in *gram*.

    A row counts from now on if ``held[j]``, the number of its ratings, is above 0. What an old row that is not finite has added
    cannot be taken back: a new `gram_of` heals that.

    Returns: How many more rows count than before.
    """
    rank, n_more = factors.shape[1], 0
    for j in range(rows.shape[0]):
        row = rows[j]
        finite = True
        for a in range(rank):
            finite = finite and np.isfinite(factors[row, a])
        if not finite:
            for a in range(rank):
                factors[row, a] = 0
        keep, add = (1.0 if counted[row] else 0.0), (1.0 if held[j] > 0 else 0.0)
        for a in range(rank):
            old_scale, new_scale = keep * np.float64(factors[row, a]), add * np.float64(new[j, a])
            for b in range(rank):
                gram[a, b] += new_scale * np.float64(new[j, b]) - old_scale * np.float64(factors[row, b])
        for a in range(rank):
            factors[row, a] = new[j, a]
        n_more += (1 if held[j] > 0 else 0) - (1 if counted[row] else 0)
        counted[row] = held[j] > 0
    return n_more
