"""Prior means from the rows met, compiled. Tables are flat; a row of them takes K + 1 places, the bias last, of factors K."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from factorstream.worker.kernels.compiled import Int, bare, inlined, prefetch
from factorstream.worker.kernels.effects import CAUTION
from factorstream.worker.kernels.simd import add_blend, add_scaled, ask_for, clear

AHEAD = 8
"""Ratings between asking for a row and using it."""

ONE = np.float32(1)


@bare
def meet(users: Any, items: Any, batch: Any, changes: Any, width: int, user_means: Any, item_means: Any) -> None:
    """Tell rows of whom they meet, event after event, and fill the means just after each (`api.Kernels.meet`)."""
    rank, n = width - 1, len(changes)
    for j in range(n):
        if j + AHEAD < n:
            ask(users, np.int64(batch.user_rows[j + AHEAD]) * width, width)
            ask(items, np.int64(batch.item_rows[j + AHEAD]) * width, width)
        user, item = np.int64(batch.user_rows[j]) * width, np.int64(batch.item_rows[j]) * width
        change = np.float32(changes[j])
        if change != 0:
            tell(users.told, user, change, items.said, item, rank)
            tell(items.told, item, change, users.said, user, rank)
        write_mean(users.told, user, batch.user_counts[j], rank, user_means, j * width)
        write_mean(items.told, item, batch.item_counts[j], rank, item_means, j * width)


@inlined
def ask(effects: Any, at: Int, width: int) -> None:
    """Ask for what a row says and is told."""
    ask_for(effects.said, at, width)
    ask_for(effects.told, at, width)


@inlined
def tell(told: Any, at: Int, share: Any, said: Any, said_at: Int, rank: int) -> None:
    """Add a share of an effect to what a row was told. The bias is told apart: vectors are rank numbers long, not one more."""
    add_scaled(told, at, share, said, said_at, rank)
    told[np.uint64(at + rank)] += share * said[np.uint64(said_at + rank)]


@inlined
def write_mean(told: Any, at: Int, count: Int, rank: int, means: Any, mean_at: Int) -> None:
    """Write the mean of the row that begins at *at* and has met *count*."""
    scale = scale_of(count)
    clear(means, mean_at, rank)
    add_scaled(means, mean_at, scale, told, at, rank)
    means[np.uint64(mean_at + rank)] = scale * told[np.uint64(at + rank)]


@inlined
def scale_of(count: Int) -> Any:
    """Return how much of each effect goes into the mean of a row that has met *count*."""
    return np.float32(1 / math.sqrt(max(count, 0) + CAUTION))


@bare
def recall(own: Any, other: Any, rows: Any, histories: Any, width: int, means: Any) -> None:
    """Sum anew what *rows* were told, and fill their means (`api.Kernels.recall`)."""
    rank, stop = width - 1, len(histories.others)
    for r in range(len(rows)):
        at, begin, end = np.int64(rows[r]) * width, histories.starts[r], histories.starts[r + 1]
        clear(own.told, at, width)
        for h in range(begin, end):
            if h + AHEAD < stop:
                ask_for(other.said, np.int64(histories.others[h + AHEAD]) * width, width)
            tell(own.told, at, ONE, other.said, np.int64(histories.others[h]) * width, rank)
        write_mean(own.told, at, end - begin, rank, means, r * width)


@bare
def attribute(
    own: Any, other: Any, factors: Any, biases: Any, rows: Any, histories: Any, counts: Any, width: int, pull: Any, room: Any
) -> None:
    """Find the effect of each of *rows*, one after another, on the rows it met (`api.Kernels.attribute`).

    *factors* and *biases* are those of the rows met, *counts* how many these met; *room* is scratch, ``(padded(K + 1),)``.
    """
    rank, stop = width - 1, len(histories.others)
    for r in range(len(rows)):
        at, begin, end = np.int64(rows[r]) * width, histories.starts[r], histories.starts[r + 1]
        if begin == end:
            clear(own.said, at, width)
        clear(room, 0, width)
        squares, of_bias = np.float32(0), np.float32(0)
        for h in range(begin, end):
            if h + AHEAD < stop:
                ahead = np.int64(histories.others[h + AHEAD])
                prefetch(counts, ahead)
                prefetch(biases, ahead)
                ask_for(factors, ahead * rank, rank)
                ask_for(other.told, ahead * width, width)
            met = np.int64(histories.others[h])
            scale = scale_of(counts[met])
            squares += scale * scale
            add_blend(room, scale, factors, met * rank, rank, -scale * scale, other.told, met * width, rank)
            of_bias += scale * (biases[met] - scale * other.told[np.uint64(met * width + rank)])
        room[rank] = of_bias
        if change_effect(own.said, at, rank, squares, pull, room):
            for h in range(begin, end):
                tell(other.told, np.int64(histories.others[h]) * width, ONE, room, 0, rank)


@inlined
def change_effect(said: Any, at: Int, rank: int, squares: Any, pull: Any, room: Any) -> bool:
    """Make what is left to explain in *room* the change of an effect, and change it; return whether it is finite.

    It is not where one of the rows met has diverged.
    """
    fine = True
    for k in range(rank + 1):
        weight, ridge = (pull.factors, pull.factor_ridge) if k < rank else (pull.biases, pull.bias_ridge)
        room[k] = (weight * room[k] - ridge * said[np.uint64(at + k)]) / (weight * squares + ridge)
        fine &= math.isfinite(room[k])
    if fine:
        tell(said, at, ONE, room, 0, rank)
    return fine
