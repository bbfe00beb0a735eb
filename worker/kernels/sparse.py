"""A sparse matrix times a dense one."""

from __future__ import annotations

import numpy as np

from factorstream.worker.kernels.api import F64, I32
from factorstream.worker.kernels.compiled import compiled


def times(rows: I32, columns: I32, values: F64, dense: F64, n_rows: int) -> F64:
    """Return ``A @ dense``, ``(n_rows, k)``, where A has *values* at *rows*, *columns*, added up where a place comes twice."""
    product = np.zeros((n_rows, dense.shape[1]))
    _add_products(rows, columns, values, np.ascontiguousarray(dense), product)
    return product


@compiled
def _add_products(rows: I32, columns: I32, values: F64, dense: F64, product: F64) -> None:
    for j in range(len(values)):
        row, column = rows[j], columns[j]
        for k in range(dense.shape[1]):
            product[row, k] += values[j] * dense[column, k]
