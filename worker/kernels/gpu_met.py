"""Prior means from the rows met, on the device: `meet`, `recall` and `attribute` of `api.Kernels` over tables that are there.

Where the device has no memory left, the CPU's kernels do the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels import cpu, gpu_effects, gpu_schedule
from factorstream.worker.kernels.api import F32, I32, Batch, Histories, Side
from factorstream.worker.kernels.effects import Effects, Pull
from factorstream.worker.kernels.gpu_solve import rows_of
from factorstream.worker.kernels.gpu_tables import (
    Full,
    Mirror,
    Resident,
    ResidentEffects,
    Tensor,
    empty,
    full_when_short,
    sent,
    width_of,
)

TILE = 16
"""Ratings of a history that are summed at once."""


def meet(users: ResidentEffects, items: ResidentEffects, batch: Batch, changes: NDArray[np.int8]) -> tuple[F32, F32]:
    """Tell rows of whom they meet; effects that are said do not change meanwhile, so each row's sums go their own way."""
    n, rank = len(changes), users.said.shape[1] - 1
    try:
        refuse_missing(users, items)
        rows = sent(batch.user_rows, np.int32), sent(batch.item_rows, np.int32)
        counts = sent(batch.user_counts, np.int32), sent(batch.item_counts, np.int32)
        there, means = sent(changes, np.int32), empty((2, n, rank + 1))
        with full_when_short():
            runs = [gpu_schedule.runs_of(column, max(n, 1)) for column in rows]
    except Full:
        return _meet_on_host(users, items, batch, changes)
    for side, (own, other) in enumerate(((users, items), (items, users)) if n else ()):
        columns = rows[side], rows[1 - side], counts[side], there, *runs[side], means[side]
        gpu_effects.meet_rows[(n,)](other.tables[0], own.tables[1], *columns, rank, WIDTH=width_of(rank), num_warps=1)
    users.changed(batch.user_rows)
    items.changed(batch.item_rows)
    of_users, of_items = means.cpu().numpy()
    return of_users, of_items


def recall(own: ResidentEffects, other: ResidentEffects, rows: I32, histories: Histories) -> F32:
    """Sum anew what *rows* were told."""
    n, rank = len(rows), own.said.shape[1] - 1
    try:
        refuse_missing(own, other)
        columns, means = (sent(rows, np.int32), *rows_of(histories).histories[:2]), empty((n, rank + 1))
    except Full:
        return _recall_on_host(own, other, rows, histories)
    if n:
        tables = other.tables[0], own.tables[1]
        gpu_effects.recall_rows[(n,)](*tables, *columns, means, rank, WIDTH=width_of(rank), TILE=TILE, num_warps=1)
    own.changed(rows)
    summed: F32 = means.cpu().numpy()
    return summed


def attribute(
    own: ResidentEffects, other: ResidentEffects, side: Resident, rows: I32, histories: Histories, counts: I32, pull: Pull
) -> None:
    """Find the effects of *rows*, one after another."""
    width = own.said.shape[1]
    try:
        refuse_missing(own, other, side)
        attribute_rows(own.tables[0], other.tables[1], (width, width), side, rows, histories, counts, pull)
    except Full:
        _attribute_on_host(own, other, side, rows, histories, counts, pull)
        return
    own.changed(rows)
    other.changed(histories.others)


@np.errstate(all="ignore")
def attribute_rows(
    said: Tensor,
    told: Tensor,
    strides: tuple[int, int],
    side: Resident,
    rows: I32,
    histories: Histories,
    counts: I32,
    pull: Pull,
    level: float = 0.0,
    slope: float = 0.0,
) -> None:
    """Find effects; *strides* are the distances of rows in *said* and *told*. Raises `Full` before anything is changed.

    A row met that holds n ratings has *level* + *slope* ln(1 + n) in its bias, which no effect is to explain.
    """
    rank = side.factors.shape[1]
    columns = sent(rows, np.int32), *rows_of(histories).histories[:2], sent(counts[histories.others], np.int32)
    gpu_effects.attribute_rows[(1,)](
        said,
        strides[0],
        told,
        strides[1],
        *side.tables,
        *columns,
        len(rows),
        rank,
        level,
        slope,
        *map(float, pull),
        WIDTH=width_of(rank),
        TILE=gpu_effects.CHAIN_TILE.value,
        num_warps=gpu_effects.CHAIN_WARPS.value,
    )


def refuse_missing(*mirrors: Mirror) -> None:
    """Raise `Full` where the device had no room for one of them."""
    if any(mirror.missing for mirror in mirrors):
        raise Full("there was no room for all rows")


def _meet_on_host(users: ResidentEffects, items: ResidentEffects, batch: Batch, changes: NDArray[np.int8]) -> tuple[F32, F32]:
    users.fetch()
    items.fetch()
    means = cpu.meet(Effects(*users), Effects(*items), Batch(*batch), changes)
    users.send(batch.user_rows)
    items.send(batch.item_rows)
    return means


def _recall_on_host(own: ResidentEffects, other: ResidentEffects, rows: I32, histories: Histories) -> F32:
    own.fetch()
    other.fetch()
    means = cpu.recall(Effects(*own), Effects(*other), rows, Histories(*histories))
    own.send(rows)
    return means


def _attribute_on_host(
    own: ResidentEffects, other: ResidentEffects, side: Resident, rows: I32, histories: Histories, counts: I32, pull: Pull
) -> None:
    for mirror in (own, other, side):
        mirror.fetch()
    cpu.attribute(Effects(*own), Effects(*other), Side(*side), rows, Histories(*histories), counts, pull)
    own.send(rows)
    other.send(histories.others)
