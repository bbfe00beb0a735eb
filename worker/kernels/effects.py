"""Prior means from *which* rows a row met: the arrays, and how much of it is believed.

    mean_n = Σ_{m met by n} y_m / √(n's count + κ)

y_m, ``(K + 1,)``, is the *effect* of row m: what meeting it says of the factors and the bias of a row of the other side. Effects
are found by ridge regression of the rows as they are on the rows they met, one effect at a time (`api.Kernels.attribute`).

Source: Salakhutdinov and Mnih, constrained PMF, NIPS 2007; Koren, SVD++, KDD 2008.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CAUTION = 3.0
"""κ."""


class Effects(NamedTuple):
    """What one side's rows say of the other's, and what they were told; kernels change both in place."""

    said: NDArray[np.float32]
    """``(rows, K + 1)``: y of each row; zeros for a new one."""
    told: NDArray[np.float32]
    """``(rows, K + 1)``: for each row, the sum of ``said`` of the other side's rows that it met."""

    def fetch(self) -> None:
        """Bring the arrays up to date; they are, but where a device holds the rows (`api.Kernels.hold`)."""

    def send(self, rows: slice | NDArray[Any]) -> None:
        """Tell whoever holds the rows that *rows* of the arrays were changed here."""


class Pull(NamedTuple):
    """How strongly rows are held to their means, and effects to zero."""

    factors: float
    """λ of the other side's factors."""
    biases: float
    factor_ridge: float
    """λ of the effects."""
    bias_ridge: float
