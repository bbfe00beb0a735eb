"""Who waits for whom, so that events that run at the same time leave what one after another would have left.

An event writes its two rows and reads those of its histories. All accesses of one row form a line, in the order of events; a
write opens a *generation* of the row, and so does the beginning of the line. A read waits until its generation is written; a
write waits until the generation before it is written and read by all that read it. Each generation has a *slot* that counts both,
and only those who need that generation ever look at it, so that nobody's waiting slows another's work.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from factorstream.worker.kernels.gpu_tables import DeviceBatch, Tensor


class Order(NamedTuple):
    """One entry an access: users written by each event, items written, then rows that users' and that items' histories read."""

    wait: Tensor
    """Slot to wait at; −1: nothing to wait for."""
    count: Tensor
    """What the slot has to have counted."""
    signal: Tensor
    """Slot that the access counts at when it is done."""


class Runs(NamedTuple):
    """Events put together by item: each run is one program's work, which keeps the item's row in registers."""

    events: Tensor
    """All events, run by run, in each in order."""
    starts: Tensor
    """Where each run begins in *events*; more entries than there are runs, the rest their end."""


MOST_ROWS = 1 << 31
"""Rows are of 32 bits; items' follow users' where both are in one column."""


def order_of(batch: DeviceBatch) -> Order:
    """Return who waits for whom in *batch*."""
    n = len(batch.ratings)
    device = batch.ratings.device
    events = torch.arange(n, device=device)
    reads = [_events_of(histories.starts, len(histories.others)) for histories in (batch.user_histories, batch.item_histories)]
    own_items, own_users = batch.item_rows.long() + MOST_ROWS, batch.user_rows.long()
    read_items, read_users = batch.user_histories.others.long() + MOST_ROWS, batch.item_histories.others.long()
    nobody = torch.iinfo(torch.int64).max // max(n, 1) - 1
    # the row that the event itself writes: held already
    read_items = torch.where(read_items == own_items[reads[0]], nobody, read_items)
    read_users = torch.where(read_users == own_users[reads[1]], nobody, read_users)
    rows = torch.cat([own_users, own_items, read_items, read_users])
    return _lines(rows * max(n, 1) + torch.cat([events, events, *reads]), rows, 2 * n)


def _lines(keys: Tensor, rows: Tensor, n_writes: int) -> Order:
    """Return the order of accesses that sort by *keys* into lines of equal *rows*; the first *n_writes* write."""
    n = len(keys)
    line = torch.argsort(keys)
    rows, place = rows[line], torch.arange(n, device=keys.device)
    writes = line < n_writes
    begins = torch.ones(n, dtype=torch.bool, device=keys.device)
    begins[1:] = rows[1:] != rows[:-1]
    opens = writes | begins
    generation = torch.cumsum(opens, 0) - 1
    slots = torch.zeros(n + 1, dtype=torch.int64, device=keys.device).scatter_(0, torch.where(opens, generation, n), place)
    here, before = slots[generation], slots[(generation - 1).clamp(min=0)]
    wait = torch.where(writes, torch.where(begins, -1, before), torch.where(writes[here], here, -1))
    count = torch.where(writes, place - before, 1)
    return Order(
        *(torch.empty(n, dtype=torch.int32, device=keys.device).scatter_(0, line, one.int()) for one in (wait, count, here))
    )


def _events_of(starts: Tensor, n: int) -> Tensor:
    """Return which entry each of the *n* ratings of histories belongs to."""
    return torch.searchsorted(starts[1:].contiguous(), torch.arange(n, device=starts.device), right=True)


def runs_of(item_rows: Tensor, window: int) -> Runs:
    """Cut events into windows of *window*, and put together those of one item in each."""
    n = len(item_rows)
    keys = torch.arange(n, device=item_rows.device) // window * MOST_ROWS + item_rows
    keys, events = torch.sort(keys, stable=True)
    begins = torch.ones(n, dtype=torch.bool, device=item_rows.device)
    begins[1:] = keys[1:] != keys[:-1]
    run = torch.cumsum(begins, 0) - 1
    starts = torch.full((n + 2,), n, dtype=torch.int32, device=item_rows.device)
    places = torch.arange(n, dtype=torch.int32, device=item_rows.device)
    return Runs(events.int(), starts.scatter_(0, torch.where(begins, run, n + 1), torch.where(begins, places, n)))


def window_of(item_rows: Tensor, most_runs: int) -> int:
    """Return the largest power of two times *most_runs* events of which every window has at most *most_runs* items.

    Programs take runs window by window. With no more runs in a window than programs at work, a window's runs are all under way
    before the next one's, so that no program ever waits for a run that nobody has taken.
    """
    n = len(item_rows)
    if n <= most_runs:
        return most_runs
    order = torch.argsort(item_rows, stable=True)
    same = item_rows[order[1:]] == item_rows[order[:-1]]
    before = torch.full((n,), -1, dtype=torch.int64, device=item_rows.device)
    before[order[1:]] = torch.where(same, order[:-1], -1)
    windows = [most_runs << power for power in range((n // most_runs).bit_length() + 1)]
    most = torch.stack([_most_items(before, window) for window in windows]).tolist()
    return max(window for window, items in zip(windows, most, strict=True) if items <= most_runs)


def _most_items(before: Tensor, window: int) -> Tensor:
    """Return how many items the richest window has; *before* is the event before each of the same item, or −1."""
    events = torch.arange(len(before), device=before.device)
    first = before < events // window * window
    counts = torch.zeros(len(before) // window + 1, dtype=torch.int32, device=before.device)
    return counts.index_add_(0, events // window, first.int()).max()
