"""Where an item stands among sampled ones, before a user's click on it is learned."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, I32, I64, Histories
from factorstream.worker.kernels.compiled import Int, bare, inlined
from factorstream.worker.kernels.cpu_start import splitmix64

N_SAMPLED = 100
"""Items that the tested one is ranked among."""
N_BEST = 10
"""A hit is one of so many best."""


class Clicks(NamedTuple):
    """Accepted events in order, one entry each."""

    user_rows: I32
    item_rows: I32
    solved: F32
    """``(n, K)``: the user's factors just after the event …"""
    is_solved: NDArray[np.bool_]
    """… where it was solved; else the factors are those of before."""
    asked: NDArray[np.bool_]
    """Whether the item is to be ranked."""
    n_known: I64
    """Item rows that there were before the event: ``0 .. n_known - 1`` are sampled."""
    histories: Histories
    """What the user holds just after the event, where the item is to be ranked: these are not sampled."""


@bare
def rank_clicks(
    clicks: Clicks,
    users: F32,
    users_count: NDArray[np.bool_],
    items: F32,
    items_count: NDArray[np.bool_],
    first: np.uint64,
    scores: F32,
    hits: F32,
) -> None:
    """Fill *scores* with ``u·v`` of each event as it was before it, and *hits* with 1 where fewer than `N_BEST` of `N_SAMPLED`
    items score at least as high, 0 where more do; entries that are not asked stay.

    *users* and *items* are the factors before the first event; rows that do not count are zero. Items are drawn from a counter
    hash of *first*, the number of the first event, and nothing else.
    """
    for j in range(clicks.user_rows.shape[0]):
        user, item = np.int64(clicks.user_rows[j]), np.int64(clicks.item_rows[j])
        factors, row = users, user
        known = users_count[user]
        for i in range(j - 1, -1, -1):
            if clicks.user_rows[i] == user and clicks.is_solved[i]:
                factors, row, known = clicks.solved, np.int64(i), True
                break
        scores[j] = (
            score(factors, row, items, item) if known and items_count[item] and item < clicks.n_known[j] else np.float32(0)
        )
        if clicks.asked[j]:
            n_above = count_above(clicks, j, factors, row, known, items, items_count, first + np.uint64(j), scores[j])
            hits[j] = 1 if n_above < N_BEST else 0


@inlined
def count_above(
    clicks: Clicks,
    j: Int,
    factors: F32,
    row: Int,
    known: bool | np.bool,
    items: F32,
    items_count: NDArray[np.bool_],
    number: np.uint64,
    least: np.float32,
) -> Int:
    """Return how many of the sampled items score at least *least*."""
    n_above, n_drawn, draw = 0, 0, np.uint64(0)
    while n_drawn < N_SAMPLED:
        bits = splitmix64(splitmix64(number) + draw)
        draw += np.uint64(1)
        item = np.int64(bits % np.uint64(clicks.n_known[j]))
        if holds(clicks.histories, j, item):
            continue
        n_drawn += 1
        found = score(factors, row, items, item) if known and items_count[item] else np.float32(0)
        n_above += 1 if not found < least else 0
    return n_above


@inlined
def score(factors: F32, row: Int, items: F32, item: Int) -> np.float32:
    """Return ``u·v``."""
    total = np.float32(0)
    for k in range(factors.shape[1]):
        total += factors[row, k] * items[item, k]
    return total


@inlined
def holds(histories: Histories, j: Int, item: Int) -> bool:
    """Whether *item* is in entry *j*, which is ascending."""
    low, high = histories.starts[j], histories.starts[j + 1]
    while low < high:
        middle = (low + high) >> 1
        if histories.others[middle] < item:
            low = middle + 1
        else:
            high = middle
    return low < histories.starts[j + 1] and histories.others[low] == item
