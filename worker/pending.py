"""Rows changed since readers last saw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.memory import reserve
from factorstream.worker.learn.sweeper import Solved
from factorstream.worker.model.model import USERS

SLOTS = 1024
"""Items in a block."""
SOLVED, RATED = 1, 2
"""Why a row is pending: a block of the sweep solved it, which can wait; or ratings are in it that readers have not seen."""


def _flags() -> NDArray[np.bool_]:
    return cast(NDArray[np.bool_], reserve((), np.bool_))


def _reasons() -> NDArray[np.uint8]:
    return cast(NDArray[np.uint8], reserve((), np.uint8))


@dataclass(slots=True)
class Renewal:
    """What of everything was not yet published anew."""

    users: NDArray[np.bool_]
    items: NDArray[np.bool_]
    blocks: set[int]

    def note(self, users: NDArray[np.int64], items: NDArray[np.int64], blocks: Sequence[int]) -> None:
        """Strike out what was published."""
        self.users[users[users < len(self.users)]] = False
        self.items[items[items < len(self.items)]] = False
        self.blocks.difference_update(blocks)

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return not (self.blocks or self.users.any() or self.items.any())


@dataclass(slots=True)
class Pending:
    """Rows changed since readers last saw them. Marks of rows bound themselves, however long Redis is away."""

    users: NDArray[np.uint8] = field(default_factory=_reasons)
    """By row: 0, `SOLVED` or `RATED`."""
    items: NDArray[np.uint8] = field(default_factory=_reasons)
    seen: NDArray[np.bool_] = field(default_factory=_flags)
    """Users whose list of seen items changed."""
    blocks: dict[int, None] = field(default_factory=dict)
    """Blocks of items with a change, oldest first."""
    removed_users: dict[str, None] = field(default_factory=dict)
    """Ids to delete."""
    removed_items: dict[str, None] = field(default_factory=dict)
    oldest_record_ms: int | None = None
    """Record time of the oldest event not yet published."""
    renewal: Renewal | None = None
    """What is left of publishing everything anew, after which what else is there belongs to nobody."""

    def add_users(self, rows: NDArray[np.int32]) -> None:
        """Mark user *rows* as rated, and their lists of seen items."""
        self.users[rows] = RATED
        self.seen[rows] = True

    def add_items(self, rows: NDArray[np.int32]) -> None:
        """Mark item *rows* as rated, and the blocks they are in."""
        self.items[rows] = RATED
        self._add_blocks(rows)

    def add_solved(self, solved: Solved) -> None:
        """Mark the rows of a block of the sweep."""
        reasons = self.users if solved.side == USERS else self.items
        reasons[solved.rows] = np.maximum(reasons[solved.rows], SOLVED)
        if solved.side != USERS:
            self._add_blocks(solved.rows)

    def _add_blocks(self, item_rows: NDArray[np.int32]) -> None:
        for number in np.unique(item_rows // SLOTS).tolist():
            self.blocks.setdefault(number)

    def add_all(self, n_users: int, n_items: int) -> None:
        """Mark everything: readers have nothing, or nobody knows what they have. Rows with news still come first."""
        np.maximum(self.users[:n_users], SOLVED, out=self.users[:n_users])
        np.maximum(self.items[:n_items], SOLVED, out=self.items[:n_items])
        self.seen[:n_users] = True
        self._add_blocks(np.arange(0, n_items, dtype=np.int32))
        self.renewal = Renewal(np.ones(n_users, np.bool_), np.ones(n_items, np.bool_), set(self.blocks))

    def n_rows(self, n_users: int, n_items: int) -> int:
        """Return how many rows are to be published."""
        return int(np.count_nonzero(self.users[:n_users])) + int(np.count_nonzero(self.items[:n_items]))

    def n_rated(self, n_users: int, n_items: int) -> int:
        """Return how many of them hold ratings that readers have not seen."""
        return int(np.count_nonzero(self.users[:n_users] == RATED)) + int(np.count_nonzero(self.items[:n_items] == RATED))
