"""What the files of a checkpoint are, and which pieces of the journal are to become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from factorstream.worker.checkpoint import Facts
from factorstream.worker.learn.settings import Learning

FORMAT = 1
JOINED_BYTES = 64 << 20
"""Pieces of the journal are not joined into larger ones: three million entries."""


class File(msgspec.Struct, frozen=True):
    """A file of `data/`, and what it must hold."""

    name: str
    sha256: str
    size_bytes: int


class Segment(msgspec.Struct, frozen=True):
    """A piece of the journal: what was learned from one position to the next, and with which settings."""

    file: File
    first_position: int
    last_position: int
    learning: Learning
    platform: str
    """Where it was learned: bits can be expected there and nowhere else."""
    first_epoch: int = 0
    """Of the checkpoint at the first position: together they say which one that is. 0: none, or not known."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint: everything that it is made of."""

    format: int = FORMAT
    facts: Facts
    arrays: Mapping[str, File]
    names: Mapping[str, Sequence[File]]
    """Side → its chunks of ids, in order."""
    base: File | None = None
    """Ratings held where the journal begins; None: nothing."""
    base_position: int = 0
    journal: Sequence[Segment] = ()

    def files(self) -> Iterable[File]:
        """Yield every file of this checkpoint."""
        yield from self.arrays.values()
        for chunks in self.names.values():
            yield from chunks
        if self.base is not None:
            yield self.base
        for segment in self.journal:
            yield segment.file

    @property
    def size_bytes(self) -> int:
        """Sum over `files`."""
        return sum(file.size_bytes for file in self.files())


def joined(journal: Sequence[Segment]) -> list[list[Segment]]:
    """Group neighbours that are to become one file, so that few are left and each entry is seldom written again.

    As in a binary counter: a piece takes in what follows as soon as that is half as long. So their number grows with the
    logarithm of the journal, then by one in `JOINED_BYTES`. Groups of one stay as they are.
    """
    groups: list[list[Segment]] = []
    for segment in journal:
        groups.append([segment])
        while len(groups) > 1 and _join(groups[-2], groups[-1]):
            last = groups.pop()
            groups[-1] += last
    return groups


def _join(before: Sequence[Segment], after: Sequence[Segment]) -> bool:
    alike = before[0].learning == after[0].learning and before[0].platform == after[0].platform
    n_before, n_after = (sum(segment.file.size_bytes for segment in group) for group in (before, after))
    return alike and n_before <= 2 * n_after and n_before + n_after <= JOINED_BYTES
