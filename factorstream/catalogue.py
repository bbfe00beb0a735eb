"""All items of a model as one matrix in the reader's memory, kept up to date block by block, to rank them at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorstream.blocks import SLOTS, VERSIONS, ItemBlock
from factorstream.embedding import Version

F32 = NDArray[np.float32]
_NEVER = Version(0, 0)


class Catalogue:
    """The items of blocks 0 … n − 1; row *slot* of the matrix is the item in that slot."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._versions = np.zeros(0, VERSIONS)
        self._ids: list[str | None] = []
        self._slots: dict[str, int] = {}
        self._matrix = np.zeros((0, rank + 2), np.float32)
        self._dead = np.zeros(0, bool)
        self._inverse_norms = np.zeros(0, np.float32)
        """Of the K factors; 0 for a row of zeros, whose cosine with anything is 0."""

    def outdated(self, versions: NDArray[np.void]) -> list[int]:
        """Make room for a block for each of *versions*; return the numbers of those whose version here differs."""
        if len(versions) != len(self._versions):
            self._resize(len(versions))
        return [int(number) for number in np.flatnonzero(self._versions != versions)]

    def put(self, number: int, block: ItemBlock | None) -> None:
        """Replace block *number*; None, or a block of another rank, empties it."""
        if block is None or block.vectors.shape[1] != self.rank + 2:
            block = ItemBlock(number, _NEVER, [], np.zeros((0, self.rank + 2), np.float32))
        slots = slice(number * SLOTS, (number + 1) * SLOTS)
        self._put_ids(slots, [*block.ids, *[None] * (SLOTS - len(block.ids))])
        rows = self._matrix[slots]
        rows[: len(block.ids)], rows[len(block.ids) :] = block.vectors, 0
        norms = np.linalg.norm(rows[:, :-2], axis=1)
        self._inverse_norms[slots] = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        self._versions[number] = (block.version.position, block.version.epoch, 0)

    def slots_of(self, item_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the slots of those items that are here."""
        return np.array([self._slots[item_id] for item_id in item_ids if item_id in self._slots], np.int64)

    def best(self, query: F32, n: int, *, without: Sequence[NDArray[np.integer[Any]]], cosine: bool = False) -> list[str]:
        """Return the ids of the *n* items with the highest product with *query*, best first; fewer when there are no more.

        Args:
            query: ``(K + 2,)``, against K factors, 1 and c of each item.
            without: Slots to leave out.
            cosine: Divide each product by the length of the item's factors.
        """
        # einsum, as it stays on this thread: BLAS waits for its second one, for 100 k items on busy cores 14 ms instead of 1.3
        scores = np.einsum("sk,k->s", self._matrix, query)
        if cosine:
            scores *= self._inverse_norms
        scores[self._dead] = -np.inf
        for slots in without:
            scores[slots[slots < len(scores)]] = -np.inf
        top = np.argpartition(scores, -n)[-n:] if n < len(scores) else np.arange(len(scores))
        ranked = top[np.argsort(-scores[top], kind="stable")].tolist()
        return [item_id for slot in ranked if scores[slot] > -np.inf and (item_id := self._ids[slot]) is not None]

    def _put_ids(self, slots: slice, ids: list[str | None]) -> None:
        before = self._ids[slots]
        if ids == before:
            return
        for slot, item_id in enumerate(before, slots.start):
            if item_id is not None and self._slots.get(item_id) == slot:
                del self._slots[item_id]
        self._slots.update({item_id: slot for slot, item_id in enumerate(ids, slots.start) if item_id is not None})
        self._ids[slots] = ids
        self._dead[slots] = [item_id is None for item_id in ids]

    def _resize(self, n_blocks: int) -> None:
        for number in range(n_blocks, len(self._versions)):
            self.put(number, None)
        n_slots = n_blocks * SLOTS
        self._ids = self._ids[:n_slots] + [None] * (n_slots - len(self._ids))
        self._versions = _resized(self._versions, n_blocks, 0)
        self._matrix = _resized(self._matrix, n_slots, 0)
        self._dead = _resized(self._dead, n_slots, True)
        self._inverse_norms = _resized(self._inverse_norms, n_slots, 0)


def _resized(rows: NDArray[Any], n: int, fill: int) -> NDArray[Any]:
    """Return the first *n* rows, those that were not there set to *fill*."""
    resized = np.empty((n, *rows.shape[1:]), rows.dtype)
    resized[: len(rows)] = rows[:n]
    resized[len(rows) :] = fill
    return resized
