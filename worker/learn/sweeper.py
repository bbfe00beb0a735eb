"""The sweep that never stops the stream: exact solves, a block at a time, bought by the ratings that arrive."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.learn.rule import Rule
from factorstream.worker.learn.settings import Learning
from factorstream.worker.model.model import ITEMS, USERS, Model

FEW_ROWS, WINDOW = 1 << 10, 1 << 16
"""Rows looked at to cut one block: at first, and at most."""
SMALLEST_BLOCK = 1_000
"""Visits that a block is paid with at least: while the model is small, sweeps are not worth their turn."""
ROW_VISITS = 2
"""What a row costs beside its ratings: solving one that has a single rating takes as long as three visits of a long one."""


@dataclass(frozen=True, slots=True)
class Solved:
    """One block: which side's rows were solved, and how many ratings that took."""

    side: int
    rows: NDArray[np.int32]
    n_visits: int

    @property
    def cost(self) -> int:
        """What that took, in visits."""
        return self.n_visits + ROW_VISITS * len(self.rows)


class Sweeper:
    """Alternating least squares as block coordinate descent on the live model (DESIGN: no snapshot, no swap).

    Which block is next and when it is due depend on the ratings accepted and on nothing else, so a replay solves the same
    blocks at the same places. Rows are read through the store's live index: ratings that arrived since the sweep began are in.
    """

    def __init__(self, rule: Rule, learning: Learning) -> None:
        self._rule = rule
        self._learning = learning

    def until_due(self, model: Model) -> int | None:
        """Return how many ratings are to be accepted before the next block, at least 1; None when sweeps are off."""
        if not self._learning.visits_per_rating:
            return None
        return max(1, model.sweep.due - model.n_accepted)

    def advance(self, model: Model) -> Solved | None:
        """Solve the next block if it is due, and set the price of the one after: what this one cost."""
        if not self._learning.visits_per_rating or model.n_accepted < model.sweep.due:
            return None
        solved = self.solve_block(model)
        paid = max(solved.cost, min(self._learning.block_visits, SMALLEST_BLOCK))
        model.sweep.due = model.n_accepted + max(1, math.ceil(paid / self._learning.visits_per_rating))
        return solved

    def solve_block(self, model: Model) -> Solved:
        """Solve the next rows of the sweep, ``block_visits``' worth of work or a little more, and move on."""
        sweep = model.sweep
        n_own = model.users.n if sweep.side == USERS else model.items.n
        counts = model.ratings.user_counts if sweep.side == USERS else model.ratings.item_counts
        left = counts[sweep.next_row : min(n_own, sweep.next_row + WINDOW)]
        n_seen = FEW_ROWS
        window, costs = left[:n_seen], _costs(left[:n_seen])
        while n_seen < len(left) and costs[-1] < self._learning.block_visits:
            n_seen *= 4
            window, costs = left[:n_seen], _costs(left[:n_seen])
        n_rows = min(int(np.searchsorted(costs, self._learning.block_visits)) + 1, len(window))
        rows = (sweep.next_row + np.flatnonzero(window[:n_rows])).astype(np.int32)
        gains = self._rule.solve(model, sweep.side, rows)
        solved = Solved(sweep.side, rows, int(window[:n_rows].sum()))
        sweep.gain += float(gains[np.isfinite(gains)].sum())  # a row that was not finite has no gain to count
        sweep.next_row += n_rows
        model.n_blocks += 1
        if sweep.next_row >= n_own:
            self._turn(model)
        return solved

    def worthwhile(self, model: Model, least_gain: float) -> bool:
        """Whether a block solved in idle time may still gain: the last sweep did, or there are ratings that it did not see.

        *least_gain* is the share of what the ratings' variance costs below which a whole sweep gained nothing.
        """
        n = model.ratings.n_ratings
        if not n:
            return False
        news = model.n_accepted - model.sweep.last_end
        last_gain, level = model.sweep.last_gain, model.level
        return news > n // 100 or last_gain is None or last_gain > least_gain * 0.5 * n * level.curvature * level.spread**2

    def progress(self, model: Model) -> float:
        """Return how far the sweep under way is, 0 to 1, in rows."""
        done = model.sweep.next_row + (model.users.n if model.sweep.side == ITEMS else 0)
        return done / max(1, model.users.n + model.items.n)

    def _turn(self, model: Model) -> None:
        """Go to the other side; after the items a sweep is whole."""
        sweep = model.sweep
        sweep.next_row = 0
        sweep.side = ITEMS if sweep.side == USERS else USERS
        if sweep.side == USERS:
            sweep.n_sweeps += 1
            sweep.last_gain, sweep.gain, sweep.last_end = sweep.gain, 0.0, model.n_accepted
            self._rule.end_sweep(model)


def _costs(counts: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return what solving the rows up to each costs, in visits, of rows with so many ratings."""
    return np.cumsum(counts + ROW_VISITS * (counts > 0), dtype=np.int64)
