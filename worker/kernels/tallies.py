"""Sums over what learning told, one entry after another: their bits do not depend on how a stream was cut."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from factorstream.worker.kernels.compiled import bare


@bare
def add_surprises(errors: Any, variances: Any, most: float, sums: Any) -> None:
    """Add to *sums* ``Σ error² / variance``, each at most *most*, and the number of errors; NaN is none."""
    for j in range(len(errors)):
        error = np.float64(errors[j])
        if not math.isnan(error):
            relative = error * error / np.float64(variances[j])
            sums[0] += relative if relative < most else most
            sums[1] += 1


@bare
def add_products(errors: Any, products: Any, spread: float, most: float, sums: Any) -> None:
    """Add to *sums* the number of errors, ``Σ error · product``, ``Σ product²`` and ``Σ error²``, in spreads; NaN is no error.

    Each counts as at most *most* spreads.
    """
    for j in range(len(errors)):
        error: float = np.float64(errors[j]) / spread
        product: float = np.float64(products[j]) / spread
        if not math.isnan(error):
            error, product = min(max(error, -most), most), min(max(product, -most), most)
            sums[0] += 1
            sums[1] += error * product
            sums[2] += product * product
            sums[3] += error * error


@bare
def add_rows(told: Any, starts: Any, spread: float, sums: Any) -> None:
    """Add to *sums* ``(10,)`` what solving rows told.

    Those are the number of rows, of ratings, the sums of `beliefs.Smoothed`'s misfits and surprises, and with a bias's weight w
    and target t and ``n = ln (1 + count)`` those of ``w, w n, w n², w t, w n t``; all in units of the *spread*.

    Args:
        told: ``(6, rows)``: the fields of `beliefs.Smoothed`. Rows without ratings, or whose misfit is not finite, do not count.
        starts: Of the rows' histories, ``(rows + 1,)``.
    """
    square = spread * spread
    for j in range(told.shape[1]):
        count = starts[j + 1] - starts[j]
        misfit, of_factors, of_bias, target, weight = told[1, j], told[2, j], told[3, j], told[4, j], told[5, j]
        if count == 0 or not math.isfinite(misfit):
            continue
        n, w, t = math.log1p(count), weight * square, target / spread
        sums[0] += 1
        sums[1] += count
        sums[2] += misfit / square
        sums[3] += of_factors / spread
        sums[4] += of_bias / square
        sums[5] += w
        sums[6] += w * n
        sums[7] += w * n * n
        sums[8] += w * t
        sums[9] += w * n * t
