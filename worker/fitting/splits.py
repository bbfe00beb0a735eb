"""What a history holds in the end, and which part of it is learned from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.model.ratings import Held, Ratings

BLOCK_VISITS = 2_000_000
"""Ratings gathered at once: some 40 MB."""
NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Split:
    """What is learned from, and pairs to ask about."""

    training: Ratings
    holdout: Held
    """Ascending by (user, item)."""


def last_writes(
    user_rows: NDArray[np.int32],
    item_rows: NDArray[np.int32],
    ratings: NDArray[np.float32],
    timestamps_ms: NDArray[np.int64],
    *,
    n_users: int,
    n_items: int,
) -> Ratings:
    """Return a store with *n_users* and *n_items* rows of what the pairs of a history hold in the end: the last write wins."""
    store = Ratings()
    store.grow(n_users, n_items)
    for first in range(0, len(ratings), BLOCK_VISITS):
        part = slice(first, first + BLOCK_VISITS)
        kinds = np.zeros(len(ratings[part]), np.uint8)
        store.accept(kinds, user_rows[part], item_rows[part], ratings[part], timestamps_ms[part])
    return store


def split(ratings: Ratings, share: float, seed: int) -> Split:
    """Hold out the *share* of what *ratings* hold, drawn without replacement from *seed*."""
    held_out = np.zeros(ratings.n_ratings, bool)
    held_out[_shuffled(ratings, seed)[: round(share * ratings.n_ratings)]] = True
    return _parted(ratings, held_out)


def fold(ratings: Ratings, number: int, n_folds: int, seed: int) -> Split:
    """Hold out part *number* of *n_folds*, into which *seed* parts what *ratings* hold, sizes differing by one at most."""
    held_out = np.zeros(ratings.n_ratings, bool)
    held_out[np.array_split(_shuffled(ratings, seed), n_folds)[number]] = True
    return _parted(ratings, held_out)


def last_of_each_user(ratings: Ratings, user_rows: NDArray[np.int32], item_rows: NDArray[np.int32]) -> Split:
    """Hold out the last rating of each user who holds two or more.

    Args:
        user_rows, item_rows: The history that *ratings* were made of, in order of time; of equal times the later entry is last.
    """
    last = np.full(ratings.n_users, -1, np.int64)
    np.maximum.at(last, user_rows, np.arange(len(user_rows)))
    users = np.flatnonzero(ratings.user_counts >= 2)
    entries = ratings.entries()
    keys = entries.user_rows.astype(np.int64) * ratings.n_items + entries.item_rows
    held_out = np.zeros(len(keys), bool)
    held_out[np.searchsorted(keys, users * ratings.n_items + item_rows[last[users]])] = True
    return _parted(ratings, held_out)


def user_blocks(ratings: Ratings) -> Iterator[Held]:
    """Yield what *ratings* hold, some users at a time, ascending."""
    block = np.cumsum(ratings.user_counts, dtype=np.int64) // BLOCK_VISITS
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), ratings.n_users]
    for first, stop in pairwise(edges):
        yield ratings.entries(first, stop)


def _shuffled(ratings: Ratings, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(ratings.n_ratings)


def _parted(ratings: Ratings, held_out: NDArray[np.bool_]) -> Split:
    """Return *ratings* themselves where nothing is *held_out*, else a store without it; as many rows in both."""
    if not held_out.any():
        return Split(ratings, ratings.entries(0, 0))
    entries = ratings.entries()
    training = Ratings.from_entries(
        _chosen(entries, ~held_out),
        user_floor_ms=np.full(ratings.n_users, NEVER),
        item_floor_ms=np.full(ratings.n_items, NEVER),
    )
    return Split(training, _chosen(entries, held_out))


def _chosen(entries: Held, chosen: NDArray[np.bool_]) -> Held:
    return Held(entries.user_rows[chosen], entries.item_rows[chosen], entries.ratings[chosen], entries.timestamps_ms[chosen])
