"""Prior means from the rows met, compiled. Tables are flat; a row of them takes K + 1 places, the bias last, of factors K."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from factorstream.worker.kernels.compiled import Int, bare, inlined
from factorstream.worker.kernels.effects import CAUTION
from factorstream.worker.kernels.simd import add_scaled, ask_to_read, clear, dot

AHEAD = 8
"""Ratings between asking for a row and using it."""

ONE = np.float32(1)


@bare
def meet(users: Any, items: Any, batch: Any, changes: Any, width: int, user_means: Any, item_means: Any) -> None:
    """Tell rows of whom they meet, event after event, and fill the means just after each (`api.Kernels.meet`)."""
    for j in range(len(changes)):
        user, item = np.int64(batch.user_rows[j]) * width, np.int64(batch.item_rows[j]) * width
        change = np.float32(changes[j])
        if change != 0:
            add_scaled(users.told, user, change, items.said, item, width)
            add_scaled(items.told, item, change, users.said, user, width)
        write_mean(users.told, user, batch.user_counts[j], width, user_means, j)
        write_mean(items.told, item, batch.item_counts[j], width, item_means, j)


@inlined
def write_mean(told: Any, at: Int, count: Int, width: int, means: Any, entry: Int) -> None:
    """Write the mean of the row that begins at *at* and has met *count*."""
    clear(means, entry * width, width)
    add_scaled(means, entry * width, scale_of(count), told, at, width)


@inlined
def scale_of(count: Int) -> Any:
    """Return how much of each effect goes into the mean of a row that has met *count*."""
    return np.float32(1 / math.sqrt(max(count, 0) + CAUTION))


@bare
def recall(own: Any, other: Any, factors: Any, rows: Any, histories: Any, width: int, means: Any, ratings: Any) -> None:
    """Sum anew what *rows* were told, fill their means, and *ratings* less what these say (`api.Kernels.recall`)."""
    rank = width - 1
    for r in range(len(rows)):
        at, begin, end = np.int64(rows[r]) * width, histories.starts[r], histories.starts[r + 1]
        clear(own.told, at, width)
        for h in range(begin, end):
            if h + AHEAD < end:
                ask_to_read(other.said, np.int64(histories.others[h + AHEAD]) * width, width)
            add_scaled(own.told, at, ONE, other.said, np.int64(histories.others[h]) * width, width)
        write_mean(own.told, at, end - begin, width, means, r)
        for h in range(begin, end):
            if h + AHEAD < end:
                ask_to_read(factors, np.int64(histories.others[h + AHEAD]) * rank, rank)
            expected = means[r * width + rank] + dot(means, r * width, factors, np.int64(histories.others[h]) * rank, rank)
            ratings[h] = histories.ratings[h] - expected


@bare
def attribute(
    own: Any, other: Any, factors: Any, biases: Any, rows: Any, histories: Any, counts: Any, width: int, pull: Any, room: Any
) -> None:
    """Find the effect of each of *rows*, one after another, on the rows it met (`api.Kernels.attribute`).

    *factors* and *biases* are those of the rows met, *counts* how many these met; *room* is scratch, ``(K + 1,)``.
    """
    rank = width - 1
    for r in range(len(rows)):
        at, begin, end = np.int64(rows[r]) * width, histories.starts[r], histories.starts[r + 1]
        if begin == end:
            clear(own.said, at, width)
        clear(room, 0, width)
        squares = np.float32(0)
        for h in range(begin, end):
            if h + AHEAD < end:
                ahead = np.int64(histories.others[h + AHEAD])
                ask_to_read(factors, ahead * rank, rank)
                ask_to_read(other.told, ahead * width, width)
            met = np.int64(histories.others[h])
            scale = scale_of(counts[met])
            squares += scale * scale
            add_scaled(room, 0, scale, factors, met * rank, rank)
            room[rank] += scale * biases[met]
            add_scaled(room, 0, -scale * scale, other.told, met * width, width)
        fine = True
        for k in range(width):
            weight, ridge = (pull.factors, pull.factor_ridge) if k < rank else (pull.biases, pull.bias_ridge)
            room[k] = (weight * room[k] - ridge * own.said[at + k]) / (weight * squares + ridge)
            fine &= math.isfinite(room[k])
        if not fine:  # one of the rows met has diverged
            continue
        add_scaled(own.said, at, ONE, room, 0, width)
        for h in range(begin, end):
            add_scaled(other.told, np.int64(histories.others[h]) * width, ONE, room, 0, width)
