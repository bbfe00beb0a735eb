"""The checkpoint store's twin in memory: a `MemoryFolder` is the disk, and outlives the workers that crash."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np

from factorstream.worker.checkpoint import NAMES_IN_CHUNK, Checkpoint, Snapshot
from factorstream.worker.errors import CheckpointsLocked
from factorstream.worker.model.journal import ENTRY
from factorstream.worker.ports import Written


@dataclass(slots=True)
class MemoryFolder:
    """What survives a crash."""

    checkpoints: list[Checkpoint] = field(default_factory=list)
    epoch: int = 0
    locked: bool = False


class MemoryCheckpoints:
    """Durable as soon as begun; a crash test that wants it later stops before `begin`."""

    def __init__(self, folder: MemoryFolder) -> None:
        self._folder = folder
        self._latest: Checkpoint | None = None
        self._holds_lock = False

    def lock(self) -> None:
        """Lock the folder."""
        if self._folder.locked:
            raise CheckpointsLocked("the checkpoint folder in memory is in use: close the other store first")
        self._folder.locked = self._holds_lock = True

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint."""
        self._latest = self._folder.checkpoints[-1] if self._folder.checkpoints else None
        return copy.deepcopy(self._latest)

    def epoch(self) -> int:
        """Return the highest epoch claimed."""
        return self._folder.epoch

    def claim(self, epoch: int) -> None:
        """Note the epoch."""
        self._folder.epoch = max(epoch, self._folder.epoch)

    def begin(self, snapshot: Snapshot) -> None:
        """Keep *snapshot* together with what came before."""
        before = self._latest
        names = {side: list(before.names[side]) if before else [] for side in ("users", "items")}
        for side, chunks in snapshot.names.items():
            for chunk, ids in chunks.items():
                names[side][chunk * NAMES_IN_CHUNK : (chunk + 1) * NAMES_IN_CHUNK] = ids
        self._latest = Checkpoint(
            snapshot.facts,
            {name: array.copy() for name, array in snapshot.arrays.items()},
            names,
            (before.base if before else np.empty(0, ENTRY)) if snapshot.base is None else snapshot.base,
            [*(before.journal if before else []), *snapshot.entries],
        )
        self._folder.checkpoints.append(self._latest)

    @property
    def busy(self) -> bool:
        """Never: memory is quick."""
        return False

    @property
    def remembers_forgotten(self) -> bool:
        """Never: of older checkpoints nothing is kept that anybody reads."""
        return False

    def durable(self) -> Written | None:
        """Return the last checkpoint."""
        if self._latest is None:
            return None
        return Written(self._latest.facts.position, sum(array.nbytes for array in self._latest.arrays.values()))

    def wait(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Unlock."""
        if self._holds_lock:
            self._folder.locked = self._holds_lock = False
