"""What a checkpoint is: taken as a snapshot, read back whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from numpy.typing import NDArray

from factorstream.worker.learn.learner import new_model
from factorstream.worker.learn.settings import Learning
from factorstream.worker.model.journal import Entries, ratings_of
from factorstream.worker.model.level import Level
from factorstream.worker.model.model import Model, Sweep

NAMES_IN_CHUNK = 1 << 16
"""Ids that are written together; a chunk is written again when one of its ids came or went."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The small part of a checkpoint; JSON in its manifest."""

    journal_id: str
    """Which history this is: made once, when a worker starts from nothing."""
    name: str
    """The model's, in Redis."""
    key: str
    """Hex of the key that forgotten ids are hashed with."""
    epoch: int
    sequence: int
    """The publish sequence this worker had left in Redis."""
    offsets: dict[int, int]
    cluster_id: str
    topic: str
    topic_id: str
    rank: int
    loss: str
    learner: str
    seed: int
    n_accepted: int
    n_blocks: int
    n_users: int
    n_items: int
    n_ratings: int
    removed_users: list[str]
    """Forgotten, and still to be deleted from Redis."""
    removed_items: list[str]
    seen_items: int | None = None
    """How long the lists of seen items were, those still to be published included; None: not known."""
    anew: bool
    """Whether everything was still being published anew."""
    range: tuple[float | None, float | None]
    """The range that the history began with."""
    level: Level
    sweep: Sweep
    learning: Learning
    """Settings that the journal up to here was learned with, since the checkpoint before."""
    platform: str
    """What the same bits can be expected on."""
    created_ms: int

    @property
    def position(self) -> int:
        """Ratings accepted and blocks solved."""
        return self.n_accepted + self.n_blocks


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a checkpoint is made of: all parameters, and of the rest what changed since the snapshot before."""

    facts: Facts
    arrays: Mapping[str, NDArray[Any]]
    """Named arrays that are written whole; copies that belong to the checkpoint store until it is done."""
    names: Mapping[str, Mapping[int, Sequence[str]]]
    """Side → chunk → the ids of its rows; chunks that changed."""
    entries: Sequence[Entries]
    """The journal since the snapshot before, in parts: joining them is not the loop's work."""
    base: Entries | None = None
    """Ratings held where the journal begins, sorted by (user, item); None but in a first snapshot that begins with some."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole state, as read back."""

    facts: Facts
    arrays: Mapping[str, NDArray[Any]]
    names: Mapping[str, Sequence[str]]
    """Side → the id of each row."""
    base: Entries
    """Ratings held where the journal begins, sorted by (user, item), tombstones included."""
    journal: Sequence[Entries]
    """What was learned since, in order."""


def restored_model(checkpoint: Checkpoint) -> Model:
    """Return the model of *checkpoint*, its ratings held and indexed."""
    facts = checkpoint.facts
    model = new_model(facts.learning, facts.rank, facts.seed, facts.range)
    model.ratings = ratings_of(checkpoint.base, checkpoint.journal, facts.n_users, facts.n_items)
    model.restore(checkpoint.arrays)
    model.level, model.sweep = Level(**asdict(facts.level)), Sweep(**asdict(facts.sweep))
    model.n_accepted, model.n_blocks = facts.n_accepted, facts.n_blocks
    return model
