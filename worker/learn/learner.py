"""From events to a better model: every rating at once and in order, and a block of the sweep whenever one is due."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, Kernels
from factorstream.worker.learn.rule import parts_of, rule_of
from factorstream.worker.learn.settings import Learning
from factorstream.worker.learn.sweeper import Solved, Sweeper
from factorstream.worker.learn.tested import NO_ROWS
from factorstream.worker.model.journal import ENTRY, Entries, Events, Kind
from factorstream.worker.model.model import ITEMS, USERS, Model
from factorstream.worker.model.ratings import Accepted

MOST = np.iinfo(np.int64).max
REPLAYED_AT_ONCE = 5_000
"""Entries handed over at once; it changes nothing but the time."""


@dataclass(frozen=True, slots=True)
class Learned:
    """One part of a batch, learned. Entries of `errors` belong to those of `accepted`."""

    accepted: Accepted | None
    """None for a forgetting."""
    errors: F32
    """``x − prediction`` before each step; NaN for an unrate."""
    clipped: F32
    """The same with the prediction clipped to the range known before that rating."""
    losses: F32
    """ℓ before each step, of a score that is not clipped; NaN for an unrate."""
    hits: F32 | None
    """Whether its item was ranked among the ten best of sampled ones before it was learned (`Tested.hits`)."""
    other_entries: Entries
    """What the journal gets beside `accepted`."""
    touched_users: NDArray[np.int32]
    """Rows changed by a forgetting, or beside those of the events."""
    touched_items: NDArray[np.int32]
    solved: Solved | None
    """The block that fell due at the end of the part."""
    variances: F32 | None = None
    """What the square of each error was expected to be, if the learner knows how sure it is (`Tested.variances`)."""

    @property
    def entries(self) -> Entries:
        """What the journal gets; made anew each time."""
        return self.other_entries if self.accepted is None else entries_of(self.accepted)


def new_model(learning: Learning, rank: int, seed: int, range_: tuple[float | None, float | None] = (None, None)) -> Model:
    """Return a model that has learned nothing but the *range_* of ratings, where that is configured, with *learning*'s parts."""
    model = Model(rank, seed, level=learning.first_level(range_))
    adopt(learning, model)
    return model


def adopt(learning: Learning, model: Model) -> None:
    """Give *model* the parts that *learning* needs: those it has stay as they are, others start anew or go."""
    wanted = parts_of(learning, model.rank)
    model.parts = {name: model.parts.get(name) or new() for name, new in wanted.items()}


class Learner:
    """Accept, step, solve. The only writer of a model.

    However a stream is cut into calls of `learn`, the model ends with the same bits: parts are cut where a block or a new
    estimate of the level falls due, which depends on the number of ratings accepted alone.
    """

    def __init__(self, kernels: Kernels, learning: Learning) -> None:
        self.learning = learning
        self.rule = rule_of(learning, kernels)
        self.sweeper = Sweeper(self.rule, learning)

    def learn(self, model: Model, events: Events) -> Iterator[Learned]:
        """Learn from *events* in order; yield after each part. All of it must be drawn."""
        adopt(self.learning, model)
        model.ratings.grow(int(events.user_rows.max(initial=-1)) + 1, int(events.item_rows.max(initial=-1)) + 1)
        start = 0
        for at in np.append(np.flatnonzero(events.kinds >= Kind.FORGET_USER), len(events)):
            while start < at:
                accepted = self._accept(model, events, start, int(at))
                start = accepted.stop
                if len(accepted.user_rows):
                    yield self._step(model, accepted)
            if at < len(events):
                yield self._forget(model, events, int(at))
                start = int(at) + 1

    def solve_idle_block(self, model: Model) -> Learned:
        """Solve a block that is not due, because there is time."""
        entries = np.zeros(1, ENTRY)
        entries["kind"] = Kind.IDLE_BLOCK
        return Learned(None, NO_ERRORS, NO_ERRORS, NO_ERRORS, None, entries, NO_ROWS, NO_ROWS, self.sweeper.solve_block(model))

    def replay(self, model: Model, entries: Entries) -> Iterator[Learned]:
        """Do again what *entries* say, on a model as it was before them."""
        adopt(self.learning, model)  # also where these settings taught nothing
        start = 0
        for at in np.append(np.flatnonzero(entries["kind"] == Kind.IDLE_BLOCK), len(entries)):
            for first in range(start, int(at), REPLAYED_AT_ONCE):
                yield from self.learn(model, Events.of_entries(entries[first : min(first + REPLAYED_AT_ONCE, at)]))
            if at < len(entries):
                yield self.solve_idle_block(model)
            start = int(at) + 1

    def _accept(self, model: Model, events: Events, start: int, stop: int) -> Accepted:
        limits = (self.sweeper.until_due(model), model.level.until_next() or None, self.rule.until_due(model))
        of_users, of_items = self.rule.fold_in
        head = events[:stop]
        return model.ratings.accept(
            head.kinds,
            head.user_rows,
            head.item_rows,
            head.ratings,
            head.timestamps_ms,
            start=start,
            limit=min((limit for limit in limits if limit), default=MOST),
            fold_in=of_users,
            fold_in_items=of_items,
            rework=self.rule.rework,
        )

    def _step(self, model: Model, accepted: Accepted) -> Learned:
        tested = self.rule.step(model, accepted)
        clipped = model.level.clip(tested.targets, tested.errors)
        model.n_accepted += len(accepted.user_rows)
        model.level.add(tested.targets)
        return Learned(
            accepted,
            tested.errors,
            clipped,
            tested.losses,
            tested.hits,
            NO_ENTRIES,
            tested.also_users,
            tested.also_items,
            self.sweeper.advance(model),
            tested.variances,
        )

    def _forget(self, model: Model, events: Events, at: int) -> Learned:
        """Forget a user or remove an item; what the row still holds is all that it is then solved from.

        Rows of the other side that it leaves with nothing become their prior.
        """
        kind, time = events.kinds[at], int(events.timestamps_ms[at])
        user, item = int(events.user_rows[at]), int(events.item_rows[at])
        if kind == Kind.FORGET_USER:
            users, items = np.array([user], np.int32), model.ratings.forget_user(user, time)
        else:
            users, items = model.ratings.remove_item(item, time), np.array([item], np.int32)
        side, row = (USERS, user) if kind == Kind.FORGET_USER else (ITEMS, item)
        others = items if side == USERS else users
        self.rule.forget(model, side, row, others)
        self.rule.solve(model, side, np.array([row], np.int32), afresh=True)
        self.rule.solve(model, ITEMS if side == USERS else USERS, _emptied(model, side, others))
        model.n_accepted += 1  # published rows change, so the position does
        entries = np.zeros(1, ENTRY)
        entries["kind"], entries["user"], entries["item"], entries["rating"], entries["time"] = kind, user, item, np.nan, time
        return Learned(None, NO_ERRORS, NO_ERRORS, NO_ERRORS, None, entries, users, items, None)


def _emptied(model: Model, side: int, others: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return which of *others*, rows across from *side*, hold nothing and have factors that say otherwise."""
    counts, table = (model.ratings.item_counts, model.items) if side == USERS else (model.ratings.user_counts, model.users)
    emptied: NDArray[np.bool_] = (counts[others] == 0) & (others < table.n)
    return others[emptied]


NO_ERRORS = np.empty(0, np.float32)
NO_ENTRIES = np.empty(0, ENTRY)


def entries_of(accepted: Accepted) -> Entries:
    """Return the journal's entries of *accepted*."""
    entries = np.empty(len(accepted.user_rows), ENTRY)
    entries["kind"] = np.where(np.isnan(accepted.ratings), Kind.UNRATE, Kind.RATE)
    entries["user"], entries["item"] = accepted.user_rows, accepted.item_rows
    entries["rating"], entries["time"] = accepted.ratings, accepted.timestamps_ms
    return entries
