"""What the calibrator corrects a score by: its terms, where each begins, and what it remembers of rows.

The calibrated score is ``intercept + spread · Σ w_k g_k``. A rating's terms g are made of what its score consists of (the biases
b and c, the product d = u·v), of how many ratings the rows hold besides it (n and m), and of *means of residuals*: decayed sums
``(S − bias · W) / (W + pseudo-count)``, where S sums the residuals of former ratings with the row's own bias left in, and W
their weights. So a mean says how far the row's newest ratings are off from what its bias says now. Everything is divided by the
spread.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

(
    LEVEL,  # 1
    PRODUCT,  # d
    USER_BIAS,  # b
    ITEM_BIAS,  # c
    USER_NOISE,  # the mean square of the user's residuals, less that of all
    USER_BIAS_WHILE_SHORT,  # b / (1 + n / 5)
    ITEM_BIAS_WHILE_SHORT,  # c / (1 + m / 5)
    USER_COUNT,  # log(1 + n) / 5
    USER_IS_NEW,  # 1 / (1 + n)
    ITEM_COUNT,  # log(1 + m) / 5
    ITEM_IS_NEW,  # 1 / (1 + m)
    BURST,  # the user's residuals of this burst: ratings within half a second of each other
    MINUTE,  # of the last minute
    FIVE,  # of the last five ratings or so
    THIRTY,
    STEADY_BURST,  # the first and the third, times how much the user's residuals resemble the ones before
    STEADY_FIVE,
    FIVE_BY_USER_BIAS,
    FIVE_BY_ITEM_BIAS,
    FIVE_BY_ITEM_COUNT,
    THIRTY_BY_ITEM_COUNT,
    HOUR,  # the item's residuals of the last hour
    DAY,
    TWENTY,  # of its last twenty ratings or so
    N_TERMS,
) = range(25)

U_BURST, U_MINUTE, U_FIVE, U_THIRTY, U_LAGGED, U_POWER, U_LAST, U_RESIDUALS, USER_COLUMNS = 0, 2, 4, 6, 8, 9, 10, 11, 12
"""Columns of a user's memory: sums and weights side by side; Σ of neighbouring residuals' products, of squares; the last;
their number."""
I_HOUR, I_DAY, I_TWENTY, ITEM_COLUMNS = 0, 2, 4, 6

BURST_MS, MINUTE_MS, HOUR_MS, DAY_MS = 500, 60_000.0, 3_600_000.0, 86_400_000.0
KEEP_FIVE, KEEP_TWENTY, KEEP_THIRTY = math.exp(-1 / 5), math.exp(-1 / 20), math.exp(-1 / 30)
"""What a rating leaves of a sum over the last so many."""

PSEUDO_COUNTS = {"burst": 2.0, "minute": 4.0, "five": 4.0, "thirty": 10.0, "hour": 4.0, "day": 4.0, "twenty": 10.0, "steady": 5.0}
NOISE_PSEUDO_COUNT = 2.0
"""Residuals as large as all users' that a user is taken to have had beside its own."""
TYPICAL_COUNT = 0.6
"""Of log(1 + m) / 5."""

MOST = 4.0
"""A residual counts as at most so many spreads: one absurd rating is not worth a session."""
MOST_PART = 16.0
"""The same of b, c and d."""
NOISE_SHARE = 0.001
"""Of a new squared error in the running estimate of the noise."""
FIRST_NOISE = 0.7
WANDER = 1e-6
"""Share of its first variance that a weight's uncertainty regains with each rating: weights follow slow changes."""


class Memory(NamedTuple):
    """What the calibrator remembers; kernels change it in place."""

    users: NDArray[np.float32]
    """``(rows, USER_COLUMNS)``; zeros for a row not met."""
    user_ms: NDArray[np.int64]
    """``(rows,)``: time of the row's newest rating."""
    items: NDArray[np.float32]
    """``(rows, ITEM_COLUMNS)``."""
    item_ms: NDArray[np.int64]
    weights: NDArray[np.float64]
    """``(N_TERMS,)``: w."""
    covariance: NDArray[np.float64]
    """``(N_TERMS, N_TERMS)``, of the weights' uncertainty."""
    noise: NDArray[np.float64]
    """``(1,)``: mean squared error, in squared spreads."""
    newest_ms: NDArray[np.int64]
    """``(1,)``: time of the newest rating of all."""


def first_weights() -> NDArray[np.float64]:
    """Return the weights of a calibrator that has seen nothing: the score as it is."""
    weights = np.zeros(N_TERMS)
    weights[[PRODUCT, USER_BIAS, ITEM_BIAS]] = 1.0
    weights[FIVE] = 0.3
    return weights


def first_variances() -> NDArray[np.float64]:
    """Return how uncertain each of them is."""
    variances = np.full(N_TERMS, 0.1)
    variances[LEVEL] = 0.01
    variances[PRODUCT : ITEM_BIAS_WHILE_SHORT + 1] = 0.05
    variances[USER_COUNT : ITEM_IS_NEW + 1] = 0.02
    variances[[FIVE_BY_USER_BIAS, FIVE_BY_ITEM_BIAS, FIVE_BY_ITEM_COUNT, THIRTY_BY_ITEM_COUNT]] = 0.05
    return variances
