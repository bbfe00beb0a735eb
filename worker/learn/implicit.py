"""Clicks: confidence-weighted least squares over all pairs, users at each event, items when news have gathered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, F64, Histories, Kernels, Side
from factorstream.worker.kernels.gram import gram_of, replace_rows
from factorstream.worker.kernels.memory import reserve
from factorstream.worker.kernels.ranking import N_SAMPLED, Clicks, rank_clicks
from factorstream.worker.learn.settings import Learning
from factorstream.worker.learn.tested import NO_ROWS, Tested
from factorstream.worker.model.factors import Factors
from factorstream.worker.model.model import ITEMS, USERS, Model
from factorstream.worker.model.ratings import Accepted

LONGEST = 1024
"""Users with at most so many ratings are solved at each of them; longer ones wait in the queue, as items do."""
DRAIN = 64
"""Accepted ratings between two drains of the queue."""
VISITS = (LONGEST, 8)
"""Ratings of a queued user, and item, that one new rating buys a visit of: a row with n is solved when ``n / VISITS`` are new."""


class Kept:
    """What is remembered of one side's rows."""

    def __init__(self, rank: int) -> None:
        self.gram: F64 = np.zeros((rank, rank))
        """``Σ v vᵀ`` over the rows that count, kept up to date row by row; exact after each sweep."""
        self.counts = cast(NDArray[np.bool_], reserve((), np.bool_))
        """By row: whether it was solved since it holds ratings. Others are as they began, and zero to readers."""
        self.news = cast(NDArray[np.int32], reserve((), np.int32))
        """By row: its ratings since it was solved, for rows that go through the queue."""
        self.n = 0
        """Rows that count."""
        self.queue = NO_ROWS
        """Rows with news since the last drain."""

    def add_news(self, rows: NDArray[np.int32]) -> None:
        """Count one new rating for each of *rows*, and queue them."""
        np.add.at(self.news, rows, 1)
        self.queue = np.append(self.queue, rows)

    def take_due(self, held: NDArray[np.int32], visits: int) -> NDArray[np.int32]:
        """Empty the queue; return those of its rows that gathered enough news for the ratings they hold."""
        rows = np.unique(self.queue)
        self.queue = NO_ROWS
        return rows[self.news[rows].astype(np.int64) * visits >= held[rows]]


class Memory:
    """What `Implicit` remembers beside factors (`model.model.Part`)."""

    NAME = "implicit"

    def __init__(self, rank: int) -> None:
        self.sides = (Kept(rank), Kept(rank))
        self.due = np.full(1, DRAIN, np.int64)
        """Ratings accepted when the queue is drained next."""
        self.largest = np.ones(1, np.int64)
        """Most ratings that an item had when the queue was drained."""
        self._n_rows = [0, 0]

    def grow(self, n_users: int, n_items: int) -> None:
        """Remember at least that many rows."""
        self._n_rows = [max(self._n_rows[USERS], n_users), max(self._n_rows[ITEMS], n_items)]

    def tables(self) -> Mapping[str, NDArray[Any]]:
        """Return all of it (`Part`)."""
        tables: dict[str, NDArray[Any]] = {"due": self.due, "largest": self.largest}
        for name, kept, n in zip(("users", "items"), self.sides, self._n_rows, strict=True):
            rows = {"counts": kept.counts[:n], "news": kept.news[:n], "queue": kept.queue, "gram": kept.gram}
            tables.update({f"{name}.{key}": table for key, table in rows.items()})
        return tables

    def restore(self, tables: Mapping[str, NDArray[Any]]) -> None:
        """Become what `tables` returned (`Part`)."""
        self.due, self.largest = tables["due"].copy(), tables["largest"].copy()
        for side, (name, kept) in enumerate(zip(("users", "items"), self.sides, strict=True)):
            n = self._n_rows[side] = len(tables[f"{name}.counts"])
            kept.counts[:n], kept.news[:n] = tables[f"{name}.counts"], tables[f"{name}.news"]
            kept.n = int(np.count_nonzero(kept.counts[:n]))
            kept.queue, kept.gram = tables[f"{name}.queue"].copy(), tables[f"{name}.gram"].copy()


class Implicit:
    """The user's row solved at each event, items' rows through a queue, both over all pairs (`learn.rule.Rule`).

    Between two drains of the queue no item changes, so the users' solves of one batch do not depend on each other, nor on how
    the batch was cut.
    """

    fold_in = (LONGEST, 0)
    rework = 0

    def __init__(self, kernels: Kernels, learning: Learning) -> None:
        self._kernels = kernels
        self._learning = learning

    def take_over(self, model: Model) -> None:
        """Make both Gram matrices of the rows that hold ratings; give the others the start that they need to be learned."""
        memory = memory_of(model)
        memory.grow(model.users.n, model.items.n)
        for side, held in ((USERS, model.ratings.user_counts), (ITEMS, model.ratings.item_counts)):
            memory.sides[side].counts[: len(held)] = held > 0
            memory.sides[side].n = int(np.count_nonzero(held))
            empty = np.flatnonzero(held == 0).astype(np.int32)
            table_of(model, side).restart(empty, self._kernels, self._learning.deviation(model.level, model.rank))
        memory.largest[0] = max(1, int(model.ratings.item_counts.max(initial=0)))
        self.end_sweep(model)

    def until_due(self, model: Model) -> int | None:
        """Return how many ratings are left until the queue is drained."""
        return max(1, int(memory_of(model).due[0]) - model.n_accepted)

    def step(self, model: Model, accepted: Accepted) -> Tested:
        """Rank, solve the events' users, queue their items; drain the queue when that is due."""
        memory, targets = memory_of(model), self._learning.targets(accepted.ratings)
        n_known = np.maximum.accumulate(np.append(model.items.n, accepted.item_rows + 1))[:-1]
        self._grow(model, int(accepted.user_rows.max()) + 1, int(accepted.item_rows.max()) + 1)
        short = accepted.user_counts <= LONGEST
        solved = self._solved_users(model, accepted)
        scores, hits = self._tested(model, accepted, solved, short, n_known)
        users = memory.sides[USERS]
        users.n += replace_rows(
            users.gram,
            model.users.factors,
            users.counts,
            accepted.user_rows[short],
            solved[short],
            accepted.user_counts[short],
        )
        model.users.side.send(accepted.user_rows[short])
        users.add_news(accepted.user_rows[~short])
        memory.sides[ITEMS].add_news(accepted.item_rows)
        n_accepted = model.n_accepted + len(accepted)
        also = self._drain(model, n_accepted) if n_accepted >= memory.due[0] else (NO_ROWS, NO_ROWS)
        return Tested(targets, targets - scores, None, hits, *also)

    def solve(self, model: Model, side: int, rows: NDArray[np.int32], *, afresh: bool = False) -> F64:
        """Set *rows* to the minimiser of the objective over each, and the Gram matrix with them."""
        n = int(rows.max(initial=-1)) + 1
        self._grow(model, n if side == USERS else 0, n if side == ITEMS else 0)
        own, other, kept = table_of(model, side), table_of(model, 1 - side), memory_of(model).sides
        ratings = model.ratings
        held = (ratings.user_counts if side == USERS else ratings.item_counts)[rows]
        histories = ratings.histories_of_users(rows) if side == USERS else ratings.histories_of_items(rows)
        new = Side(own.factors[rows], own.biases[rows])
        gains = self._kernels.implicit(
            new,
            other.on(self._kernels),
            np.arange(len(rows), dtype=np.int32),
            histories,
            kept[1 - side].gram,
            alpha=self._learning.alpha,
            penalties=self._penalties(model, side, histories),
            solver="exact" if afresh else self._learning.solver,
        )
        kept[side].n += replace_rows(kept[side].gram, own.factors, kept[side].counts, rows, new.factors, held)
        own.side.send(rows)
        own.restart(rows[held == 0], self._kernels, self._learning.deviation(model.level, model.rank))
        kept[side].news[rows] = 0
        return gains

    def forget(self, model: Model, side: int, row: int, others: NDArray[np.int32]) -> None:
        """Nothing is remembered of single rows."""

    def end_sweep(self, model: Model) -> None:
        """Make both Gram matrices anew."""
        for side, kept in enumerate(memory_of(model).sides):
            own = table_of(model, side)
            kept.gram = gram_of(own.factors, kept.counts[: own.n])

    def readout(self, model: Model, side: int, rows: NDArray[np.int64]) -> tuple[F32, F32]:
        """Return the rows, zero where they are as they began."""
        own = table_of(model, side)
        return own.factors[rows] * memory_of(model).sides[side].counts[rows, None], own.biases[rows]

    def _solved_users(self, model: Model, accepted: Accepted) -> F32:
        """Return what each event makes of its user's row, ``(n, K)``; zero where it holds nothing, or more than `LONGEST`."""
        n = len(accepted)
        new = Side(np.zeros((n, model.rank), np.float32), np.zeros(n, np.float32))
        self._kernels.implicit(
            new,
            model.items.on(self._kernels),
            np.arange(n, dtype=np.int32),
            accepted.user_histories,
            memory_of(model).sides[ITEMS].gram,
            alpha=self._learning.alpha,
            penalties=self._penalties(model, USERS, accepted.user_histories),
            solver="exact",
        )
        return new.factors

    def _tested(
        self, model: Model, accepted: Accepted, solved: F32, short: NDArray[np.bool_], n_known: NDArray[np.int64]
    ) -> tuple[F32, F32]:
        """Return each event's score before it, and whether its item was among the ten best: asked of new pairs alone."""
        users, items = memory_of(model).sides
        new_pair = (accepted.changes == 1) & (accepted.ratings > 0)
        asked = new_pair & short & (n_known - accepted.user_counts >= N_SAMPLED)
        scores, hits = np.zeros(len(accepted), np.float32), np.where(asked, np.float32(0), np.float32(np.nan))
        rank_clicks(
            Clicks(
                accepted.user_rows,
                accepted.item_rows,
                solved,
                short,
                asked,
                n_known.astype(np.int64),
                accepted.user_histories,
            ),
            model.users.on_host.factors,
            users.counts,
            model.items.on_host.factors,
            items.counts,
            model.n_accepted,
            scores,
            hits,
        )
        return scores, hits

    def _drain(self, model: Model, n_accepted: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Solve queued users, then items, that are due; return which."""
        memory, item_counts = memory_of(model), model.ratings.item_counts
        memory.largest[0] = max(memory.largest[0], item_counts[memory.sides[ITEMS].queue].max())
        due = []
        for side, held in ((USERS, model.ratings.user_counts), (ITEMS, item_counts)):
            due.append(memory.sides[side].take_due(held, VISITS[side]))
            self.solve(model, side, due[-1])
        memory.due[0] = n_accepted + DRAIN
        return due[USERS], due[ITEMS]

    def _penalties(self, model: Model, side: int, histories: Histories) -> F32:
        """Return λ of rows of *side* with these *histories*."""
        n = len(histories.starts) - 1
        # bincount: each row for itself, so that the bits do not depend on those beside it
        entries = np.repeat(np.arange(n), np.diff(histories.starts))
        strengths: F64 = np.bincount(entries, histories.ratings, n).astype(np.float64, copy=False)
        memory = memory_of(model)
        found = penalties_of(self._learning, side, strengths, memory.sides[1 - side].n, int(memory.largest[0]))
        return found.astype(np.float32)

    def _grow(self, model: Model, n_users: int, n_items: int) -> None:
        deviation = self._learning.deviation(model.level, model.rank)
        model.users.grow(n_users, self._kernels, deviation)
        model.items.grow(n_items, self._kernels, deviation)
        memory_of(model).grow(model.users.n, model.items.n)


def penalties_of(learning: Learning, side: int, strengths: F64, n_across: int, largest: int) -> F64:
    """Return λ of rows of *side* whose ratings add up to *strengths*, ``(n,)``.

    λ that is not set goes with ``(1 + α) √largest``, *largest* being how many ratings an item has at most: the largest singular
    value of the confidences is at least that, and with λ above it every factor would be zero. Weighted, λ counts once for each
    unit of a row's confidence over all pairs: α times its strengths, and 1 for each of *n_across* rows that count across.
    """
    told = learning.lambda_user if side == USERS else learning.lambda_item
    unset = learning.IMPLICIT_LAMBDA * (1 + learning.alpha) * float(max(1, largest)) ** 0.5
    n_terms = max(1, n_across)
    if learning.weighted:
        return (unset / n_terms if told is None else told) * (n_terms + learning.alpha * strengths)
    return np.full(len(strengths), unset if told is None else told)


def memory_of(model: Model) -> Memory:
    """Return the model's memory; `learn.learner.adopt` has made it."""
    return cast(Memory, model.parts[Memory.NAME])


def table_of(model: Model, side: int) -> Factors:
    """Return one side's rows."""
    return model.users if side == USERS else model.items
