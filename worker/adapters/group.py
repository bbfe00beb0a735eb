"""Who shares one model: one worker alone, or several of which each reads every so many-th partition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Solo:
    """A worker that has the model, and all partitions, to itself."""

    rank: int = 0
    size: int = 1

    def share(self, partitions: Sequence[int]) -> list[int]:
        """Return all of *partitions*, ascending."""
        return sorted(partitions)


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """One of *size* workers in one process; partition p belongs to rank ``p % size``."""

    rank: int
    size: int

    def share(self, partitions: Sequence[int]) -> list[int]:
        """Return this rank's part of *partitions*, ascending."""
        return sorted(partition for partition in partitions if partition % self.size == self.rank)
