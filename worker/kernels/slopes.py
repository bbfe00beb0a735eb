"""Sums that say whether products and biases have the right size: their slopes on the errors that they left."""

from __future__ import annotations

from factorstream.worker.kernels.api import F64, Scored
from factorstream.worker.kernels.compiled import compiled


@compiled
def add_slopes(scored: Scored, spread: float, most: float, sums: F64) -> None:
    """Add to *sums*, ``(6,)``, of each event: ``d e``, ``d²``, ``(b + c) e``, ``b² + c²``, ``e²`` and 1.

    Errors e, biases b and c, and products d are in spreads, bounded by ±*most*. Events with a number that is not finite are left
    out. Strictly one after another, so that bits do not depend on how a stream is cut.
    """
    for j in range(len(scored.errors)):
        e, b = scored.errors[j] / spread, scored.user_biases[j] / spread
        c, d = scored.item_biases[j] / spread, scored.products[j] / spread
        if (e - e) + (b - b) + (c - c) + (d - d) == 0:  # ∞ − ∞ is NaN
            e, b = min(max(e, -most), most), min(max(b, -most), most)
            c, d = min(max(c, -most), most), min(max(d, -most), most)
            sums[0] += d * e
            sums[1] += d * d
            sums[2] += (b + c) * e
            sums[3] += b * b + c * c
            sums[4] += e * e
            sums[5] += 1
