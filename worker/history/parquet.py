"""Ratings as Parquet: columns ``user_id, item_id, rating, timestamp``, others ignored."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.errors import UserMistake
from factorstream.worker.history.history import History, in_order

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("user_id", "item_id", "rating", "timestamp")
MOST_MS = 10**14


def read(content: bytes, path: str, limit: int | None = None) -> History:
    """Return the ratings of *content*; *path* names it in messages. Raises `UserMistake`, also when pyarrow is not installed.

    Ids are strings or integers, which mean their decimal string; timestamps are unix seconds or Arrow's timestamps.
    """
    if find_spec("pyarrow") is None:
        raise UserMistake(f"{path} is Parquet, which needs pyarrow: pip install 'factorstream[parquet]'")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
        if missing:
            raise UserMistake(f"{path} lacks the column {' and '.join(missing)}: it has {', '.join(file.schema_arrow.names)}")
        table = file.read(columns=list(COLUMNS)).combine_chunks()
    except pa.ArrowException as error:
        raise UserMistake(f"{path} begins like Parquet, but cannot be read: {error}") from error
    if not table.num_rows:
        raise UserMistake(f"{path} holds no ratings")
    for name in COLUMNS:
        if table[name].null_count:
            row = int(np.flatnonzero(table[name].is_null().to_numpy())[0])
            raise UserMistake(f"{path}, row {row} has no {name}")
    return in_order(
        _codes(table["user_id"], path), _codes(table["item_id"], path), _ratings(table, path), _times(table, path), limit
    )


def _codes(column: pa.ChunkedArray, path: str) -> tuple[NDArray[np.int32], list[str]]:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserMistake(f"{path}: ids are strings or integers, not {column.type}")
    encoded: Any = column.dictionary_encode().combine_chunks()
    names = [str(name) for name in encoded.dictionary.to_pylist()]
    bad = next((name for name in names if not 1 <= len(name.encode()) <= 256 or "\0" in name), None)
    if bad is not None:
        raise UserMistake(f"{path}: the id {bad[:80]!r} is not 1 to 256 bytes without NUL")
    return encoded.indices.to_numpy().astype(np.int32), names


def _ratings(table: pa.Table, path: str) -> NDArray[np.float32]:
    ratings = _numbers(table["rating"], "rating", path).astype(np.float32)
    if not np.isfinite(ratings).all():
        row = int(np.flatnonzero(~np.isfinite(ratings))[0])
        raise UserMistake(f"{path}, row {row}: the rating {ratings[row]} is not finite")
    return ratings


def _times(table: pa.Table, path: str) -> NDArray[np.int64]:
    """Return milliseconds."""
    import pyarrow as pa

    column = table["timestamp"]
    if pa.types.is_timestamp(column.type):
        milliseconds: NDArray[np.int64] = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()).to_numpy()
        return milliseconds
    seconds = _numbers(column, "timestamp", path)
    times = seconds.astype(np.int64) * 1000 if seconds.dtype.kind in "iu" else np.rint(seconds * 1000.0).astype(np.int64)
    if np.abs(times).max() >= MOST_MS:
        raise UserMistake(
            f"{path}: the timestamp {seconds[np.abs(times).argmax()]} is not in unix seconds; it looks like milliseconds"
        )
    return times


def _numbers(column: pa.ChunkedArray, name: str, path: str) -> NDArray[Any]:
    numbers: NDArray[Any] = column.to_numpy()
    if numbers.dtype.kind not in "iuf":
        raise UserMistake(f"{path}: the column {name} holds {column.type}, not numbers")
    return numbers
