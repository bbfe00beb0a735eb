"""Blocks: items in bulk, for readers that rank all of them. Block N holds item slots ``1024 N`` to ``1024 N + 1023``.

Little-endian:

    0 "FSB1" · 4 u8 layout = 1 · 5 u8 dtype · 6 u16 flags = 0 · 8 u32 rank K · 12 u32 count (rows here, at most 1024)
    16 u64 position · 24 u32 number · 28 u32 epoch · 32 u32 bytes of ids · 36 u32 zero
    40 128 bytes of alive bits: slot j lives iff ``bytes[j // 8] >> (j % 8) & 1``
    168 ids: for each of *count* slots u16 length and UTF-8 (length 0: no item lives there), then zeros up to a multiple of four
    … vectors: *count* rows of numbers as in an embedding of that dtype; zeros where no item lives

All block versions are one value under another key: ``"FSV1"`` · u32 n, then n times u64 position · u32 epoch · u32 zero; the
entry N is the version of block N, zeros when it was never written.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorstream.embedding import FLOAT32, LAYOUT, Version, check_layout, read_rows, row_bytes
from factorstream.errors import UnreadableValue

SLOTS = 1024
"""Item slots of one block."""
MAGIC = b"FSB1"
VERSIONS_MAGIC = b"FSV1"
_HEADER = struct.Struct("<4sBBHIIQIIII")
_VERSIONS_HEADER = struct.Struct("<4sI")
_IDS_OFFSET = _HEADER.size + SLOTS // 8

VERSIONS = np.dtype([("position", "<u8"), ("epoch", "<u4"), ("zero", "<u4")])
"""One entry of the list of block versions."""


@dataclass(frozen=True, slots=True, eq=False)
class ItemBlock:
    """Items in slots ``1024 * number`` and on, as they were at *version*."""

    number: int
    version: Version
    ids: Sequence[str | None]
    """None: no item lives in that slot."""
    vectors: NDArray[np.float32]
    """``(len(ids), K + 2)``: K factors, then ``1, c``."""


def pack_block(number: int, ids: Sequence[str | None], vectors: NDArray[np.float32], *, epoch: int, position: int) -> bytes:
    """Pack one block as float32; rows of slots without an item are written as zeros.

    Args:
        ids: At most 1024; None where no item lives.
        vectors: ``(len(ids), K + 2)``: K factors, then ``1, c``.
    """
    alive = np.zeros(SLOTS, bool)
    alive[: len(ids)] = [item_id is not None for item_id in ids]
    texts = [b"" if item_id is None else item_id.encode() for item_id in ids]
    packed_ids = b"".join([len(text).to_bytes(2, "little") + text for text in texts])
    packed_ids += bytes(-len(packed_ids) % 4)
    rank = vectors.shape[1] - 2
    header = _HEADER.pack(MAGIC, LAYOUT, FLOAT32, 0, rank, len(ids), position, number, epoch, len(packed_ids), 0)
    numbers = np.where(alive[: len(ids), None], vectors, 0).astype("<f4")
    return header + np.packbits(alive, bitorder="little").tobytes() + packed_ids + numbers.tobytes()


def unpack_block(value: bytes) -> ItemBlock:
    """Read a block of any dtype. Raises `UnreadableValue`."""
    if len(value) < _IDS_OFFSET or value[:4] != MAGIC:
        raise UnreadableValue(f"{len(value)} bytes that begin with {value[:4]!r} are no block (those begin with {MAGIC!r})")
    _, layout, dtype, _, rank, count, position, number, epoch, ids_bytes, _ = _HEADER.unpack_from(value)
    check_layout(layout, dtype)
    if count > SLOTS or len(value) != _IDS_OFFSET + ids_bytes + count * row_bytes(rank, dtype):
        raise UnreadableValue(f"block {number} of {count} rows of rank {rank} cannot have {len(value)} bytes: it is cut")
    ids = _unpack_ids(value, count, _IDS_OFFSET + ids_bytes)
    return ItemBlock(number, Version(epoch, position), ids, read_rows(value, _IDS_OFFSET + ids_bytes, count, rank, dtype))


def _unpack_ids(value: bytes, count: int, stop: int) -> list[str | None]:
    alive = np.unpackbits(np.frombuffer(value, "u1", SLOTS // 8, _HEADER.size), count=count, bitorder="little").tolist()
    ids: list[str | None] = []
    at = _IDS_OFFSET
    try:
        for lives in alive:
            end = at + 2 + value[at] + (value[at + 1] << 8)
            ids.append(value[at + 2 : end].decode() if lives else None)
            at = end
    except (IndexError, UnicodeDecodeError) as error:
        raise UnreadableValue(f"the id in slot {len(ids)} of a block is unreadable: {error}") from error
    if at > stop:
        raise UnreadableValue(f"the ids of a block end at byte {stop}, but slot {len(ids) - 1} goes on to {at}")
    return ids


def pack_versions(versions: NDArray[np.void]) -> bytes:
    """Pack the versions of all blocks, an array of dtype `VERSIONS`; entry N belongs to block N."""
    return _VERSIONS_HEADER.pack(VERSIONS_MAGIC, len(versions)) + versions.astype(VERSIONS).tobytes()


def unpack_versions(value: bytes) -> NDArray[np.void]:
    """Read the versions of all blocks: read-only, dtype `VERSIONS`. Raises `UnreadableValue`."""
    if len(value) < _VERSIONS_HEADER.size or value[:4] != VERSIONS_MAGIC:
        raise UnreadableValue(
            f"{len(value)} bytes that begin with {value[:4]!r} are no block versions (those begin with {VERSIONS_MAGIC!r})"
        )
    n_blocks = _VERSIONS_HEADER.unpack_from(value)[1]
    if len(value) != _VERSIONS_HEADER.size + n_blocks * VERSIONS.itemsize:
        raise UnreadableValue(f"versions of {n_blocks} blocks cannot have {len(value)} bytes: they are cut")
    return np.frombuffer(value, VERSIONS, n_blocks, _VERSIONS_HEADER.size)
