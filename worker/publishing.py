"""From changed rows to what readers get: the arrow between Changes and Embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.model.factors import Factors
from factorstream.worker.ports import Block, Embeddings, Publication, SeenItems
from factorstream.worker.state import SLOTS, State
from factorstream.worker.timing import Clock

ROWS_AT_ONCE = 50_000
"""Rows of one side in one publication: a worker that has everything to publish stays a worker that learns."""
HEADER_BYTES = 296
"""Of a block, with a guess of the ids' share."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Draft:
    """A publication, and the pending rows that it takes care of."""

    publication: Publication
    users: Rows
    items: Rows
    seen: Rows
    blocks: list[int]
    n_withheld: int
    """Rows with numbers that are not finite: the last good ones stay with the readers."""

    def published(self, state: State) -> None:
        """Note that readers have it."""
        pending = state.pending
        pending.users[self.users] = False
        pending.items[self.items] = False
        pending.seen[self.seen] = False
        for number in self.blocks:
            del pending.blocks[number]
        pending.removed_users.clear()
        pending.removed_items.clear()
        pending.oldest_record_ms = None


class Turn:
    """Whose turn it is when more rows changed than one publication takes: it goes round, so that no row waits for ever."""

    def __init__(self) -> None:
        self._next = 0

    def rows(self, flags: NDArray[np.bool_]) -> Rows:
        """Return rows that are flagged, at most `ROWS_AT_ONCE`."""
        rows = np.flatnonzero(flags)
        if len(rows) <= ROWS_AT_ONCE:
            return rows
        rows = np.roll(rows, -int(np.searchsorted(rows, self._next)))[:ROWS_AT_ONCE]
        self._next = int(rows[-1]) + 1
        return rows


class Drafter:
    """Chooses what is published next: every changed row at once, blocks of items within a budget of bytes a second."""

    def __init__(self, *, seen_items: int, block_bytes_per_s: float, loss: str, clock: Clock) -> None:
        self._seen_items = seen_items
        self._block_bytes_per_s = block_bytes_per_s
        self._loss = loss
        self._clock = clock
        self._allowance = 0.0
        self._turns = {"users": Turn(), "items": Turn(), "seen": Turn()}
        self._last = clock()

    def draft(self, state: State, *, everything: bool = False) -> Draft:
        """Return the next publication of *state*; with *everything*, blocks whatever they weigh."""
        model, pending = state.model, state.pending
        users = self._turns["users"].rows(pending.users[: model.users.n])
        items = self._turns["items"].rows(pending.items[: model.items.n])
        good_users, good_items = users[model.users.finite(users)], items[model.items.finite(items)]
        seen = self._turns["seen"].rows(pending.seen[: model.users.n]) if self._seen_items else users[:0]
        blocks = list(pending.blocks) if everything else self._affordable(state)
        publication = Publication(
            position=model.position,
            users=self._user_embeddings(state, good_users),
            items=self._item_embeddings(state, good_items),
            seen=self._seen(state, seen),
            blocks=[_block(state, number) for number in blocks],
            removed_users=[name for name in pending.removed_users if name not in state.user_ids],
            removed_items=[name for name in pending.removed_items if name not in state.item_ids],
            meta=self._meta(state),
        )
        n_withheld = len(users) - len(good_users) + len(items) - len(good_items)
        return Draft(publication, good_users, good_items, seen, blocks, n_withheld)

    def _affordable(self, state: State) -> list[int]:
        """Return the oldest dirty blocks that the budget has room for; what was saved up is at most a second's worth."""
        now = self._clock()
        self._allowance = min(self._block_bytes_per_s, self._allowance + (now - self._last) * self._block_bytes_per_s)
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
        names, rows = _alive(state.user_ids.names, rows)
        vectors = _vectors(state.model.users, rows, bias_first=True)
        return Embeddings(names, vectors, ratings.user_counts[rows].astype(np.uint32), ratings.user_newest_ms[rows])

    def _item_embeddings(self, state: State, rows: Rows) -> Embeddings:
        ratings = state.model.ratings
        names, rows = _alive(state.item_ids.names, rows)
        vectors = _vectors(state.model.items, rows, bias_first=False)
        return Embeddings(names, vectors, ratings.item_counts[rows].astype(np.uint32), ratings.item_newest_ms[rows])

    def _seen(self, state: State, rows: Rows) -> SeenItems:
        names, rows = _alive(state.user_ids.names, rows)
        starts, item_rows = state.model.ratings.newest_items(rows.astype(np.int32), self._seen_items)
        return SeenItems(names, starts, item_rows.astype(np.uint32))

    def _meta(self, state: State) -> Mapping[str, object]:
        model, level = state.model, state.model.level
        return {
            "journal_id": state.journal_id,
            "rank": model.rank,
            "dtype": "float32",
            "loss": self._loss,
            "link": "identity",
            "intercept": level.intercept,
            "range": None if level.lowest is None or level.highest is None else (level.lowest, level.highest),
            "n_users": len(state.user_ids),
            "n_items": len(state.item_ids),
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


def _vectors(side: Factors, rows: Rows, *, bias_first: bool) -> NDArray[np.float32]:
    """Return ``(n, K + 2)``: factors, then ``b, 1`` or ``1, c``."""
    vectors = np.empty((len(rows), side.rank + 2), np.float32)
    vectors[:, : side.rank] = side.factors[rows]
    vectors[:, side.rank if bias_first else side.rank + 1] = side.biases[rows]
    vectors[:, side.rank + 1 if bias_first else side.rank] = 1.0
    return vectors


def _block(state: State, number: int) -> Block:
    """Return block *number* as it is now; items that were removed, or whose numbers are not finite, do not live in it."""
    items = state.model.items
    rows = np.arange(number * SLOTS, min((number + 1) * SLOTS, items.n))
    finite = items.finite(rows)
    names = state.item_ids.names
    ids = [names[row] or None if good else None for row, good in zip(rows.tolist(), finite.tolist(), strict=True)]
    vectors = _vectors(items, rows, bias_first=False)
    vectors[~finite] = 0.0
    return Block(number, ids, vectors)
