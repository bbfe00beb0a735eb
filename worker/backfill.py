"""A model fitted to a file becomes the checkpoint that a worker starts from: history gets in without going through a topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from factorstream.rating import RATING_MAX, RATING_MIN
from factorstream.worker.errors import UserMistake
from factorstream.worker.identities import Identities
from factorstream.worker.model.ids import Ids
from factorstream.worker.model.journal import base_of
from factorstream.worker.model.model import Model
from factorstream.worker.ports import CheckpointStore
from factorstream.worker.state import State


def check_range(lowest: float, highest: float, rating_min: float | None, rating_max: float | None) -> None:
    """Raise `UserMistake` for ratings from *lowest* to *highest* that a worker with that range would not accept."""
    least, most = RATING_MIN if rating_min is None else rating_min, RATING_MAX if rating_max is None else rating_max
    if lowest < least or highest > most:
        raise UserMistake(
            f"the ratings go from {lowest:g} to {highest:g}, and a worker with these settings accepts {least:g} to {most:g}: "
            "set model.rating_min and model.rating_max, or mend the file"
        )


def begin_with(state: State, model: Model, user_ids: Sequence[str], item_ids: Sequence[str]) -> None:
    """Let *state*, which is fresh, begin with *model*: as if its ratings had just been accepted, and no reader had seen a row.

    Args:
        user_ids, item_ids: The ids of the model's rows.
    """
    model.n_accepted = model.ratings.n_ratings
    model.sweep.due = model.n_accepted + 1
    state.model = model
    state.identities = Identities(_unsaved(state.key, user_ids), _unsaved(state.key, item_ids))
    state.pending.add_all(model.users.n, model.items.n)


def check_empty(checkpoints: CheckpointStore) -> None:
    """Raise `UserMistake` where checkpoints are already. The store is locked."""
    if checkpoints.latest() is not None:
        raise UserMistake("--checkpoint names a folder that holds checkpoints already; they stay as they are: name an empty one")


def write(state: State, checkpoints: CheckpointStore, *, seen_items: int, platform: str, created_ms: int) -> None:
    """Write *state* as the first checkpoint of a store, which is locked.

    Offsets are empty: a worker reads its topic from the earliest record. The ratings are where the journal begins.
    Raises `CheckpointFailed`.
    """
    snapshot = state.snapshot(sequence=0, source=("", "", ""), seen_items=seen_items, platform=platform, created_ms=created_ms)
    checkpoints.begin(replace(snapshot, base=base_of(state.model.ratings)))
    checkpoints.wait()
    checkpoints.durable()


def _unsaved(key: bytes, names: Sequence[str]) -> Ids:
    ids = Ids(key, names)
    ids.dirty_from = 0
    return ids
