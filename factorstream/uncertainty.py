"""How sure a model is of a row: the variances of its numbers, and their bytes in Redis.

A row's numbers are Gaussian, taken to be independent: the diagonal of its posterior. Little-endian, the 40 bytes of header of
the embedding that it belongs to (`factorstream.embedding`) but for the magic, ``FSU1``; then K + 1 float32: the variances of the
factors, then that of the bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.embedding import FLOAT32, HEADER_BYTES, Side, Version, begin, pack_rows
from factorstream.errors import UnreadableValue

F64 = NDArray[np.float64]
MAGIC = b"FSU1"


@dataclass(frozen=True, slots=True, eq=False)
class Uncertainty:
    """How sure the model is of one user's or item's row."""

    id: str
    side: Side
    variances: NDArray[np.float32]
    """``(K + 1,)``, read-only: of the factors, then of the bias."""
    version: Version
    """Of the embedding that it belongs to."""


class Estimate(NamedTuple):
    """A predicted rating, and how sure the model is of it."""

    mean: float
    deviation: float
    """The standard deviation of the mean, in the unit of the ratings; a rating's own noise is not in it (`Meta.uncertainty`)."""


def pack_uncertainties(
    variances: NDArray[np.float32], n_ratings: NDArray[np.uint32], timestamps_ms: NDArray[np.int64], *, epoch: int, position: int
) -> list[bytes]:
    """Pack *variances*, ``(n, K + 1)``; the rest is that of the rows' embeddings."""
    version, rank = Version(epoch, position), variances.shape[1] - 1
    return pack_rows(variances, n_ratings, timestamps_ms, magic=MAGIC, rank=rank, version=version)


def unpack_uncertainty(row_id: str, side: Side, value: bytes) -> Uncertainty:
    """Read an uncertainty. Raises `UnreadableValue`."""
    dtype, rank, _, position, _, epoch = begin(value, MAGIC, "uncertainty")
    if dtype != FLOAT32 or len(value) != HEADER_BYTES + 4 * (rank + 1):
        raise UnreadableValue(f"an uncertainty of rank {rank} and dtype {dtype} cannot have {len(value)} bytes: it is cut")
    return Uncertainty(row_id, side, np.frombuffer(value, "<f4", rank + 1, HEADER_BYTES), Version(epoch, position))


def score_variances(user: F64, user_variances: F64, items: F64, item_variances: F64) -> F64:
    """Return the variance of the score of each item, ``(n,)``, both rows being uncertain and independent:

        Σ (u² σ_v² + v² σ_u² + σ_u² σ_v²) + σ_b² + σ_c²

    Args:
        user, items: Factors, ``(K,)`` and ``(n, K)``.
        user_variances, item_variances: ``(K + 1,)`` and ``(n, K + 1)``.
    """
    of_user, of_items = user_variances[:-1], item_variances[:, :-1]
    of_product = user**2 * of_items + items**2 * of_user + of_user * of_items
    variances: F64 = of_product.sum(axis=1) + user_variances[-1] + item_variances[:, -1]
    return variances
