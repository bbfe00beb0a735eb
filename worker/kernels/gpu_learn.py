"""Batches on the device, in the order in which they are learned, and the kernel that learns each."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch

from factorstream.worker.kernels import gpu_schedule, gpu_sgd
from factorstream.worker.kernels.api import Batch, Histories, Objective, Rates
from factorstream.worker.kernels.gpu_language import DEVICE, INTERPRETED, next_power_of_2
from factorstream.worker.kernels.gpu_tables import (
    DeviceBatch,
    Tables,
    Tensor,
    batch_on_device,
    empty,
    full_when_short,
    width_of,
    zeros,
)

IN_ORDER = {"num_warps": 1, "enable_fp_fusion": False}
"""How kernels are compiled that learn in order: without fused products, so that each gives an event the same bits."""
REGISTERS = 1 << 16
"""Of one multiprocessor."""
BLOCKS = {(7, 0): 32, (7, 2): 32, (8, 0): 32, (8, 9): 24, (9, 0): 32, (10, 0): 32, (12, 0): 24, (12, 1): 24}
"""Programs that one multiprocessor runs at the same time at most, by compute capability."""
FEWEST_BLOCKS = 16
"""Of any other: 7.5, 8.6, 8.7, and those that nobody knows yet."""


class Runs(NamedTuple):
    """A batch in which nothing folds in, put together by item (`gpu_sgd.learn_runs`)."""

    events: Tensor
    starts: Tensor
    columns: tuple[Tensor, ...]
    means: tuple[Tensor, Tensor]
    waits: Tensor
    slots: Tensor


class Events(NamedTuple):
    """A batch with histories (`gpu_sgd.learn_events`)."""

    batch: DeviceBatch
    order: gpu_schedule.Order
    longest: int


class KeptBatch(Batch):
    """A batch that is on the device too, once it was needed there; what `_replace` makes of it is not yet."""

    longest: int | None = None
    """Length of its longest history."""
    work: dict[int, Runs | Events] | None = None
    """By how many programs run at the same time."""


def kept(batch: Batch) -> KeptBatch:
    """Return *batch*, to be sent to the device once."""
    return KeptBatch(*batch)


def work_of(batch: Batch, n_programs: int) -> Runs | Events:
    """Send *batch*, and say who waits for whom where *n_programs* run at the same time. Raises `Full`."""
    if not isinstance(batch, KeptBatch):
        return _work_of(batch, n_programs)
    if batch.work is None:
        batch.work = {}
    if n_programs not in batch.work:
        batch.work[n_programs] = _work_of(batch, n_programs)
    return batch.work[n_programs]


def _work_of(batch: Batch, n_programs: int) -> Runs | Events:
    there, length = batch_on_device(batch), longest(batch)
    with full_when_short():
        order = gpu_schedule.order_of(there)
        if length:
            return Events(there, order, next_power_of_2(length))
        n = len(batch.ratings)
        runs = gpu_schedule.runs_of(there.item_rows, gpu_schedule.window_of(there.item_rows, n_programs))
        chosen = runs.events.long()
        both, columns = torch.cat([chosen, chosen + n]), tuple(column[chosen] for column in there[:5])
        means = there.user_means, there.item_means
        return Runs(*runs, columns, means, order.wait[both], order.signal[both])


@np.errstate(all="ignore")
def learn(
    users: Tables, items: Tables, rank: int, work: Runs | Events, intercept: float, objective: Objective, rates: Rates
) -> Tensor:
    """Run the kernel that *work* is for; return the columns of `Scored`. Raises `Full` before anything is changed."""
    penalty = objective.penalty
    numbers = rank, *map(float, (intercept, penalty.user, penalty.item, penalty.bias, *rates))
    width = width_of(rank)
    n_programs = programs(width)
    how: dict[str, Any] = {"WEIGHTED": bool(penalty.weighted), "WIDTH": width, **IN_ORDER}
    means = work.means[0] if isinstance(work, Runs) else work.batch.user_means
    how["MEANS"] = len(means) > 0
    if isinstance(work, Runs):
        how["maxnreg"] = most_registers(width)
        n = len(work.events)
        scored, signals = empty((4, n)), zeros((2 * n + 1,))
        runs = work.events, work.starts, *work.columns, *work.means, work.waits, work.slots, signals, signals[2 * n :], scored
        gpu_sgd.learn_runs[(min(n_programs, n),)](*users, *items, *runs, n, *numbers, **how)
        return scored
    batch, order, length = work
    n, n_accesses, n_reads = len(batch.ratings), len(order.wait), len(batch.user_histories.others)
    scored, signals = empty((4, n)), zeros((n_accesses + 1,))
    room = empty((min(n_programs, n), 2, length, width))
    histories = *batch.user_histories, *batch.item_histories, batch.user_means, batch.item_means
    columns = *batch[:5], *histories, *order, signals, signals[n_accesses:], room, scored
    gpu_sgd.learn_events[(len(room),)](*users, *items, *columns, n, n_reads, *numbers, LONGEST=length, **how)
    return scored


def a_processor(width: int) -> int:
    """Return how many programs, of one warp, that keep a few rows of *width* factors have room in one multiprocessor."""
    return 32 if width <= 64 else 24 if width <= 128 else 16 if width <= 512 else 8


def most_registers(width: int) -> int:
    """Return how many registers a thread may have so that `a_processor` programs fit; they are given out by eights."""
    return min(REGISTERS // (a_processor(width) * 32) // 8 * 8, 255)


def blocks(major: int, minor: int) -> int:
    """Return how many programs one multiprocessor of this compute capability runs at the same time at most."""
    return BLOCKS.get((major, minor), FEWEST_BLOCKS)


def resident(most: int) -> int:
    """Return how many programs of one warp surely run at the same time, of which one multiprocessor has room for *most*."""
    device = torch.cuda.get_device_properties(DEVICE)
    return min(most, blocks(device.major, device.minor)) * int(device.multi_processor_count)


@functools.cache
def programs(width: int) -> int:
    """Return how many programs of `gpu_sgd.learn_runs` surely run at the same time. Interpreted ones run one after another."""
    if INTERPRETED.value:
        return 1
    return resident(a_processor(width))


def longest(batch: Batch) -> int:
    """Return the length of the longest history in *batch*."""
    if not isinstance(batch, KeptBatch):
        return _longest(batch)
    if batch.longest is None:
        batch.longest = _longest(batch)
    return batch.longest


def _longest(batch: Batch) -> int:
    histories = (batch.user_histories, batch.item_histories)
    return max((int(np.diff(one.starts).max()) for one in histories if len(one.others)), default=0)


def part_of(batch: Batch, begin: int, end: int) -> Batch:
    """Return events ``begin .. end - 1`` as a batch of their own."""
    return Batch(
        batch.user_rows[begin:end],
        batch.item_rows[begin:end],
        batch.ratings[begin:end],
        batch.user_counts[begin:end],
        batch.item_counts[begin:end],
        entries_of(batch.user_histories, begin, end),
        entries_of(batch.item_histories, begin, end),
        batch.user_means[begin:end],
        batch.item_means[begin:end],
    )


def entries_of(histories: Histories, begin: int, end: int) -> Histories:
    """Return entries ``begin .. end - 1`` as histories of their own."""
    starts = histories.starts[begin : end + 1]
    part = slice(starts[0], starts[-1])
    return Histories(starts - starts[0], histories.others[part], histories.ratings[part])
