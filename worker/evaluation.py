"""Test, then train: how well each rating is predicted just before it is learned, over a whole history."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from factorstream.worker.errors import UserMistake
from factorstream.worker.history import History
from factorstream.worker.kernels.api import F32, F64
from factorstream.worker.learn.learner import Learned, Learner
from factorstream.worker.learn.settings import Learning
from factorstream.worker.learn.tested import tested
from factorstream.worker.model.journal import Events, Kind
from factorstream.worker.model.level import Level
from factorstream.worker.model.model import Model

NONE = np.empty(0, np.float32)
DEVIATIONS = 1.6449
"""Half of the 90 % interval of a Gaussian."""
CHUNK = 20_000
"""Ratings handed over at once; it changes no figure but the time."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Errors over every rating, predictions clipped to the range known before each."""

    n_ratings: int
    rmse: float
    mae: float
    loss: float
    """Mean ℓ of the scores: squared ½ error², logistic and ordinal the cross-entropy, Poisson but for log x!."""
    seconds: float
    """Of learning, and of nothing else."""
    n_sweeps: int
    recall_at_10: float | None
    """Implicit loss: share of new pairs whose item was among the ten best of a hundred sampled ones; else None."""
    coverage: float | None
    """Share of ratings that the 90 % intervals of their predictions held, where the learner knows how sure it is; else None."""

    @property
    def ratings_per_s(self) -> float:
        """Ratings predicted and learned in a second."""
        return self.n_ratings / max(self.seconds, 1e-9)


def events_of(history: History) -> Events:
    """Return *history* as events; its codes are their rows."""
    kinds = np.full(len(history), Kind.RATE, np.uint8)
    return Events(kinds, history.user_codes, history.item_codes, history.ratings, history.timestamps_ms)


def check_ratings(learning: Learning, level: Level, ratings: F32) -> None:
    """Raise `UserMistake` where *ratings* of a file are none that *learning* can learn; *level* is that before any rating."""
    wrong = ratings[~level.learnable(ratings)]
    if len(wrong):
        categories = f"from {level.lowest} to {level.highest} at steps of {level.step}"
        told = {
            "implicit": "strengths of clicks, at least 0: leave such lines out, or write 0 for what was taken back",
            "poisson": "counts, at least 0: mend the file, or choose another loss",
            "logistic": "0 and 1, no and yes: turn them into these",
            "ordinal": f"{categories}: set model.rating_min, rating_max and rating_step to the categories there are",
            "squared": "at least 0, for model.nonnegative is true: mend the file, or leave that out",
        }
        raise UserMistake(
            f"the file has a rating of {wrong[0]:g}, and with model.loss = {learning.loss!r} ratings are {told[learning.loss]}"
        )


def evaluate(learner: Learner, model: Model, events: Events) -> Evaluation:
    """Predict and learn *events*, ratings by time, one after another; *model* learns.

    A rating that is old news (its pair holds one that is as new) is not learned, but predicted and counted like the others.
    """
    tally = Tally()
    tally.add(learner, model, events)
    return tally.evaluation(model)


def evaluate_so_far(learner: Learner, model: Model, events: Events, n_pieces: int) -> Iterator[Evaluation]:
    """Evaluate *events* as `evaluate` does; yield after each of about *n_pieces* pieces what was found up to there."""
    tally = Tally()
    for piece in pieces(events, n_pieces):
        tally.add(learner, model, piece)
        yield tally.evaluation(model)


def pieces(events: Events, n: int) -> Iterator[Events]:
    """Yield *events*, ratings by time, in about *n* parts of about one length, none of them empty; no moment is in two of them.

    Evaluating them one after another is evaluating all: only at equal times can one rating be old news to another.
    """
    moments = np.flatnonzero(np.diff(events.timestamps_ms, prepend=events.timestamps_ms[0] - 1))  # where each begins
    wanted = np.linspace(0, len(events), n + 1)[1:-1]
    inner = moments[np.minimum(np.searchsorted(moments, wanted), len(moments) - 1)]
    edges = np.unique(np.concatenate([[0], inner, [len(events)]])).tolist()
    for start, stop in pairwise(edges):
        yield events[start:stop]


@dataclass(slots=True)
class Tally:
    """Sums over what was predicted so far."""

    n_ratings: int = 0
    squared: float = 0.0
    absolute: float = 0.0
    loss: float = 0.0
    seconds: float = 0.0
    n_ranked: int = 0
    n_hits: float = 0.0
    n_foreseen: int = 0
    n_inside: int = 0

    def add(self, learner: Learner, model: Model, events: Events) -> None:
        """Predict and learn *events*."""
        repeated = _repeated(events)
        for start, stop in zip([0, *repeated], [*repeated, len(events)], strict=True):
            part = events[start:stop]
            began = time.perf_counter()
            for first in range(0, len(part), CHUNK):
                errors, losses, done = _tested(learner, model, part[first : first + CHUNK])
                self.squared += float(np.square(errors).sum())  # not a product of BLAS, whose threads go on spinning
                self.absolute += float(np.abs(errors).sum())
                self.loss += float(losses.sum())
                for learned in done:
                    self._count(learned)
            self.seconds += time.perf_counter() - began
        self.n_ratings += len(events)

    def evaluation(self, model: Model) -> Evaluation:
        """Return the means."""
        n = max(1, self.n_ratings)
        recall = self.n_hits / self.n_ranked if self.n_ranked else None
        coverage = self.n_inside / self.n_foreseen if self.n_foreseen else None
        return Evaluation(
            self.n_ratings,
            (self.squared / n) ** 0.5,
            self.absolute / n,
            self.loss / n,
            self.seconds,
            model.sweep.n_sweeps,
            recall,
            coverage,
        )

    def _count(self, learned: Learned) -> None:
        """Count what else is known of predictions."""
        if learned.hits is not None:
            self.n_ranked += int(np.count_nonzero(~np.isnan(learned.hits)))
            self.n_hits += float(np.nansum(learned.hits))
        if learned.variances is not None:
            self.n_foreseen += len(learned.variances)
            self.n_inside += int(np.count_nonzero(np.abs(learned.errors) <= DEVIATIONS * np.sqrt(learned.variances)))


def _tested(learner: Learner, model: Model, events: Events) -> tuple[F64, F64, list[Learned]]:
    """Learn *events*, of which only the first may be old news; return errors and losses, ``(len(events),)``, and each part."""
    first = _before(learner, model, events)
    done = [learned for learned in learner.learn(model, events) if learned.accepted is not None]
    if sum(len(learned.errors) for learned in done) == len(events):
        first = NONE, NONE
    errors = np.concatenate([first[0], *(learned.clipped for learned in done)]).astype(np.float64)
    losses = np.concatenate([first[1], *(learned.losses for learned in done)]).astype(np.float64)
    return errors, losses, done


def _repeated(events: Events) -> list[int]:
    """Return which events have the pair and the time of one before them: only these can be old news, as times ascend."""
    order = np.lexsort((np.arange(len(events)), events.timestamps_ms, events.item_rows, events.user_rows))
    columns = (events.user_rows[order], events.item_rows[order], events.timestamps_ms[order])
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return sorted(order[1:][same].tolist())


def _before(learner: Learner, model: Model, events: Events) -> tuple[F32, F32]:
    """Return error and loss of the first rating before it teaches anything."""
    target = learner.learning.targets(events.ratings[:1])
    score = model.score(int(events.user_rows[0]), int(events.item_rows[0])) if len(events) else 0.0
    found = tested(model.level, target, np.full(len(target), score))
    return replace(model.level).clip(target, found.errors), found.losses
