"""From changed rows to what readers get: the arrow between Changes and Embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.model.model import ITEMS, USERS, Model
from factorstream.worker.pending import RATED, SLOTS, SOLVED
from factorstream.worker.ports import Block, Embeddings, Publication, SeenItems
from factorstream.worker.state import State
from factorstream.worker.timing import Clock

ROWS_AT_ONCE = 10_000
"""Rows of one side in one publication: a worker that has everything to publish stays a worker that learns."""
SOLVED_AT_ONCE = 1_000
"""The same of rows that only a sweep changed, some 3 ms: it changes more than can be written, and ratings come first."""
SAVED_UP_S = 0.1
"""How much of the blocks' budget can be saved: what is written at once delays the ratings after it."""
HEADER_BYTES = 296
"""Of a block, with a guess of the ids' share."""

Rows = NDArray[np.int64]

Readout = Callable[[Model, int, Rows], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""What readers get of rows of a side: factors ``(n, K)`` and biases ``(n,)`` (`learn.rule.Rule.readout`)."""


class Uncertainty(Protocol):
    """How sure the model is (`learn.uncertainty`)."""

    def variances(self, model: Model, side: int, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return those of what readers get of *rows* of a side: factors ``(n, K)`` and biases ``(n,)``."""

    def priors(self, model: Model) -> Mapping[str, object]:
        """Return the fields of `factorstream.meta.Priors`."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A publication, and the pending rows that it takes care of."""

    publication: Publication
    users: Rows
    """Rows with numbers that are not finite are among them but not published: the last good ones stay with the readers."""
    items: Rows
    seen: Rows
    blocks: list[int]

    def published(self, state: State) -> None:
        """Note that readers have it."""
        pending = state.pending
        pending.users[self.users] = 0
        pending.items[self.items] = 0
        pending.seen[self.seen] = False
        for number in self.blocks:
            del pending.blocks[number]
        if pending.renewal is not None:
            pending.renewal.note(self.users, self.items, self.blocks)
        pending.removed_users.clear()
        pending.removed_items.clear()
        pending.oldest_record_ms = None


class Rota:
    """Whose turn it is when more rows changed than one publication takes: it goes round, so that no row waits for ever."""

    def __init__(self) -> None:
        self._next = 0

    def rows(self, flags: NDArray[np.bool_], most: int = ROWS_AT_ONCE) -> Rows:
        """Return rows that are flagged, *most* at most."""
        rows = np.flatnonzero(flags)
        if len(rows) <= most:
            return rows
        rows = np.roll(rows, -int(np.searchsorted(rows, self._next)))[:most]
        self._next = int(rows[-1]) + 1
        return rows


class Side:
    """What is next of one side's rows: those with ratings, then some of those that only a sweep changed."""

    def __init__(self) -> None:
        self._rated, self._solved = Rota(), Rota()

    def rows(self, reasons: NDArray[np.uint8], n_solved: int) -> Rows:
        """Return the rows to publish, ascending; at most *n_solved* of those that can wait."""
        rated = self._rated.rows(reasons == RATED)
        solved = self._solved.rows(reasons == SOLVED, n_solved)
        return np.sort(np.concatenate([rated, solved]))


class Drafter:
    """Chooses what is published next: rows with ratings at once, solved ones some at a time, blocks within bytes a second."""

    def __init__(
        self,
        readout: Readout,
        uncertainty: Uncertainty | None = None,
        *,
        seen_items: int,
        block_bytes_per_s: float,
        loss: str,
        clock: Clock,
    ) -> None:
        self._readout = readout
        self._uncertainty = uncertainty
        self._seen_items = seen_items
        self._block_bytes_per_s = block_bytes_per_s
        self._loss = loss
        self._clock = clock
        self._allowance = 0.0
        self._users, self._items, self._seen_lists = Side(), Side(), Rota()
        self._last = clock()

    def draft(self, state: State, *, everything: bool = False) -> Draft:
        """Return the next publication of *state*; with *everything*, blocks whatever they weigh."""
        model, pending = state.model, state.pending
        n_solved = ROWS_AT_ONCE if everything or pending.renewal is not None else SOLVED_AT_ONCE
        users = self._users.rows(pending.users[: model.users.n], n_solved)
        items = self._items.rows(pending.items[: model.items.n], n_solved)
        seen = self._seen_lists.rows(pending.seen[: model.users.n])
        blocks = list(pending.blocks) if everything else self._affordable(state)
        publication = Publication(
            position=model.position,
            users=self._user_embeddings(state, users[model.users.finite(users)]),
            items=self._item_embeddings(state, items[model.items.finite(items)]),
            seen=self._seen(state, seen),
            blocks=[self._block(state, number) for number in blocks],
            removed_users=list(pending.removed_users),
            removed_items=list(pending.removed_items),
            meta=self._meta(state),
        )
        return Draft(publication, users, items, seen, blocks)

    def _affordable(self, state: State) -> list[int]:
        """Return the oldest dirty blocks that the budget has room for."""
        now = self._clock()
        saved = self._allowance + (now - self._last) * self._block_bytes_per_s
        self._allowance = min(SAVED_UP_S * self._block_bytes_per_s, saved)
        self._last = now
        blocks = []
        weight = HEADER_BYTES + SLOTS * (4 * (state.model.rank + 2) + 12)
        for number in state.pending.blocks:
            if self._allowance < 0:
                break
            self._allowance -= weight
            blocks.append(number)
        return blocks

    def _user_embeddings(self, state: State, rows: Rows) -> Embeddings:
        ratings = state.model.ratings
        names, rows = _alive(state.identities.users.names, rows)
        vectors, variances = _vectors(self._readout, state.model, USERS, rows), self._variances(state.model, USERS, rows)
        return Embeddings(names, vectors, ratings.user_counts[rows].astype(np.uint32), ratings.user_newest_ms[rows], variances)

    def _item_embeddings(self, state: State, rows: Rows) -> Embeddings:
        ratings = state.model.ratings
        names, rows = _alive(state.identities.items.names, rows)
        vectors, variances = _vectors(self._readout, state.model, ITEMS, rows), self._variances(state.model, ITEMS, rows)
        return Embeddings(names, vectors, ratings.item_counts[rows].astype(np.uint32), ratings.item_newest_ms[rows], variances)

    def _variances(self, model: Model, side: int, rows: Rows) -> NDArray[np.float32] | None:
        return None if self._uncertainty is None else np.column_stack(self._uncertainty.variances(model, side, rows))

    def _seen(self, state: State, rows: Rows) -> SeenItems:
        names, rows = _alive(state.identities.users.names, rows)
        starts, item_rows = state.model.ratings.newest_items(rows.astype(np.int32), self._seen_items)
        return SeenItems(names, starts, item_rows.astype(np.uint32))

    def _block(self, state: State, number: int) -> Block:
        """Return block *number* as it is now; items that were removed, or whose numbers are not finite, do not live in it."""
        items = state.model.items
        rows = np.arange(number * SLOTS, min((number + 1) * SLOTS, items.n))
        finite = items.finite(rows)
        names = state.identities.items.names
        ids = [names[row] or None if good else None for row, good in zip(rows.tolist(), finite.tolist(), strict=True)]
        vectors = _vectors(self._readout, state.model, ITEMS, rows)
        vectors[~finite] = 0.0
        return Block(number, ids, vectors)

    def _meta(self, state: State) -> Mapping[str, object]:
        model, level = state.model, state.model.level
        return {
            "journal_id": state.journal_id,
            "rank": model.rank,
            "dtype": "float32",
            "loss": self._loss,
            "link": level.link,
            "categories": level.categories,
            "cuts": level.cuts,
            "intercept": level.intercept,
            "range": None if level.lowest is None or level.highest is None else (level.lowest, level.highest),
            "uncertainty": None if self._uncertainty is None else self._uncertainty.priors(model),
            "n_users": len(state.identities.users),
            "n_items": len(state.identities.items),
            "position": model.position,
            "offsets": dict(state.offsets),
        }


def _alive(names: list[str], rows: Rows) -> tuple[list[str], Rows]:
    """Return the ids of *rows*, and the rows, without those that were forgotten."""
    ids = [names[row] for row in rows.tolist()]
    if all(ids):
        return ids, rows
    keep = [j for j, name in enumerate(ids) if name]
    return [ids[j] for j in keep], rows[keep]


def _vectors(readout: Readout, model: Model, side: int, rows: Rows) -> NDArray[np.float32]:
    """Return ``(n, K + 2)``: factors, then ``b, 1`` for users or ``1, c`` for items."""
    factors, biases = readout(model, side, rows)
    ones = np.ones_like(biases)
    ends = (biases, ones) if side == USERS else (ones, biases)
    return np.column_stack([factors, *ends]).astype(np.float32, copy=False)
