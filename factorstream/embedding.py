"""An embedding: one user's or item's row of the model, and its bytes in Redis.

Little-endian, 40 bytes of header, then the numbers:

    0 "FSE1" · 4 u8 layout = 1 · 5 u8 dtype · 6 u16 flags = 0 · 8 u32 rank K · 12 u32 n_ratings · 16 u64 position
    24 i64 timestamp_ms · 32 u32 epoch · 36 u32 zero · 40 …

dtype 1 is K + 2 float32, dtype 2 is K + 2 float16: K factors, then ``b, 1`` (user) or ``1, c`` (item). dtype 3 is a float32
scale, the two last numbers as float32, then K int8, each times the scale: the bias keeps its digits whatever the factors' range.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.errors import UnreadableValue

MAGIC = b"FSE1"
LAYOUT = 1
HEADER_BYTES = 40
FLOAT32, FLOAT16, INT8 = 1, 2, 3
DTYPE_NAMES = {FLOAT32: "float32", FLOAT16: "float16", INT8: "int8"}

HEADER = np.dtype(
    [
        ("magic", "S4"),
        ("layout", "u1"),
        ("dtype", "u1"),
        ("flags", "<u2"),
        ("rank", "<u4"),
        ("n_ratings", "<u4"),
        ("position", "<u8"),
        ("timestamp_ms", "<i8"),
        ("epoch", "<u4"),
        ("zero", "<u4"),
    ]
)

_HEADER = struct.Struct("<4sBBHIIQqII")

Side = Literal["user", "item"]


class Version(NamedTuple):
    """Which bytes these are; refetch when it *differs*, never only when greater."""

    epoch: int
    """Of the worker that wrote them."""
    position: int
    """Ratings accepted and blocks solved when they were written."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One user's or item's row of the model. ``intercept + user.augmented @ item.augmented`` is the score."""

    id: str
    side: Side
    augmented: NDArray[np.float32]
    """``(K + 2,)``, read-only: the factors, then ``b, 1`` for a user or ``1, c`` for an item."""
    n_ratings: int
    version: Version
    timestamp_ms: int
    """Of the newest rating, milliseconds since the epoch."""

    @property
    def vector(self) -> NDArray[np.float32]:
        """The K factors: what cosine similarity compares."""
        return self.augmented[:-2]

    @property
    def bias(self) -> float:
        """How far this user rates, or this item is rated, from the mean."""
        return float(self.augmented[-2 if self.side == "user" else -1])


def pack_many(
    vectors: NDArray[np.float32], n_ratings: NDArray[np.uint32], timestamps_ms: NDArray[np.int64], *, epoch: int, position: int
) -> list[bytes]:
    """Pack rows of one side as float32.

    Args:
        vectors: ``(n, K + 2)``: K factors, then ``b, 1`` for users or ``1, c`` for items.
        n_ratings, timestamps_ms: ``(n,)``.
    """
    version = Version(epoch, position)
    return pack_rows(vectors, n_ratings, timestamps_ms, magic=MAGIC, rank=vectors.shape[1] - 2, version=version)


def pack_rows(
    numbers: NDArray[np.float32],
    n_ratings: NDArray[np.uint32],
    timestamps_ms: NDArray[np.int64],
    *,
    magic: bytes,
    rank: int,
    version: Version,
) -> list[bytes]:
    """Pack rows of any float32 *numbers* behind the header of embeddings, with the *magic* that tells what they are."""
    n, width = numbers.shape
    rows = np.zeros(n, np.dtype([("header", HEADER), ("numbers", "<f4", (width,))]))
    header = rows["header"]
    header["magic"], header["layout"], header["dtype"] = magic, LAYOUT, FLOAT32
    header["rank"], header["epoch"], header["position"] = rank, *version
    header["n_ratings"], header["timestamp_ms"] = n_ratings, timestamps_ms
    rows["numbers"] = numbers
    packed, size_bytes = rows.tobytes(), rows.itemsize
    return [packed[start : start + size_bytes] for start in range(0, n * size_bytes, size_bytes)]


def unpack(row_id: str, side: Side, value: bytes) -> Embedding:
    """Read an embedding of any dtype. Raises `UnreadableValue`."""
    dtype, rank, n_ratings, position, timestamp_ms, epoch = read_header(value)
    numbers = read_rows(value, HEADER_BYTES, 1, rank, dtype)[0]
    return Embedding(row_id, side, numbers, n_ratings, Version(epoch, position), timestamp_ms)


class Header(NamedTuple):
    """What the 40 bytes in front say."""

    dtype: int
    rank: int
    n_ratings: int
    position: int
    timestamp_ms: int
    epoch: int


def read_header(value: bytes) -> Header:
    """Read and check the header and the length of an embedding. Raises `UnreadableValue`."""
    header = begin(value, MAGIC, "embedding")
    dtype, rank = header.dtype, header.rank
    if len(value) != HEADER_BYTES + row_bytes(rank, dtype):
        raise UnreadableValue(f"an embedding of rank {rank} as {DTYPE_NAMES[dtype]} cannot have {len(value)} bytes: it is cut")
    return header


def begin(value: bytes, magic: bytes, kind: str) -> Header:
    """Read and check the header of a value that begins with *magic*; *kind*: what it is called. Raises `UnreadableValue`."""
    if len(value) < HEADER_BYTES or value[:4] != magic:
        raise UnreadableValue(f"{len(value)} bytes that begin with {value[:4]!r} are no {kind} (those begin with {magic!r})")
    _, layout, dtype, _, rank, n_ratings, position, timestamp_ms, epoch, _ = _HEADER.unpack_from(value)
    check_layout(layout, dtype)
    return Header(dtype, rank, n_ratings, position, timestamp_ms, epoch)


def check_layout(layout: int, dtype: int) -> None:
    """Raise `UnreadableValue` unless this client knows *layout* and *dtype*."""
    if layout != LAYOUT or dtype not in DTYPE_NAMES:
        raise UnreadableValue(
            f"layout {layout} with dtype {dtype}: this client reads layout {LAYOUT} with dtypes 1 to 3; upgrade factorstream"
        )


def row_bytes(rank: int, dtype: int) -> int:
    """Return how many bytes one row's numbers take."""
    return {FLOAT32: 4 * (rank + 2), FLOAT16: 2 * (rank + 2), INT8: 12 + rank}[dtype]


def read_rows(packed: bytes, offset: int, n_rows: int, rank: int, dtype: int) -> NDArray[np.float32]:
    """Return *n_rows* rows of numbers that begin at *offset*, ``(n_rows, K + 2)``; float32 is a read-only view, not a copy."""
    if dtype == FLOAT32:
        return np.frombuffer(packed, "<f4", n_rows * (rank + 2), offset).reshape(n_rows, rank + 2)
    if dtype == FLOAT16:
        return np.frombuffer(packed, "<f2", n_rows * (rank + 2), offset).reshape(n_rows, rank + 2).astype(np.float32)
    rows = np.frombuffer(packed, np.dtype([("scale", "<f4"), ("last", "<f4", (2,)), ("factors", "i1", (rank,))]), n_rows, offset)
    return np.concatenate([rows["factors"] * rows["scale"][:, None], rows["last"]], axis=1)
