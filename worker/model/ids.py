"""Ids outside, rows inside: two number spaces that meet only here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.model.forgotten import HASH_BYTES, Forgotten


class Ids(dict[str, int]):
    """Id → row. Looking up an unknown id gives it the next row; rows are never used again, so a row number is for ever.

    A forgotten id is nowhere: its name is dropped, and only a keyed hash of it remains, with the time up to which
    its ratings are not accepted. The key lives in the checkpoint and nowhere else.
    """

    def __init__(self, key: bytes, names: Iterable[str] = (), forgotten: Forgotten | None = None) -> None:
        self.names: list[str] = list(names)
        """Row → id; an empty string where the id was forgotten."""
        self.forgotten = Forgotten() if forgotten is None else forgotten
        self.dirty_from = len(self.names)
        """Rows from here on are not in the newest checkpoint."""
        self.erased: set[int] = set()
        """Rows whose names were erased since the newest checkpoint."""
        self._key = key
        super().__init__((name, row) for row, name in enumerate(self.names) if name)

    def __missing__(self, name: str) -> int:
        row = self[name] = len(self.names)
        self.names.append(name)
        return row

    def rows(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """Return the rows of *ids*, ``(len(ids),)``, giving rows to those that have none."""
        return np.fromiter(map(self.__getitem__, ids), np.int32, len(ids))

    def known_rows(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """Return the rows of *ids*, ``(len(ids),)``, -1 for those that have none."""
        return np.fromiter(map(self.get, ids, repeat(-1)), np.int32, len(ids))

    def floor_of(self, name: str) -> int | None:
        """Return the time up to which ratings of *name* are not accepted, if it was forgotten once."""
        return self.forgotten.get(self._hash(name)) if self.forgotten else None

    def raise_floor(self, name: str, timestamp_ms: int) -> None:
        """Accept nothing of *name* up to *timestamp_ms*, whether or not the id is known."""
        self.forgotten.raise_floor(self._hash(name), timestamp_ms)

    def erase(self, row: int) -> str:
        """Drop the id of *row*; return it. The id, should it come again, gets another row."""
        name, self.names[row] = self.names[row], ""
        if name:
            del self[name]
            self.erased.add(row)
        return name

    def _hash(self, name: str) -> bytes:
        return hashlib.blake2b(name.encode(), digest_size=HASH_BYTES, key=self._key).digest()
