"""Exact solves of rows of the live model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F64, Kernels
from factorstream.worker.learn.settings import Learning
from factorstream.worker.model.model import USERS, Model


def solve(kernels: Kernels, learning: Learning, model: Model, side: int, rows: NDArray[np.int32]) -> F64:
    """Set *rows* of *side* to the objective's minimiser over each, from all ratings they hold now.

    The other side is read as it is. A row that holds nothing becomes zero.

    Returns: By how much each row lowered the objective, ``(len(rows),)``.
    """
    penalty = learning.penalty(model.level)
    on_users = side == USERS
    own, other = (model.users, model.items) if on_users else (model.items, model.users)
    return kernels.als(
        own.side,
        other.side,
        rows,
        model.ratings.histories_of_users(rows) if on_users else model.ratings.histories_of_items(rows),
        intercept=model.level.intercept,
        penalty=penalty.user if on_users else penalty.item,
        bias_penalty=penalty.bias,
        weighted=penalty.weighted,
    )
