"""The live model: everything that is a function of the journal, and nothing that is not."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import numpy as np

from factorstream.worker.model.factors import Factors
from factorstream.worker.model.level import Level
from factorstream.worker.model.ratings import Ratings

USERS, ITEMS = 0, 1
"""The two sides, as numbers: streams of the counter hash, and the side that the sweep is on."""


@dataclass(slots=True)
class Sweep:
    """Where the sweep is; it goes round for ever: all user rows, all item rows, again."""

    side: int = USERS
    next_row: int = 0
    due: int = 1
    """Ratings accepted when the next block is due."""
    n_sweeps: int = 0
    """Whole sweeps done."""
    gain: float = 0.0
    """By how much this sweep has lowered the objective so far."""
    last_gain: float | None = None
    """The same of the last whole sweep; None before the first."""
    last_end: int = 0
    """Ratings accepted at the end of the last whole sweep."""


class Model:
    """Factors, ratings, level and sweep. Changed only by `learn`; owned by the loop's thread."""

    def __init__(
        self,
        rank: int,
        seed: int,
        ratings: Ratings | None = None,
        *,
        range_: tuple[float | None, float | None] = (None, None),
    ) -> None:
        """Know nothing but the *range_* of ratings, where that is configured."""
        self.users = Factors(rank, seed=seed, stream=USERS)
        self.items = Factors(rank, seed=seed, stream=ITEMS)
        self.ratings = ratings or Ratings()
        self.level = Level.of_range(*range_)
        self.sweep = Sweep()
        self.n_accepted = 0
        self.n_blocks = 0

    @property
    def rank(self) -> int:
        """K."""
        return self.users.rank

    @property
    def position(self) -> int:
        """Ratings accepted and blocks solved: with the epoch, this identifies the bits."""
        return self.n_accepted + self.n_blocks

    def state_hash(self) -> str:
        """Return SHA-256 over all that the journal determines, in canonical order; the same bits give the same hash."""
        digest = hashlib.sha256(repr((self.n_accepted, self.n_blocks, asdict(self.level), asdict(self.sweep))).encode())
        for array in (*self.parameters(), *self.ratings.entries()):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def parameters(self) -> tuple[np.typing.NDArray[np.float32], ...]:
        """Return users' factors and biases, then items'; views."""
        return self.users.factors, self.users.biases, self.items.factors, self.items.biases

    def score(self, user_row: int | None, item_row: int | None) -> float:
        """Return the score of a pair; a row that is None or not there counts as its prior, which adds nothing."""
        user = user_row if user_row is not None and user_row < self.users.n else None
        item = item_row if item_row is not None and item_row < self.items.n else None
        score = self.level.intercept
        score += 0.0 if user is None else float(self.users.biases[user])
        score += 0.0 if item is None else float(self.items.biases[item])
        if user is not None and item is not None:
            score += float(self.users.factors[user] @ self.items.factors[item])
        return score
