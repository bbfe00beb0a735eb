"""A publication as keys and values: cut into pieces of one bucket, each small enough for a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.blocks import pack_block
from factorstream.embedding import HEADER_BYTES, pack_many
from factorstream.keys import (
    block_key,
    bucket_of,
    item_prefix,
    item_uncertainty_prefix,
    seen_prefix,
    user_prefix,
    user_uncertainty_prefix,
)
from factorstream.seen import pack_seen
from factorstream.uncertainty import pack_uncertainties
from factorstream.worker.ports import Block, Embeddings, Publication, SeenItems

TRANSACTION_BYTES = 1 << 19
"""About what one transaction writes: 1,600 rows of rank 64, during which Redis answers nobody else for about a millisecond."""
KEY_BYTES = 40
"""What a key and the protocol around it take, roughly."""


class Changes(NamedTuple):
    """What to do in one bucket: delete *removed*, then set ``keys[j]`` to ``values[j]``."""

    keys: Sequence[bytes] = ()
    values: Sequence[bytes] = ()
    removed: Sequence[bytes] = ()


class Piece(NamedTuple):
    """Part of a publication, packed when its turn comes."""

    size_bytes: int
    pack: Callable[[], Changes]


def pieces(publication: Publication, model: str, n_buckets: int, epoch: int) -> list[list[Piece]]:
    """Return the pieces of each bucket in the order they are to be written: removals first, blocks last."""
    cut: list[list[Piece]] = [[] for _ in range(n_buckets)]
    _cut_removals(cut, publication, model)
    stamp = {"epoch": epoch, "position": publication.position}
    for rows, prefix, uncertainty_prefix in (
        (publication.users, user_prefix, user_uncertainty_prefix),
        (publication.items, item_prefix, item_uncertainty_prefix),
    ):
        for bucket, part in enumerate(_embeddings_by_bucket(rows, n_buckets)):
            own, beside = prefix(model, bucket).encode(), uncertainty_prefix(model, bucket).encode()
            cut[bucket] += _cut_embeddings(part, own, beside, **stamp)
    for bucket, seen in enumerate(_seen_by_bucket(publication.seen, n_buckets)):
        cut[bucket] += _cut_seen(seen, seen_prefix(model, bucket).encode())
    for block in publication.blocks:
        key = block_key(model, block.number, n_buckets).encode()
        cut[block.number % n_buckets].append(_block_piece(block, key, **stamp))
    return cut


def transactions(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Group *pieces*, in order, so that each group writes at most about `TRANSACTION_BYTES`."""
    groups: list[list[Piece]] = []
    free_bytes = 0
    for piece in pieces:
        if piece.size_bytes > free_bytes:
            groups.append([])
            free_bytes = TRANSACTION_BYTES
        groups[-1].append(piece)
        free_bytes -= piece.size_bytes
    return groups


def pack_all(pieces: Sequence[Piece]) -> Changes:
    """Pack *pieces* into the changes of one transaction."""
    packed = [piece.pack() for piece in pieces]
    if len(packed) == 1:
        return packed[0]
    return Changes(*(list(chain.from_iterable(columns)) for columns in zip(*packed, strict=True)))


def _cut_removals(cut: list[list[Piece]], publication: Publication, model: str) -> None:
    removed: list[list[bytes]] = [[] for _ in cut]
    for ids, prefixes in (
        (publication.removed_users, (user_prefix, seen_prefix, user_uncertainty_prefix)),
        (publication.removed_items, (item_prefix, item_uncertainty_prefix)),
    ):
        for removed_id in ids:
            bucket = bucket_of(removed_id, len(cut))
            removed[bucket] += [(prefix(model, bucket) + removed_id).encode() for prefix in prefixes]
    for bucket, keys in enumerate(removed):
        for part in _slices(len(keys), KEY_BYTES):
            cut[bucket].append(Piece(KEY_BYTES * len(keys[part]), partial(Changes, removed=keys[part])))


def _cut_embeddings(rows: Embeddings, prefix: bytes, uncertainty_prefix: bytes, *, epoch: int, position: int) -> Iterator[Piece]:
    """Cut rows, each with its uncertainty: who reads both finds them of one version."""
    row_bytes = KEY_BYTES + HEADER_BYTES + rows.vectors.shape[1] * 4
    if rows.variances is not None:
        row_bytes += KEY_BYTES + HEADER_BYTES + rows.variances.shape[1] * 4
    for part in _slices(len(rows.ids), row_bytes):
        packing = partial(_pack_embeddings, rows, part, prefix, uncertainty_prefix, epoch=epoch, position=position)
        yield Piece(row_bytes * (part.stop - part.start), packing)


def _pack_embeddings(
    rows: Embeddings, part: slice, prefix: bytes, uncertainty_prefix: bytes, *, epoch: int, position: int
) -> Changes:
    ids = [row_id.encode() for row_id in rows.ids[part]]
    n_ratings, times = rows.n_ratings[part], rows.timestamps_ms[part]
    keys = [prefix + row_id for row_id in ids]
    values = pack_many(rows.vectors[part], n_ratings, times, epoch=epoch, position=position)
    if rows.variances is not None:
        keys += [uncertainty_prefix + row_id for row_id in ids]
        values += pack_uncertainties(rows.variances[part], n_ratings, times, epoch=epoch, position=position)
    return Changes(keys, values)


def _cut_seen(seen: SeenItems, prefix: bytes) -> Iterator[Piece]:
    n_users = len(seen.ids)
    user_bytes = KEY_BYTES + 4 * len(seen.slots) // max(n_users, 1)
    for part in _slices(n_users, user_bytes):
        yield Piece(user_bytes * (part.stop - part.start), partial(_pack_seen, seen, part, prefix))


def _pack_seen(seen: SeenItems, part: slice, prefix: bytes) -> Changes:
    starts = seen.starts[part.start : part.stop + 1]
    values = pack_seen(seen.slots[starts[0] : starts[-1]], starts - starts[0])
    keys = [prefix + user_id.encode() for user_id in seen.ids[part]]
    if all(values):
        return Changes(keys, values)
    kept = [(key, value) for key, value in zip(keys, values, strict=True) if value]
    removed = [key for key, value in zip(keys, values, strict=True) if not value]
    return Changes([key for key, _ in kept], [value for _, value in kept], removed)


def _block_piece(block: Block, key: bytes, *, epoch: int, position: int) -> Piece:
    def pack() -> Changes:
        return Changes([key], [pack_block(block.number, block.ids, block.vectors, epoch=epoch, position=position)])

    return Piece(block.vectors.nbytes + KEY_BYTES * len(block.ids), pack)


def _slices(n_rows: int, row_bytes: int) -> list[slice]:
    """Return slices that cover *n_rows*, each of at most `TRANSACTION_BYTES`."""
    step = max(1, TRANSACTION_BYTES // row_bytes)
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def _embeddings_by_bucket(rows: Embeddings, n_buckets: int) -> list[Embeddings]:
    if n_buckets == 1:
        return [rows]
    return [_take_rows(rows, own) for own in _rows_by_bucket(rows.ids, n_buckets)]


def _take_rows(rows: Embeddings, own: NDArray[np.intp]) -> Embeddings:
    variances = None if rows.variances is None else rows.variances[own]
    return Embeddings([rows.ids[j] for j in own], rows.vectors[own], rows.n_ratings[own], rows.timestamps_ms[own], variances)


def _seen_by_bucket(seen: SeenItems, n_buckets: int) -> list[SeenItems]:
    return [seen] if n_buckets == 1 else [_take_seen(seen, own) for own in _rows_by_bucket(seen.ids, n_buckets)]


def _take_seen(seen: SeenItems, own: NDArray[np.intp]) -> SeenItems:
    parts = [seen.slots[seen.starts[j] : seen.starts[j + 1]] for j in own]
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return SeenItems([seen.ids[j] for j in own], starts, np.concatenate([np.empty(0, np.uint32), *parts]))


def _rows_by_bucket(ids: Sequence[str], n_buckets: int) -> list[NDArray[np.intp]]:
    """Return, for each bucket, which of *ids* live there, ascending."""
    buckets = np.fromiter((bucket_of(row_id, n_buckets) for row_id in ids), np.int64, len(ids))
    order = np.argsort(buckets, kind="stable")
    cuts = np.searchsorted(buckets[order], np.arange(n_buckets + 1))
    return [order[start:stop] for start, stop in pairwise(cuts)]
