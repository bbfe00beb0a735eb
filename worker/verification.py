"""Does the journal make the checkpoint? The oldest kept checkpoint, and the journal since, learned again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from factorstream.worker import kernels
from factorstream.worker.adapters.files import Damaged, FileCheckpoints
from factorstream.worker.adapters.manifest import Manifest
from factorstream.worker.checkpoint import restored_model
from factorstream.worker.errors import CheckpointDamaged
from factorstream.worker.learn.learner import Learner, new_model
from factorstream.worker.model.model import Model


@dataclass(frozen=True, slots=True)
class Verification:
    """What a replay of the journal showed."""

    ok: bool
    """Whether it gave the newest checkpoint: bit for bit where that can be expected, within `TOLERANCE` elsewhere."""
    state_hash: str
    """SHA-256 of the newest checkpoint's model."""
    replayed: int
    """Entries of the journal learned again."""
    comparable: bool
    """Whether all of the journal was learned on this platform, so that bits can be compared."""
    max_difference: float
    """Largest difference of a parameter."""


TOLERANCE = 1e-2
"""Of a parameter, on another platform: rounding grows along a long replay."""


def verify(checkpoints: FileCheckpoints, device: str = "auto") -> Verification:
    """Replay from the oldest checkpoint that the newest one's journal reaches back to, or from nothing if it does that.

    Raises `CheckpointDamaged`.
    """
    chain = _whole(checkpoints)
    newest = chain[-1]
    expected = restored_model(checkpoints.read(newest))
    model, position = _origin(checkpoints, chain)
    replayed = 0
    segments = [segment for segment in newest.journal if segment.first_position >= position]
    for segment in segments:
        entries = checkpoints.entries(segment.file)
        for _ in Learner(kernels.select(device), segment.learning).replay(model, entries):
            pass
        replayed += len(entries)
    comparable = all(segment.platform == kernels.platform(device) for segment in segments)
    difference = _difference(model, expected)
    same = model.state_hash() == (state_hash := expected.state_hash())
    near = difference <= TOLERANCE and model.position == expected.position
    return Verification(same if comparable else near, state_hash, replayed, comparable, difference)


def _whole(checkpoints: FileCheckpoints) -> list[Manifest]:
    """Return the manifests that are whole, oldest first. Raises `CheckpointDamaged`, also when there is none."""
    paths = checkpoints.manifests()
    if not paths:
        raise CheckpointDamaged(f"{checkpoints.folder} holds no checkpoint: give the folder that checkpoint.dir names")
    manifests = []
    for path in paths:
        try:
            manifests.append(checkpoints.manifest(path))
        except Damaged as error:
            raise CheckpointDamaged(f"{path} is damaged ({error}); a worker would fall back to the one before it") from error
    return manifests


def _origin(checkpoints: FileCheckpoints, chain: list[Manifest]) -> tuple[Model, int]:
    """Return the model to replay on, and its position."""
    newest = chain[-1]
    if newest.base is None:
        return _empty(newest), 0
    # The epoch too: a checkpoint that a start fell back over may be at the position of one made after it, and hold other numbers.
    starts = {(segment.first_epoch, segment.first_position) for segment in newest.journal}
    starts.add((newest.facts.epoch, newest.facts.position))
    oldest = next(manifest for manifest in chain if (manifest.facts.epoch, manifest.facts.position) in starts)
    return restored_model(checkpoints.read(oldest)), oldest.facts.position


def _empty(manifest: Manifest) -> Model:
    """Return the model that the history began with."""
    facts = manifest.facts
    first = manifest.journal[0].learning if manifest.journal else facts.learning
    return new_model(first, facts.rank, facts.seed, facts.range)


def _difference(model: Model, expected: Model) -> float:
    pairs = zip(model.parameters(), expected.parameters(), strict=True)
    return max((float(np.abs(a - b).max(initial=0.0)) if a.shape == b.shape else float("inf")) for a, b in pairs)
