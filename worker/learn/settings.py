"""What the learner is told: what is minimised, step sizes and λ, in units of the data's own spread where they are not given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from factorstream.worker.kernels.api import F32, LossName, Objective, OptimizerName, Penalty, Rates, Solver
from factorstream.worker.model.level import Level

Learnable = LossName | Literal["implicit"]
Schedule = Literal["constant", "count", "inverse"]

UNIT_RATES: dict[OptimizerName, float] = {"adagrad": 0.3, "rmsprop": 0.01, "adam": 0.03}
"""η of optimizers that divide a step by the size of its gradients: it has the unit of what it moves."""


@dataclass(frozen=True, slots=True)
class Learning:
    """Everything that says how events become a model; part of each journal segment, for replay needs it.

    Ratings multiplied by c should give a model whose scores are multiplied by c. Biases then grow with c and factors with √c, so
    λ of the factors goes with the spread, the factors' rate against it and their first deviation with its root; λ of the biases
    has no unit. Where a rating weighs h (the curvature of a loss that is not squared), λ goes with h and rates against it.
    """

    learning_rate: float | None
    """η of the factors; None: `LEARNING_RATE` divided by the spread."""
    bias_learning_rate: float | None
    """None: `BIAS_LEARNING_RATE`, divided by the curvature."""
    decay: float
    """Of schedule ``count``: a row with n ratings steps by ``η / (1 + decay * n)``."""
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
    learn_priors: bool = False
    """Whether λ that are None are multiplied by what fits, and rows are expected near what those they met say."""
    loss: Learnable = "squared"
    rating_step: float = 1.0
    """Ordinal: the distance of categories."""
    nonnegative: bool = False
    l1_user: float = 0.0
    """κ of the factors."""
    l1_item: float = 0.0
    optimizer: OptimizerName = "sgd"
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: Schedule = "count"
    power: float = 0.25
    """Of schedule ``inverse``: a row with n ratings steps by ``η / n^power``."""
    alpha: float = 4.0
    """Implicit: a pair's confidence is ``1 + alpha * rating``."""
    solver: Solver = "auto"
    """How rows are solved in sweeps."""
    learner: Literal["sgd", "posterior"] = "sgd"

    LEARNING_RATE, BIAS_LEARNING_RATE = 0.1, 0.05
    LAMBDA, WEIGHTED_LAMBDA = 8.0, 0.12
    LAMBDA_BIAS, WEIGHTED_LAMBDA_BIAS = 2.5, 0.03
    NONNEGATIVE_LAMBDA = 0.5
    """In the place of `LAMBDA`: factors that carry the mean, too, must not be pulled to zero."""
    IMPLICIT_LAMBDA = 0.4
    """Of the largest that leaves anything to learn (`learn.implicit.penalties_of`)."""
    DEVIATION, SPARSE_DEVIATION = 0.05, 0.5
    """With κ, factors that start near zero would all become zero, and stay so."""

    def first_level(self, range_: tuple[float | None, float | None]) -> Level:
        """Return the level before any rating; *range_* is what was configured."""
        if self.loss == "implicit":
            return Level(lowest=0.0, highest=1.0, centred=False)  # of preferences, which are what is predicted
        return Level.of_range(*range_, loss_name=self.loss, centred=not self.nonnegative, step=self.rating_step)

    def targets(self, ratings: F32) -> F32:
        """Return what is predicted of *ratings*: themselves, or whether they are above 0; NaN stays."""
        return np.where(ratings > 0, np.float32(1), ratings) if self.loss == "implicit" else ratings

    @property
    def has_priors(self) -> bool:
        """Whether priors are learned: only least squares with plain λ and plain steps hold rows to means other than zero."""
        plain = not (self.weighted or self.nonnegative or self.l1_user or self.l1_item)
        return self.learn_priors and plain and self.loss == "squared" and self.optimizer == "sgd" and self.schedule != "inverse"

    def rates(self, level: Level) -> Rates:
        """Return the step sizes at *level*."""
        factors, biases = self._unset_rates(level)
        return Rates(
            factors if self.learning_rate is None else self.learning_rate,
            biases if self.bias_learning_rate is None else self.bias_learning_rate,
            self.decay if self.schedule == "count" else 0.0,
            self.power if self.schedule == "inverse" else 0.0,
        )

    def _unset_rates(self, level: Level) -> tuple[float, float]:
        if self.optimizer in UNIT_RATES:
            unit = UNIT_RATES[self.optimizer]
            return unit * math.sqrt(level.spread), unit * level.spread
        share = 1 - self.beta1 if self.optimizer == "momentum" else 1.0
        factors = self.LEARNING_RATE / (level.spread * level.curvature)
        return share * factors, share * self.BIAS_LEARNING_RATE / level.curvature

    def objective(self, level: Level, multipliers: tuple[float, float] = (1.0, 1.0)) -> Objective:
        """Return what is minimised at *level*."""
        return Objective(self.penalty(level, multipliers), level.loss, self.nonnegative, biased=not self.nonnegative)

    def penalty(self, level: Level, multipliers: tuple[float, float] = (1.0, 1.0)) -> Penalty:
        """Return λ and κ of the objective at *level*; λ that are None times the *multipliers* of factors and of biases."""
        factors, biases = multipliers
        plain = self.NONNEGATIVE_LAMBDA if self.nonnegative else self.LAMBDA
        unset = level.spread * level.curvature * (self.WEIGHTED_LAMBDA if self.weighted else plain)
        unset_bias = level.curvature * (self.WEIGHTED_LAMBDA_BIAS if self.weighted else self.LAMBDA_BIAS)
        return Penalty(
            unset * factors if self.lambda_user is None else self.lambda_user,
            unset * factors if self.lambda_item is None else self.lambda_item,
            unset_bias * biases if self.lambda_bias is None else self.lambda_bias,
            self.weighted,
            self.l1_user,
            self.l1_item,
        )

    def deviation(self, level: Level, rank: int) -> float:
        """Return the standard deviation of a new row's first factors, of which there are *rank*, at *level*.

        Non-negative factors are these without their sign, and so large that their product is the mean of the ratings.
        """
        if self.nonnegative:
            mean = level.total / level.n if level.n else level.spread
            return math.sqrt(math.pi / 2 * max(mean, 1e-3 * level.spread) / rank)
        deviation = self.SPARSE_DEVIATION if self.l1_user or self.l1_item else self.DEVIATION
        return deviation * math.sqrt(level.spread)
