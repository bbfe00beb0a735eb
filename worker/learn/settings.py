"""What the learner is told: step sizes and λ, in units of the data's own spread where they are not given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from factorstream.worker.kernels.api import F32, Objective, Penalty, Rates, Solver
from factorstream.worker.model.level import Level


@dataclass(frozen=True, slots=True)
class Learning:
    """Everything that says how events become a model; part of each journal segment, for replay needs it.

    Ratings multiplied by c should give a model whose scores are multiplied by c. Biases then grow with c and factors with √c, so
    λ of the factors goes with the spread, the factors' rate against it and their first deviation with its root; λ of the biases
    has no unit.
    """

    learning_rate: float | None
    """η of the factors; None: `LEARNING_RATE` divided by the spread."""
    bias_learning_rate: float
    decay: float
    """A row with n ratings steps by ``η / (1 + decay * n)``."""
    fold_in: int
    """Rows with at most so many ratings are solved, not stepped."""
    lambda_user: float | None
    """None: `LAMBDA` times the spread, or `WEIGHTED_LAMBDA`."""
    lambda_item: float | None
    lambda_bias: float | None
    """None: `LAMBDA_BIAS`, or `WEIGHTED_LAMBDA_BIAS`."""
    weighted: bool
    visits_per_rating: float
    """ALS visits that an accepted rating buys; 0: no sweeps."""
    block_visits: int
    """Ratings visited by one block, about."""
    calibrate: bool = False
    """Whether a calibrator corrects the scores."""
    loss: str = "squared"
    alpha: float = 1.0
    """Implicit: a pair's confidence is ``1 + alpha * rating``."""
    solver: Solver = "auto"
    """How rows are solved in sweeps."""
    learner: Literal["sgd", "posterior"] = "sgd"

    LEARNING_RATE = 0.1
    LAMBDA, WEIGHTED_LAMBDA = 8.0, 0.12
    LAMBDA_BIAS, WEIGHTED_LAMBDA_BIAS = 2.5, 0.03
    IMPLICIT_LAMBDA, IMPLICIT_WEIGHTED_LAMBDA = 1.0, 0.003
    DEVIATION = 0.05

    def first_level(self, range_: tuple[float | None, float | None]) -> Level:
        """Return the level before any rating; *range_* is what was configured."""
        if self.loss == "implicit":
            return Level(lowest=0.0, highest=1.0, centred=False)  # of preferences, which are what is predicted
        return Level.of_range(*range_)

    def targets(self, ratings: F32) -> F32:
        """Return what is predicted of *ratings*: themselves, or whether they are above 0; NaN stays."""
        return np.where(ratings > 0, np.float32(1), ratings) if self.loss == "implicit" else ratings

    def rates(self, level: Level) -> Rates:
        """Return the step sizes at *level*."""
        factors = self.LEARNING_RATE / level.spread if self.learning_rate is None else self.learning_rate
        return Rates(factors, self.bias_learning_rate, self.decay)

    def objective(self, level: Level) -> Objective:
        """Return what is minimised at *level*."""
        return Objective(self.penalty(level))

    def penalty(self, level: Level) -> Penalty:
        """Return λ of the objective at *level*."""
        unset = level.spread * (self.WEIGHTED_LAMBDA if self.weighted else self.LAMBDA)
        if self.loss == "implicit":
            unset = self.IMPLICIT_WEIGHTED_LAMBDA if self.weighted else self.IMPLICIT_LAMBDA
        unset_bias = self.WEIGHTED_LAMBDA_BIAS if self.weighted else self.LAMBDA_BIAS
        return Penalty(
            unset if self.lambda_user is None else self.lambda_user,
            unset if self.lambda_item is None else self.lambda_item,
            unset_bias if self.lambda_bias is None else self.lambda_bias,
            self.weighted,
        )

    def deviation(self, level: Level) -> float:
        """Return the standard deviation of a new row's first factors at *level*."""
        return self.DEVIATION * float(level.spread**0.5)
