"""Tables, batches and histories on the device; the host's arrays follow when they are read."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, I32, I64, Batch, Histories, Side
from factorstream.worker.kernels.beliefs import Beliefs
from factorstream.worker.kernels.effects import Effects
from factorstream.worker.kernels.gpu_language import DEVICE, next_power_of_2

Tensor: TypeAlias = Any
"""torch's; its types are looked at nowhere, so that it need not be installed."""
log = logging.getLogger(__name__)

most_bytes: int | None = None
"""What one request for the device's memory may ask for; None: as much as there is."""

SMALLEST = 1024
"""Rows that a table on the device has room for at least."""
AT_ONCE = 1 << 16
"""Rows of a table that are brought to the host at once."""


class Full(MemoryError):
    """The device has no memory for what was asked."""


@contextlib.contextmanager
def full_when_short() -> Iterator[None]:
    """Make of torch's error when memory is short a `Full`, of one line."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise Full(str(error).partition("\n")[0]) from error


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return memory of the device. Raises `Full`."""
    size_bytes = dtype.itemsize * math.prod(shape)
    if most_bytes is not None and size_bytes > most_bytes:
        raise Full(f"{size_bytes:,} bytes were asked for, {most_bytes:,} are allowed")
    with full_when_short():
        return torch.empty(shape, dtype=dtype, device=DEVICE)


def zeros(shape: tuple[int, ...]) -> Tensor:
    """Return zeros of 32 bits on the device. Raises `Full`."""
    return empty(shape, torch.int32).zero_()


def sent(column: NDArray[Any], dtype: Any) -> Tensor:
    """Return a column of the host on the device. Raises `Full`."""
    column = np.ascontiguousarray(column, dtype)
    target = empty(column.shape, torch.from_numpy(column[:0]).dtype)
    return target.copy_(torch.from_numpy(column))


def width_of(rank: int) -> int:
    """Return how many places a row of *rank* factors has on the device."""
    return int(max(next_power_of_2(rank), 16)) if rank else 0


class Tables(NamedTuple):
    """A `Side` on the device."""

    factors: Tensor
    """``(rows, width_of(K))``, zero behind the factors."""
    biases: Tensor


class DeviceHistories(NamedTuple):
    """`Histories` on the device."""

    starts: Tensor
    others: Tensor
    ratings: Tensor


class DeviceBatch(NamedTuple):
    """A `Batch` on the device."""

    user_rows: Tensor
    item_rows: Tensor
    ratings: Tensor
    user_counts: Tensor
    item_counts: Tensor
    user_histories: DeviceHistories
    item_histories: DeviceHistories
    user_means: Tensor
    item_means: Tensor


class Mirror:
    """Tables of rows, on the device. The host's arrays, of which it is a tuple, hold what they did at the last `fetch`."""

    n: int
    """Rows held."""
    tables: Any
    """The same on the device, with room for more rows."""
    missing: bool
    """Whether the device had no room for all rows in use; then it holds none, and the host's arrays are the truth."""
    _newer: NDArray[np.bool_]
    """Rows that are newer on the device than on the host."""

    def hold_nothing(self) -> None:
        """Hold no row yet."""
        self.n, self.missing = 0, False
        self.tables, self._newer = self._room(0), np.zeros(0, np.bool_)

    def ensure(self, n: int) -> None:
        """Hold at least *n* rows: those that are new are the host's. Where there is no room, hold none, now and later."""
        if n <= self.n or self.missing:
            return
        try:
            if n > len(self._newer):
                self._grow(n)
        except Full as full:
            self._leave(n, full)
            return
        before, self.n = self.n, n
        self.send(slice(before, n))

    def changed(self, rows: Any) -> None:
        """Mark *rows* as newer on the device."""
        self._newer[rows] = True

    def fetch(self) -> None:
        """Bring the host's arrays up to date; also where the device has no memory left."""
        for first in range(0, self.n, AT_ONCE):
            newer = first + np.flatnonzero(self._newer[first : min(first + AT_ONCE, self.n)])
            if len(newer):
                rows = _packed(newer)
                for array, table in zip(self._arrays, self.tables, strict=True):
                    array[rows] = _fetched(table, rows)[:, *_inside(array)]
                self._newer[rows] = False

    def send(self, rows: slice | NDArray[Any]) -> None:
        """Take *rows* from the host, as far as they are held; where there is no room for that, hold none from now on."""
        chosen = np.unique(rows).astype(np.int64) if isinstance(rows, np.ndarray) else np.arange(rows.start, rows.stop)
        chosen = chosen[chosen < self.n]
        if not len(chosen):
            return
        self._newer[chosen] = False
        try:
            self._send(chosen)
        except Full as full:
            self._leave(self.n, full)

    def _send(self, chosen: I64) -> None:
        """Take rows, ascending, from the host. Raises `Full`."""
        rows = _packed(chosen)
        places: Any = rows if isinstance(rows, slice) else sent(rows, np.int64)
        for array, table in zip(self._arrays, self.tables, strict=True):
            with full_when_short():
                table[places, *_inside(array)] = sent(array[rows], array.dtype)

    def _leave(self, n: int, full: Full) -> None:
        """Hold none of the *n* rows from now on: bring what is newer on the device to the host, and free the tables."""
        self.fetch()
        self.n, self.tables, self.missing = 0, self._room(0), True
        log.warning("a table of %s rows does not fit on the GPU, and is learned by the CPU from now on: %s", f"{n:,}", full)

    def _grow(self, n: int) -> None:
        """Make room for *n* rows, and for twice as many where there is memory."""
        new = None
        with contextlib.suppress(Full):
            new = self._room(max(2 * n, SMALLEST))
        new = self._room(n) if new is None else new
        for source, target in zip(self.tables, new, strict=True):
            target[: self.n].copy_(source[: self.n])
        self.tables = new
        self._newer = np.append(self._newer[: self.n], np.zeros(len(new[0]) - self.n, np.bool_))

    @property
    def _arrays(self) -> tuple[F32, ...]:
        return cast(tuple[F32, ...], self)

    def _room(self, n_rows: int) -> Any:
        """Return tables for *n_rows*: as the host's are. Raises `Full`."""
        return tuple(empty((n_rows, *array.shape[1:])) for array in self._arrays)


def _packed(rows: I64) -> slice | I64:
    """Return ascending *rows*, as a slice where none is left out between them."""
    whole = slice(int(rows[0]), int(rows[-1]) + 1)
    return whole if whole.stop - whole.start == len(rows) else rows


def _fetched(table: Tensor, rows: slice | I64) -> NDArray[Any]:
    """Return *rows* of *table* on the host: picked out on the device, or, where there is no memory for that, on the host."""
    if isinstance(rows, slice):
        return cast(NDArray[Any], table[rows].cpu().numpy())
    with contextlib.suppress(Full), full_when_short():
        picked = empty((len(rows), *table.shape[1:]), table.dtype)
        torch.index_select(table, 0, sent(rows, np.int64), out=picked)
        return cast(NDArray[Any], picked.cpu().numpy())
    first, end = int(rows[0]), int(rows[-1]) + 1
    return cast(NDArray[Any], table[first:end].cpu().numpy()[rows - first])


def _inside(array: F32) -> tuple[slice, ...]:
    """Return where a row of *array* is in a row on the device, which may be longer."""
    return tuple(slice(0, width) for width in array.shape[1:])


class Resident(Mirror, Side):
    """A side whose rows are on the device."""

    tables: Tables

    def __new__(cls, factors: F32, biases: F32) -> Resident:
        """Hold no row yet."""
        made: Resident = super().__new__(cls, factors, biases)
        made.hold_nothing()
        return made

    def add(self, rows: I32, change: F32) -> None:
        """Add on the device (`Side.add`), or on the host where there is no room."""
        try:
            if self.missing:
                raise Full("the host's arrays are the truth")
            places, added = sent(rows, np.int64), sent(change, np.float32)
        except Full:
            self.fetch()
            super().add(rows, change)
            self.send(rows)
            return
        self.tables.factors[places, : self.factors.shape[1]] += added[:, :-1]
        self.tables.biases[places] += added[:, -1]
        self.changed(rows)

    def _room(self, n_rows: int) -> Tables:
        kind = torch.from_numpy(self.biases[:0]).dtype
        return Tables(empty((n_rows, width_of(self.factors.shape[1]))).zero_(), empty((n_rows,), kind))


class ResidentBeliefs(Mirror, Beliefs):
    """Beliefs whose rows are on the device."""

    def __new__(cls, equations: F32, outlook: F32) -> ResidentBeliefs:
        """Hold no row yet."""
        made: ResidentBeliefs = super().__new__(cls, equations, outlook)
        made.hold_nothing()
        return made


class ResidentEffects(Mirror, Effects):
    """Effects whose rows are on the device."""

    def __new__(cls, said: F32, told: F32) -> ResidentEffects:
        """Hold no row yet."""
        made: ResidentEffects = super().__new__(cls, said, told)
        made.hold_nothing()
        return made


def mirror_of(rows: Any) -> Any:
    """Return a side, beliefs or effects on the device: where they are, or where none of them are yet."""
    if isinstance(rows, Mirror):
        return rows
    if isinstance(rows, Side):
        return Resident(*rows)
    return ResidentBeliefs(*rows) if isinstance(rows, Beliefs) else ResidentEffects(*rows)


@contextlib.contextmanager
def lent(*given: Side | Beliefs | Effects) -> Iterator[tuple[Any, ...]]:
    """Have *given* on the device; what no `hold` put there is there for this call alone, and goes back to the host."""
    mirrors = tuple(mirror_of(one) for one in given)
    for mirror, one in zip(mirrors, given, strict=True):
        if mirror is not one:
            mirror.ensure(len(one[0]))
    yield mirrors
    for mirror, one in zip(mirrors, given, strict=True):
        if mirror is not one:
            mirror.fetch()


def batch_on_device(batch: Batch) -> DeviceBatch:
    """Return *batch* on the device. Raises `Full`."""
    return DeviceBatch(
        sent(batch.user_rows, np.int32),
        sent(batch.item_rows, np.int32),
        sent(batch.ratings, np.float32),
        sent(batch.user_counts, np.int32),
        sent(batch.item_counts, np.int32),
        histories_on_device(batch.user_histories),
        histories_on_device(batch.item_histories),
        sent(batch.user_means, np.float32),
        sent(batch.item_means, np.float32),
    )


def histories_on_device(histories: Histories) -> DeviceHistories:
    """Return *histories* on the device. Raises `Full`."""
    return DeviceHistories(
        sent(histories.starts, np.int64), sent(histories.others, np.int32), sent(histories.ratings, np.float32)
    )
