"""The live model: everything that is a function of the journal, and nothing that is not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.model.factors import Factors
from factorstream.worker.model.level import Level
from factorstream.worker.model.ratings import Ratings

USERS, ITEMS = 0, 1
"""The two sides, as numbers: streams of the counter hash, and the side that the sweep is on."""


PARAMETERS = ("users.factors", "users.biases", "items.factors", "items.biases")
"""Names of what `Model.parameters` returns."""


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


class Part(Protocol):
    """What a learner remembers beside factors and ratings: a function of the journal, as all of the model is."""

    def tables(self) -> Mapping[str, NDArray[Any]]:
        """Return all of it as named arrays; views of what is in use, whose first dimension may grow."""

    def restore(self, tables: Mapping[str, NDArray[Any]]) -> None:
        """Become what `tables` once returned; copies."""


class Model:
    """Factors, ratings, level, sweep, and the parts a learner adds. Changed only by `learn`; owned by the loop's thread."""

    def __init__(
        self,
        rank: int,
        seed: int,
        ratings: Ratings | None = None,
        *,
        level: Level | None = None,
    ) -> None:
        """Know nothing but what *level* says of the ratings to come."""
        self.users = Factors(rank, seed=seed, stream=USERS)
        self.items = Factors(rank, seed=seed, stream=ITEMS)
        self.ratings = ratings or Ratings()
        self.level = level or Level()
        self.sweep = Sweep()
        self.parts: dict[str, Part] = {}
        """By name; which there are follows from the settings learned with (`learn.learner.new_model`)."""
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
        for array in (*self.parameters(), *self._part_tables().values(), *self.ratings.entries()):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def tables(self) -> dict[str, NDArray[Any]]:
        """Return what a checkpoint holds of it besides the ratings, by name; views."""
        ratings = self.ratings
        return {
            **dict(zip(PARAMETERS, self.parameters(), strict=True)),
            "users.newest_ms": ratings.user_newest_ms,
            "items.newest_ms": ratings.item_newest_ms,
            "users.floor_ms": ratings.user_floor_ms,
            "items.floor_ms": ratings.item_floor_ms,
            **self._part_tables(),
        }

    def restore(self, tables: Mapping[str, NDArray[Any]]) -> None:
        """Take what `tables` once returned; the ratings are there already.

        A part that the tables lack, or have as another version remembered it, stays new.
        """
        self.users.restore(tables["users.factors"], tables["users.biases"])
        self.items.restore(tables["items.factors"], tables["items.biases"])
        ratings = self.ratings
        for live, newest_ms in (
            (ratings.user_newest_ms, tables["users.newest_ms"]),
            (ratings.item_newest_ms, tables["items.newest_ms"]),
        ):
            live[: len(newest_ms)] = newest_ms
        ratings.raise_user_floors(np.arange(len(tables["users.floor_ms"])), tables["users.floor_ms"])
        ratings.raise_item_floors(np.arange(len(tables["items.floor_ms"])), tables["items.floor_ms"])
        for name, part in self.parts.items():
            own = {key.removeprefix(f"{name}."): table for key, table in tables.items() if key.startswith(f"{name}.")}
            if _shapes(own) == _shapes(part.tables()):
                part.restore(own)

    def _part_tables(self) -> dict[str, NDArray[Any]]:
        return {f"{name}.{key}": table for name, part in self.parts.items() for key, table in part.tables().items()}

    def parameters(self) -> tuple[NDArray[np.float32], ...]:
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


def _shapes(tables: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Return the names of *tables*, and the shape of a row of each."""
    return {name: table.shape[1:] for name, table in tables.items()}
