"""How sure the posterior learner is of what readers get: `publishing.Uncertainty` is this module."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32
from factorstream.worker.learn import calibrator, posterior
from factorstream.worker.model.model import ITEMS, USERS, Model

NOBODY = np.array([np.iinfo(np.int64).max])
"""A row that no table has."""


def variances(model: Model, side: int, rows: NDArray[np.int64]) -> tuple[F32, F32]:
    """Return those of what readers get of *rows* of *side*: factors ``(n, K)`` and biases ``(n,)``."""
    factors, biases = posterior.variances(model, side, rows)
    if calibrator.NAME in model.parts:
        return calibrator.published_variances(model, side, rows, factors, biases)
    return factors, biases


def priors(model: Model) -> Mapping[str, object]:
    """Return how sure the model is of rows and ratings that it has not seen: the fields of `factorstream.meta.Priors`."""
    estimates, unit = posterior.remembered(model).estimates, model.level.spread
    (user,), (user_bias,) = variances(model, USERS, NOBODY)
    (item,), (item_bias,) = variances(model, ITEMS, NOBODY)
    return {
        "user": (float(user[0]), float(user_bias)),
        "item": (float(item[0]), float(item_bias)),
        "noise": estimates.noise * unit**2,
        "surprise": estimates.surprise,
    }
