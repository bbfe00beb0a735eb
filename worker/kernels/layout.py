"""Arrays in the one layout that loops are compiled for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import Batch, Histories


def flat(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return *table* with one dimension, to be changed in place: a copy would take the changes with it."""
    if table.dtype != np.float32 or not table.flags.carray:
        raise TypeError(f"a writable C-contiguous float32 table was expected, not {table.dtype} {table.shape}")
    return table.reshape(-1)


def column(values: NDArray[Any], dtype: Any) -> Any:
    """Return *values* contiguous, aligned and writable; no copy if they are."""
    if values.dtype == dtype and values.flags.carray:
        return values  # np.require takes microseconds to find that out
    return np.require(values, dtype, ["C", "A", "W"])


def strided(values: NDArray[Any]) -> NDArray[np.int32]:
    """Return int32 *values* for loops compiled for a field of records: as they lie, for a copy would be of every row there is.

    What is contiguous, as one or no record's field is to numpy, is copied, zeros behind it up to two: one layout is compiled for.
    """
    if values.dtype == np.int32 and not values.flags.c_contiguous:
        return values
    spread = np.zeros((max(2, len(values)), 2), np.int32)
    spread[: len(values), 0] = values
    return spread[:, 0]


def histories_as_columns(histories: Histories) -> Histories:
    """Return *histories* with columns that compiled loops take."""
    return Histories(
        column(histories.starts, np.int64), column(histories.others, np.int32), column(histories.ratings, np.float32)
    )


def batch_as_columns(batch: Batch) -> Batch:
    """Return *batch* with columns that compiled loops take."""
    return Batch(
        user_rows=column(batch.user_rows, np.int32),
        item_rows=column(batch.item_rows, np.int32),
        ratings=column(batch.ratings, np.float32),
        user_counts=column(batch.user_counts, np.int32),
        item_counts=column(batch.item_counts, np.int32),
        user_histories=histories_as_columns(batch.user_histories),
        item_histories=histories_as_columns(batch.item_histories),
        user_means=column(batch.user_means, np.float32),
        item_means=column(batch.item_means, np.float32),
    )
