"""Where an item stands among sampled ones, before a user's click on it is learned."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, I32, I64, Histories
from factorstream.worker.kernels.compiled import Int, bare, inlined
from factorstream.worker.kernels.cpu_start import splitmix64
from factorstream.worker.kernels.simd import dot

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


def rank_clicks(
    clicks: Clicks,
    users: F32,
    users_count: NDArray[np.bool_],
    items: F32,
    items_count: NDArray[np.bool_],
    first: int,
    scores: F32,
    hits: F32,
) -> None:
    """Fill *scores* with ``u·v`` of each event as it was before it, and *hits* with 1 where fewer than `N_BEST` of `N_SAMPLED`
    items score at least as high, 0 where more do; entries that are not asked stay.

    *users* and *items* are the factors before the first event; rows that do not count are zero. Items are drawn from a counter
    hash of *first*, the number of the first event, and nothing else.
    """
    clicks = clicks._replace(solved=clicks.solved.reshape(-1))
    rank, numbers = users.shape[1], np.arange(first, first + len(scores), dtype=np.uint64)
    _rank(clicks, users.reshape(-1), users_count, items.reshape(-1), items_count, rank, numbers, scores, hits)


@bare
def _rank(
    clicks: Any,
    users: Any,
    users_count: Any,
    items: Any,
    items_count: Any,
    rank: Int,
    numbers: Any,
    scores: Any,
    hits: Any,
) -> None:
    """Do what `rank_clicks` says, factors being flat."""
    for j in range(scores.shape[0]):
        user, item = np.int64(clicks.user_rows[j]), np.int64(clicks.item_rows[j])
        before = earlier(clicks, j)
        known = before >= 0 or users_count[user]
        met = known and item < clicks.n_known[j] and items_count[item]
        if before >= 0:
            scores[j] = dot(clicks.solved, before * rank, items, item * rank, rank) if met else np.float32(0)
            if clicks.asked[j]:
                hits[j] = is_hit(clicks, j, clicks.solved, before * rank, known, items, items_count, rank, numbers[j], scores[j])
        else:
            scores[j] = dot(users, user * rank, items, item * rank, rank) if met else np.float32(0)
            if clicks.asked[j]:
                hits[j] = is_hit(clicks, j, users, user * rank, known, items, items_count, rank, numbers[j], scores[j])


@inlined
def earlier(clicks: Any, j: Int) -> Int:
    """Return which event solved the user of event *j* last, −1 if none of these did."""
    for i in range(j - 1, -1, -1):
        if clicks.user_rows[i] == clicks.user_rows[j] and clicks.is_solved[i]:
            return np.int64(i)
    return np.int64(-1)


@inlined
def is_hit(
    clicks: Any,
    j: Int,
    factors: Any,
    at: Int,
    known: Any,
    items: Any,
    items_count: Any,
    rank: Int,
    number: Any,
    least: Any,
) -> np.float32:
    """Return 1 if fewer than `N_BEST` of the sampled items score at least *least* with ``factors[at:]``, else 0."""
    start, n_known = splitmix64(number), np.uint64(clicks.n_known[j])
    n_above, n_drawn, draw = 0, 0, np.uint64(0)
    while n_drawn < N_SAMPLED and n_above < N_BEST:
        item = np.int64(splitmix64(start + draw) % n_known)
        draw += np.uint64(1)
        if holds(clicks.histories, j, item):
            continue
        n_drawn += 1
        score = dot(factors, at, items, item * rank, rank) if known and items_count[item] else np.float32(0)
        n_above += 0 if score < least else 1
    return np.float32(1 if n_above < N_BEST else 0)


@inlined
def holds(histories: Any, j: Int, item: Int) -> bool:
    """Whether *item* is in entry *j*, which is ascending."""
    low, stop = histories.starts[j], histories.starts[j + 1]
    high = stop
    while low < high:
        middle = (low + high) >> 1
        if histories.others[middle] < item:
            low = middle + 1
        else:
            high = middle
    return low < stop and histories.others[low] == item
