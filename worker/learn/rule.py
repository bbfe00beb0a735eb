"""How ratings change rows: the interface behind which learners differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels import filters
from factorstream.worker.kernels.api import F32, F64, Kernels
from factorstream.worker.learn import calibrator
from factorstream.worker.learn.calibrator import Calibrated, Calibrator
from factorstream.worker.learn.implicit import Implicit, Memory
from factorstream.worker.learn.optimizers import RowMoments, part_name
from factorstream.worker.learn.posterior import Posterior, Remembered
from factorstream.worker.learn.priors import Priors
from factorstream.worker.learn.settings import Learning
from factorstream.worker.learn.sgd import Sgd
from factorstream.worker.learn.tested import Tested
from factorstream.worker.model.model import Model, Part
from factorstream.worker.model.ratings import Accepted


class Rule(Protocol):
    """A learning rule. Everything it does to a model is a function of the model, its own settings and what it is given."""

    fold_in: tuple[int, int]
    """Users, and items, with at most so many ratings are wanted with their histories in `Accepted`."""
    rework: int
    """The same for both, where a rating was replaced or taken back."""

    def take_over(self, model: Model) -> None:
        """Remember what *model*'s rows are, which it was given whole: nothing of it was learned rating by rating."""

    def until_due(self, model: Model) -> int | None:
        """Return how many ratings are to be accepted before a batch must end, at least 1; None: it may end anywhere."""

    def step(self, model: Model, accepted: Accepted) -> Tested:
        """Learn from *accepted*, one rating after another; rows that *model* lacks start at their prior.

        Returns: What was predicted of each before it was learned.
        """

    def solve(self, model: Model, side: int, rows: NDArray[np.int32], *, afresh: bool = False) -> F64:
        """Solve *rows* of *side* from all ratings they hold now, against the other side as it is.

        A row that *model* lacks is made. One that holds nothing becomes its prior. *afresh*: exactly, so that nothing is left of
        what the rows were.

        Returns: By how much each lowered the objective, ``(len(rows),)``.
        """

    def forget(self, model: Model, side: int, row: int, others: NDArray[np.int32]) -> None:
        """Remember nothing of *row* of *side*, whose ratings with *others* were just dropped; it is solved next."""

    def end_sweep(self, model: Model) -> None:
        """Estimate anew what is estimated once a sweep: every row has been solved since it was called last."""

    def readout(self, model: Model, side: int, rows: NDArray[np.int64]) -> tuple[F32, F32]:
        """Return what readers get of *rows*: factors ``(n, K)`` and biases ``(n,)``; copies."""


def rule_of(learning: Learning, kernels: Kernels) -> Rule:
    """Return the rule that *learning* asks for."""
    if learning.loss == "implicit":
        return Implicit(kernels, learning)
    rule: Rule = Posterior(kernels, filters(kernels), learning) if learning.learner == "posterior" else Sgd(kernels, learning)
    return Calibrated(rule, kernels) if learning.calibrate else rule


def parts_of(learning: Learning, rank: int) -> Mapping[str, Callable[[], Part]]:
    """Return what makes each part of a model that the rule needs, by name."""
    if learning.loss == "implicit":
        return {Memory.NAME: lambda: Memory(rank)}
    parts: dict[str, Callable[[], Part]] = {}
    if learning.learner == "posterior":
        parts[Remembered.NAME] = lambda: Remembered(rank)
    elif learning.has_priors:
        parts[Priors.NAME] = lambda: Priors(rank)
    if learning.calibrate:
        parts[calibrator.NAME] = Calibrator
    if learning.optimizer != "sgd":
        parts[part_name(learning.optimizer)] = lambda: RowMoments(learning.optimizer, rank)
    return parts
