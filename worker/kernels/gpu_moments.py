"""What optimizers remember of rows, on the device beside the tables that they move."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, I32, NO_MOMENTS, Moments, Optimizer, Side
from factorstream.worker.kernels.gpu_tables import Resident, Tensor


class ResidentMoments(Moments):
    """Moments whose rows are on the device; the host's arrays hold what they did at the last `fetch` (`gpu_tables.Resident`)."""

    parts: tuple[Resident, Resident, Resident]
    """First, second and Adam's t, as sides: what is of factors, and what is of biases. One that is not needed has no rows."""

    def __new__(cls, first: F32, second: F32, steps: I32) -> ResidentMoments:
        """Hold no row yet."""
        made: ResidentMoments = super().__new__(cls, first, second, steps)
        of_steps: Any = Side(np.empty((len(steps), 0), np.float32), steps)  # type: ignore[arg-type]
        sides = Side(first[:, :-1], first[:, -1]), Side(second[:, :-1], second[:, -1]), of_steps
        made.parts = Resident(*sides[0]), Resident(*sides[1]), Resident(*sides[2])
        return made

    @property
    def missing(self) -> bool:
        """Whether the device had no room for all rows in use."""
        return any(part.missing for part in self.parts)

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """What is on the device, as `gpu_general` takes it."""
        first, second, steps = (part.tables for part in self.parts)
        return *first, *second, steps.biases

    def ensure(self, n: int) -> None:
        """Hold at least *n* rows; see `Resident.ensure`."""
        for part in self._needed():
            part.ensure(n)

    def changed(self, rows: Any) -> None:
        """Mark *rows* as newer on the device."""
        for part in self._needed():
            part.changed(rows)

    def fetch(self) -> None:
        """Bring the host's arrays up to date."""
        for part in self._needed():
            part.fetch()

    def send(self, rows: slice | NDArray[Any]) -> None:
        """Take *rows* from the host, as far as they are held."""
        for part in self._needed():
            part.send(rows)

    def _needed(self) -> list[Resident]:
        return [part for part in self.parts if len(part.biases)]


def resident(moments: Moments, n: int) -> ResidentMoments:
    """Return *moments* on the device, of *n* rows at least."""
    if not any(map(len, moments)):
        return _nothing()
    held = moments if isinstance(moments, ResidentMoments) else ResidentMoments(*moments)
    held.ensure(n)
    return held


@functools.cache
def _nothing() -> ResidentMoments:
    """Return what plain steps remember; each batch asks for it."""
    return ResidentMoments(*NO_MOMENTS)


def of_both(optimizer: Optimizer) -> tuple[ResidentMoments, ResidentMoments]:
    """Return what *optimizer*, whose memory is on the device, remembers of users and of items."""
    users, items = optimizer.users, optimizer.items
    assert isinstance(users, ResidentMoments)
    assert isinstance(items, ResidentMoments)
    return users, items
