"""Ids that are nowhere: of each a hash, and the time up to which its ratings are not accepted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 16
FORGOTTEN = np.dtype([("hash", f"S{HASH_BYTES}"), ("time", "<i8")])


class Forgotten:
    """Hash → time. Kept as the table that a checkpoint holds, so that taking a copy is all that the loop has to do."""

    def __init__(self, table: NDArray[np.void] | None = None) -> None:
        """Take over *table*, ``(n,)`` of `FORGOTTEN`."""
        self._table = np.empty(0, FORGOTTEN) if table is None else table.astype(FORGOTTEN)
        hashes = self._table["hash"].tobytes()  # with the zeros at their ends, which numpy leaves out of a single one
        self._rows = {hashes[HASH_BYTES * row : HASH_BYTES * (row + 1)]: row for row in range(len(self._table))}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._rows)

    def get(self, hashed: bytes) -> int | None:
        """Return the time up to which nothing is accepted; None if it was never forgotten."""
        row = self._rows.get(hashed)
        return None if row is None else int(self._table["time"][row])

    def raise_floor(self, hashed: bytes, timestamp_ms: int) -> None:
        """Accept nothing up to *timestamp_ms*, or to a later time that is held."""
        row = self._rows.get(hashed)
        if row is not None:
            self._table["time"][row] = max(timestamp_ms, self._table["time"][row])
            return
        row = self._rows[hashed] = len(self._rows)
        if row == len(self._table):
            self._table = np.append(self._table, np.empty(max(64, row), FORGOTTEN))
        self._table[row] = (hashed, timestamp_ms)

    def array(self) -> NDArray[np.void]:
        """Return all of them, ``(n,)`` of `FORGOTTEN`; a copy."""
        return self._table[: len(self._rows)].copy()
