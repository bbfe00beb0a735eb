"""The order of SGD's steps over a whole history: sections that several threads go through at once, and no one can tell.

Users and items are dealt into bins, so that ratings lie in the blocks of a grid, and the blocks on one diagonal, a section,
share no row: learned at the same time, they leave what one after another would have left. A block's rows stay in the cache.

Source: Gemulla et al., KDD 2011 (strata); Chin et al., ACM TIST 6(1), 2015 (blocks, users of a block in order).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import I32, I64, Batch, Histories
from factorstream.worker.kernels.grid import Grid, grid_of
from factorstream.worker.model.ratings import Ratings

N_BINS, LONGEST_SECTION = 32, 2_000_000
"""A history has at least so many sections, of about so many ratings at most."""


class Part(NamedTuple):
    """What a kernel is handed at once."""

    batch: Batch
    apart: I64
    """Where blocks begin in it, and its end (`Kernels.sgd`)."""


def sections_of(ratings: Ratings, random: np.random.Generator, minibatch: int) -> Iterator[list[Part]]:
    """Yield all *ratings*, rows dealt by *random*, section by section, each in batches of at most *minibatch*."""
    n_bins = max(N_BINS, -(-ratings.n_ratings // LONGEST_SECTION))
    user_bins, item_bins = (_dealt(counts, n_bins, random) for counts in (ratings.user_counts, ratings.item_counts))
    grid = grid_of(ratings.all_histories(), ratings.item_counts, user_bins, item_bins, n_bins)
    none = Histories(np.zeros(min(minibatch, ratings.n_ratings) + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    for first in range(0, n_bins**2, n_bins):
        yield list(_batches(grid, grid.starts[first : first + n_bins + 1], none, minibatch))


def _dealt(counts: I32, n_bins: int, random: np.random.Generator) -> NDArray[np.int16]:
    """Return a bin for each row; rows with many ratings are dealt first, to and fro, so that bins get about as many."""
    order = random.permutation(len(counts))
    order = order[np.argsort(-counts[order], kind="stable")]
    there = np.arange(len(counts)) % (2 * n_bins)
    bins = np.empty(len(counts), np.int16)
    bins[order] = np.minimum(there, 2 * n_bins - 1 - there)
    return bins


def _batches(grid: Grid, starts: I64, none: Histories, minibatch: int) -> Iterator[Part]:
    """Yield the ratings from ``starts[0]`` to ``starts[-1]``, at most *minibatch* at once, with *none* to be folded in."""
    for at in range(int(starts[0]), int(starts[-1]), minibatch):
        stop = min(at + minibatch, int(starts[-1]))
        rows, counts = (grid.user_rows[at:stop], grid.item_rows[at:stop]), (grid.user_counts[at:stop], grid.item_counts[at:stop])
        nothing = none._replace(starts=none.starts[: stop - at + 1])
        batch = Batch(*rows, grid.ratings[at:stop], *counts, nothing, nothing)
        yield Part(batch, np.unique(np.clip(starts, at, stop)) - at)
