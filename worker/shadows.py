"""Memory that checkpoints are copied into: kept for the next copy, and there before a copy needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.memory import populate, reserve

FEW_ROWS = 1 << 13
"""Of which a copy is cheap, even into memory that is fresh."""
AHEAD = 8
"""Memory is found for an eighth more rows than there are."""
PIECE_BYTES = 1 << 22
"""What each of two threads that copy takes at once; from so much on there are two."""

Piece: TypeAlias = tuple[NDArray[Any], NDArray[Any]]
"""Rows of a copy, and those that they are to be."""


class Shadows:
    """Where tables that grow are copied to. Fresh memory costs ten times the copying: so it is found beside the loop."""

    def __init__(self) -> None:
        self._shadows: dict[str, NDArray[Any]] = {}
        self._enough = (FEW_ROWS, FEW_ROWS)
        """Rows of users and items up to which there is memory, or will soon be."""
        self._filling = Thread()

    def copy(self, tables: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return copies of *tables*, whose memory is that of the copies of these names before."""
        copies = {name: self._of(name, live)[: len(live)] for name, live in tables.items()}
        left = [piece for name, live in tables.items() for piece in _pieces(copies[name], live)]
        if sum(live.nbytes for live in tables.values()) < PIECE_BYTES:
            _copy(left)
        else:
            with ThreadPoolExecutor(1, "copier") as pool:  # an error there is raised here
                other = pool.submit(_copy, left)
                _copy(left)
                other.result()
        return copies

    def follow(self, n_users: int, n_items: int, tables: Callable[[], Mapping[str, NDArray[Any]]]) -> None:
        """Have memory for copies of *tables*, which have grown to so many rows; return at once, another thread finds it."""
        if (n_users <= self._enough[0] and n_items <= self._enough[1]) or self._filling.is_alive():
            return
        self._enough = max(FEW_ROWS, n_users + n_users // AHEAD), max(FEW_ROWS, n_items + n_items // AHEAD)
        long = {name: live for name, live in tables().items() if len(live) > FEW_ROWS}
        parts = [self._of(name, live)[: len(live) + len(live) // AHEAD] for name, live in long.items()]
        self._filling = Thread(target=_populate, args=(parts,), name="shadows", daemon=True)
        self._filling.start()

    def _of(self, name: str, live: NDArray[Any]) -> NDArray[Any]:
        shadow = self._shadows.get(name)
        if shadow is None:
            shadow = self._shadows[name] = reserve(live.shape[1:], live.dtype)
        return shadow


def _pieces(copy: NDArray[Any], live: NDArray[Any]) -> Iterator[Piece]:
    """Yield rows of *live* and where they go, `PIECE_BYTES` or less at a time."""
    n_rows = max(1, PIECE_BYTES * len(live) // max(1, live.nbytes))
    for first in range(0, len(live), n_rows):
        yield copy[first : first + n_rows], live[first : first + n_rows]


def _copy(left: list[Piece]) -> None:
    """Copy what is left, a piece at a time; the interpreter's lock is not held meanwhile."""
    while left:
        try:
            copy, live = left.pop()
        except IndexError:  # another thread took the last
            return
        np.copyto(copy, live)


def _populate(parts: Sequence[NDArray[Any]]) -> None:
    for part in parts:
        populate(part)
