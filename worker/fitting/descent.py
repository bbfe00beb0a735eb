"""Gradient steps over a whole history, and the λ that suits it.

λ is learned as in the stream (`learn.priors`): with the right one, errors have no slope over products u·v. An error is honest
until its rating was learned, so one section is kept back until λ has settled, and is learned like the others from then on. At
first products are too small whatever λ is: factors have *grown* once the slope is no longer steep. Until then steps stay long.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from factorstream.worker.fitting.sections import Part, sections_of
from factorstream.worker.kernels.api import Kernels
from factorstream.worker.learn.optimizers import optimizer_of
from factorstream.worker.learn.priors import priors_of
from factorstream.worker.learn.settings import Learning
from factorstream.worker.model.model import Model

EPOCHS_TO_HALF, GROWN_EPOCHS_TO_HALF = 5, 2
"""After which steps are half as long: of all where λ is given, of those since factors have grown where it is learned."""
SETTLED = 14
"""Epochs after which nothing is kept back any more; two thirds of all where these are fewer."""
FEWEST, MOST = 500, 100_000
"""Ratings kept back that say enough, and about how many of them are asked."""
FIRST = 0.36
"""What λ begins with, of the one that is only about right: factors grow sooner, and a λ too small shows more clearly."""
STEEP, CLEAR = 0.2, 0.2
"""A slope that says that factors still grow, and the standard error of one that says anything."""
GAIN, MOST_MOVED, RIGHT = 2.0, 0.7, 0.02
"""How far log λ moves for each slope of 1 off the right one, and at most."""
DOUBT = 4.0
"""A slope of z standard errors counts ``z² / (z² + DOUBT)``."""
RANGE = 1 / 160, 4.0
"""Least and most that λ is multiplied by."""


class Descent:
    """A step for each rating held, epoch after epoch."""

    def __init__(
        self, model: Model, kernels: Kernels, learning: Learning, *, learn_penalty: bool, n_epochs: int, seed: int, minibatch: int
    ) -> None:
        """Draw the order of steps over the ratings of *model* from *seed*.

        Args:
            learn_penalty: Whether λ of *learning* is only about right.
        """
        self._model, self._kernels, self._given = model, kernels, learning
        priors = priors_of(model)
        if priors is not None:  # steps hold rows to zero, whatever those that they met said in a fit before
            priors.say_nothing()
        self._random = np.random.default_rng(seed)
        self._sections = [
            [part._replace(batch=kernels.keep(part.batch)) for part in section]
            for section in sections_of(model.ratings, self._random, minibatch)
        ]
        self._epoch, self._kept_back = 0, KeptBack(self._sections[0])
        self._n_kept_back = min(SETTLED, 2 * n_epochs // 3) if learn_penalty and self._kept_back.says_enough else 0

    @property
    def settled(self) -> bool:
        """Whether all ratings are learned from, and λ stays what it is."""
        return self._epoch >= self._n_kept_back

    @property
    def learning(self) -> Learning:
        """What is minimised."""
        if not self._n_kept_back:
            return self._given
        user, item = (self._kept_back.multiplier * (given or 0.0) for given in (self._given.lambda_user, self._given.lambda_item))
        return replace(self._given, lambda_user=user, lambda_item=item)

    def improve(self) -> None:
        """Take a step for each rating but those kept back."""
        learning, level, kernels = self.learning, self._model.level, self._kernels
        rates, share = learning.rates(level), self._share()
        for chosen in self._random.permutation(len(self._sections)):
            for batch, apart in self._sections[chosen] if chosen or self.settled else ():
                kernels.sgd(
                    self._model.users.on(kernels),
                    self._model.items.on(kernels),
                    batch,
                    intercept=level.intercept,
                    objective=learning.objective(level),
                    rates=rates._replace(factors=rates.factors * share, biases=rates.biases * share),
                    optimizer=optimizer_of(learning, self._model, kernels),
                    apart=apart,
                )
        if not self.settled:
            self._kept_back.ask(self._model)
        self._epoch += 1

    def _share(self) -> float:
        """Return how long steps are, of those of the stream: falling, so that they end near the minimum."""
        if self._n_kept_back:
            return 1.0 / (1.0 + max(0, self._epoch - self._kept_back.n_growing) / GROWN_EPOCHS_TO_HALF)
        return 1.0 / (1.0 + self._epoch / EPOCHS_TO_HALF)


class KeptBack:
    """Ratings that were not learned from yet, and what their errors say of λ."""

    def __init__(self, section: list[Part]) -> None:
        """Choose some of *section*."""
        self.multiplier = FIRST
        """Of λ."""
        self.n_growing = 0
        """Epochs for which factors have been growing."""
        self._grown = False
        columns = [
            np.concatenate([np.empty(0, dtype), *(part.batch[column] for part in section)])
            for column, dtype in enumerate((np.int32, np.int32, np.float32))
        ]
        self._users, self._items, self._ratings = (column[:: 1 + len(column) // MOST] for column in columns)

    @property
    def says_enough(self) -> bool:
        """Whether there are enough ratings to go by."""
        return len(self._ratings) >= FEWEST

    def ask(self, model: Model) -> None:
        """Find out whether factors have grown, and move λ by the slope of errors over products once they have."""
        users, items, rows = model.users, model.items, (self._users, self._items)
        products = np.einsum("nk,nk->n", users.factors[rows[0]], items.factors[rows[1]], dtype=np.float64)
        errors = self._ratings - (model.level.intercept + users.biases[rows[0]] + items.biases[rows[1]] + products)
        # sums, not products of BLAS: its threads spin for a while after, when the next epoch needs their core
        square, noise = float(np.square(products).sum()), float(np.square(errors).sum()) / len(errors)
        if not (square > 0 and noise > 0 and math.isfinite(noise / square)):
            return
        slope, deviation = float((errors * products).sum()) / square, math.sqrt(noise / square)
        self._grown = self._grown or (slope < STEEP and deviation < CLEAR)
        if not self._grown:
            self.n_growing += 1
            return
        weight = slope**2 / (slope**2 + DOUBT * deviation**2)
        moved = self.multiplier * math.exp(-float(np.clip(GAIN * weight * (slope - RIGHT), -MOST_MOVED, MOST_MOVED)))
        self.multiplier = float(np.clip(moved, *RANGE))
