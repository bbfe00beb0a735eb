"""A table of embeddings with one writer: every write is guarded by its bucket's fence, in Redis as in memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from factorstream.blocks import VERSIONS, pack_versions, unpack_versions
from factorstream.errors import UnreadableValue
from factorstream.fence import Fence, pack_fence, unpack_fence
from factorstream.keys import blocks_key, check_model_name, fence_key, meta_key
from factorstream.meta import Meta, pack_meta, unpack_meta
from factorstream.worker.adapters.packing import KEY_BYTES, Changes, Piece, pack_all, pieces, transactions
from factorstream.worker.errors import Fenced, ForeignJournal, PublisherPaused, PublisherUnavailable
from factorstream.worker.ports import Block, Publication, Takeover

NOTHING_TO_DO = Changes()
NO_FENCE = Fence(-1, -1)
_KEY = re.compile(rb"fs:\{[^.}]+\.(0|[1-9][0-9]*)\}:")
"""How every key of a model begins; the number is its bucket."""
HEAD_BYTES = 40
"""Embeddings, uncertainties and blocks say epoch and position in their first 40 bytes."""


class Table(Protocol):
    """Keys and values that several writers may reach; Redis, or a dictionary. Every method raises `PublisherUnavailable`."""

    address: str
    """For messages; without a password."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of *keys*."""

    def write(self, fence_key: bytes, expected: Collection[bytes | None], changes: Changes, fence: bytes) -> bytes | None:
        """Do *changes* and set *fence*, all or nothing, if the fence is one of *expected*; return what it was."""

    def scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Yield all keys that begin with *prefix*, some at a time."""

    def heads(self, keys: Sequence[bytes], n_bytes: int) -> list[bytes]:
        """Return the first *n_bytes* of each key's value; b"" for one that is not there."""

    def close(self) -> None:
        """Give back connections. Safe to call twice."""


class Head(NamedTuple):
    """Who wrote a value, and when."""

    epoch: int
    position: int


class FencedPublisher:
    """The one writer of a model.

    The fences of all buckets go in step: within one publication each write of a bucket has a sequence number of its own, and the
    last one is the same in every bucket. So one number, `sequence`, says of all buckets what this worker left there.
    """

    def __init__(
        self,
        table: Table,
        model: str = "default",
        *,
        n_buckets: int = 1,
        uncertainty: bool = False,
        replace: bool = False,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Write nothing yet.

        Args:
            uncertainty: Whether publications say how sure the model is. A table that was left otherwise is not intact, so that
                everything is published anew, with or without.
            replace: Take over also when another journal's model is there.
            clock_ms: For the time of publishing in `meta`.
        """
        self._table = table
        self._model = check_model_name(model)
        self._n_buckets = n_buckets
        self._uncertainty = uncertainty
        self._replace = replace
        self._clock_ms = clock_ms
        self._fence_keys = [fence_key(model, bucket).encode() for bucket in range(n_buckets)]
        self._epoch = 0
        self._sequence = 0
        self._highest = 0
        """The highest sequence number ever tried."""
        self._left: list[set[bytes | None]] = [set() for _ in range(n_buckets)]
        """What each fence may be if nobody but this worker wrote: more than one value while a write has no answer."""
        self._anew = False
        """Whether the table did not hold what this worker left when it was taken, so that everything is published again."""
        self._since: int | None = None
        """Position at which that began: what is older then belongs to nobody."""
        self._lost = False
        """Whether a fence was found lost between publications."""
        self._versions: NDArray[np.void] = np.zeros(0, VERSIONS)

    def peek(self, journal_id: str | None = None) -> tuple[int, str | None]:
        meta = self._found_meta()
        if journal_id is not None:
            self._check_journal(meta, journal_id)
        epochs = [unpack_fence(value).epoch for value in self._table.get(self._fence_keys) if value is not None]
        if meta is None:
            return max(epochs, default=0), None
        return max(meta.epoch, *epochs), meta.journal_id

    def take(self, epoch: int, journal_id: str, left: int | None) -> Takeover:
        meta = self._found_meta()
        foreign = self._check_journal(meta, journal_id)
        found = self._look(epoch)
        alike = meta is not None and not foreign and self._is_alike(meta)
        # The epoch too: a copy of this table, restored, may hold another worker's fence of the same number.
        intact = alike and all(fence.sequence == left and fence.epoch >= epoch - 1 for fence in found)
        self._epoch = epoch
        self._sequence = self._highest = found[0].sequence if intact else 1 + max(left or 0, *(fence.sequence for fence in found))
        for bucket in range(self._n_buckets):
            intact &= self._write(bucket, lambda: NOTHING_TO_DO, self._sequence, taking=True)
        self._recover_versions(empty=foreign)
        self._anew, self._since, self._lost = not intact, None, False
        return Takeover(epoch, intact)

    def _is_alike(self, meta: Meta) -> bool:
        """Return whether the table that *meta* describes has the keys that this worker would write."""
        return meta.n_buckets == self._n_buckets and (meta.uncertainty is not None) == self._uncertainty

    def _look(self, epoch: int) -> list[Fence]:
        """Return the fences, `NO_FENCE` for those that are not there, and get ready to replace them. Raises `Fenced`."""
        found = self._table.get(self._fence_keys)
        for bucket, value in enumerate(found):
            self._refuse(value, bucket, epoch, taking=True)
            self._left[bucket].add(value)
        return [NO_FENCE if value is None else unpack_fence(value) for value in found]

    def publish(self, publication: Publication) -> bool:
        cut = pieces(publication, self._model, self._n_buckets, self._epoch)
        cut[0].append(Piece(KEY_BYTES, partial(self._pack_closing, publication)))
        intact = self._write_all([[partial(pack_all, group) for group in transactions(of_bucket)] for of_bucket in cut])
        intact, self._lost = intact and not self._lost, False
        if not intact or (self._anew and self._since is None):
            self._since = publication.position
        return intact

    def _pack_closing(self, publication: Publication) -> Changes:
        """Pack what readers look at first, written after what it announces: block versions and the model's description."""
        fields = {**publication.meta, "epoch": self._epoch, "n_buckets": self._n_buckets, "published_ms": self._clock_ms()}
        keys, values = [meta_key(self._model).encode()], [pack_meta(msgspec.convert(fields, Meta))]
        if publication.blocks:
            self._note_versions(publication.blocks, publication.position)
            keys.append(blocks_key(self._model).encode())
            values.append(pack_versions(self._versions))
        return Changes(keys, values)

    def _note_versions(self, blocks: Sequence[Block], position: int) -> None:
        n_blocks = max(len(self._versions), 1 + max(block.number for block in blocks))
        versions = np.zeros(n_blocks, VERSIONS)
        versions[: len(self._versions)] = self._versions
        for block in blocks:
            versions[block.number] = (position, self._epoch, 0)
        self._versions = versions

    def _recover_versions(self, *, empty: bool = False) -> None:
        """Believe the table about the blocks it has, so that readers keep using them until they are written again."""
        self._versions = np.zeros(0, VERSIONS)
        [value] = self._table.get([blocks_key(self._model).encode()])
        if value is not None and not empty:
            with suppress(UnreadableValue):  # not of this layout: readers cannot use it either
                self._versions = unpack_versions(value)

    def _write_all(self, plan: Sequence[Sequence[Callable[[], Changes]]]) -> bool:
        """Write each bucket's transactions, bucket 0 last; return whether every fence was as left.

        Every bucket is written at least once, so that all fences end at the same sequence number.
        """
        plan = [writes or [lambda: NOTHING_TO_DO] for writes in plan]
        last = self._highest + max(map(len, plan))
        self._highest = last
        intact = True
        for bucket in reversed(range(self._n_buckets)):
            for sequence, pack in enumerate(plan[bucket], start=last + 1 - len(plan[bucket])):
                intact &= self._write(bucket, pack, sequence)
        self._sequence = last
        return intact

    def _write(self, bucket: int, pack: Callable[[], Changes], sequence: int, *, taking: bool = False) -> bool:
        """Write one transaction; return whether the fence was as left. A fence that was lost is taken. Raises `Fenced`."""
        intact = True
        new = pack_fence(Fence(self._epoch, sequence))
        while True:
            ours = frozenset(self._left[bucket])
            self._left[bucket].add(new)  # without an answer, it may have been written
            try:
                found = self._table.write(self._fence_keys[bucket], ours, pack(), new)
            except PublisherPaused:
                self._left[bucket] = set(ours)
                raise
            if found in ours:
                self._left[bucket] = {new}
                return intact
            self._refuse(found, bucket, self._epoch, taking=taking)
            self._left[bucket] = {found}
            intact = False
            if bucket == 0:
                self._recover_versions()

    def _refuse(self, found: bytes | None, bucket: int, epoch: int, *, taking: bool) -> None:
        """Raise `Fenced` when the fence *found* belongs to another worker: one of a higher epoch, or while *taking* of the same.

        Two workers that start at once choose the same epoch; only the first may take it. Later, an unknown fence of this worker's
        epoch is an old copy of its own.
        """
        if found is None or found in self._left[bucket]:
            return
        other = unpack_fence(found).epoch
        if other > epoch or (taking and other == epoch):
            raise Fenced(
                f"another worker publishes model {self._model!r} at {self._table.address}: its epoch is {other}, "
                f"this worker's {epoch}. This worker stops; run one worker for a model, "
                f"or give this one a model.name and a checkpoint.dir of its own"
            )

    def _found_meta(self) -> Meta | None:
        """Return the description of the model that is there; one that cannot be read counts as none when it is to be replaced."""
        [value] = self._table.get([meta_key(self._model).encode()])
        if value is None:
            return None
        try:
            return unpack_meta(value)
        except UnreadableValue:
            if self._replace:
                return None
            raise

    def _check_journal(self, meta: Meta | None, own: str) -> bool:
        """Return whether the model that is there is another journal's. Raises `ForeignJournal` unless it is to be replaced."""
        if meta is None or meta.journal_id == own:
            return False
        if self._replace:
            return True
        raise ForeignJournal(
            f"Redis at {self._table.address} holds model {self._model!r} of journal {meta.journal_id}, but this worker's is "
            f"{own}: its checkpoint was lost, or it learned from other data. Find that checkpoint (checkpoint.dir), "
            f"take another model.name, or give up what is there: redis.replace = true"
        )

    def remove_other_epochs(self) -> Iterator[int]:
        if self._since is None:
            return
        yield self._announce_current_blocks()
        for keys in self._table.scan(f"fs:{{{self._model}.".encode()):
            outdated = self._outdated([key for key in keys if _KEY.match(key)])  # others look like ours, and are somebody's
            self._remove(outdated)
            yield len(outdated)

    def _announce_current_blocks(self) -> int:
        """Make the list of block versions name no block that is to be removed; return how many keys that deleted."""
        [announced] = self._table.get([blocks_key(self._model).encode()])
        current = (self._versions["epoch"] == self._epoch) & (self._versions["position"] >= self._since)
        self._versions = self._versions[: 1 + np.flatnonzero(current).max(initial=-1)].copy()
        self._versions[~current[: len(self._versions)]] = 0
        if announced is None or (len(self._versions) and announced == pack_versions(self._versions)):
            return 0
        key = [blocks_key(self._model).encode()]
        changes = Changes(key, [pack_versions(self._versions)]) if len(self._versions) else Changes(removed=key)
        self._change([[lambda: changes], *([] for _ in self._fence_keys[1:])])
        return len(changes.removed)

    def _remove(self, keys: Sequence[bytes]) -> None:
        by_bucket: list[list[bytes]] = [[] for _ in self._fence_keys]
        for key in keys:
            by_bucket[self._guarding_bucket(key)].append(key)
        if keys:
            self._change([[partial(Changes, removed=of_bucket)] if of_bucket else [] for of_bucket in by_bucket])

    def _change(self, plan: Sequence[Sequence[Callable[[], Changes]]]) -> None:
        """Write between publications. Raises `PublisherUnavailable` when the fence was lost, which the next publication says."""
        self._lost |= not self._write_all(plan)
        if self._lost:
            raise PublisherUnavailable(f"Redis at {self._table.address} lost its memory while keys of others were removed")

    def _guarding_bucket(self, key: bytes) -> int:
        """Return the bucket of *key*, or 0 when it was written with more buckets than there are now."""
        bucket = _bucket(key)
        return bucket if bucket < self._n_buckets else 0

    def _outdated(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return those of *keys* that this worker has not written since it took the fence."""
        telling = [_telling_key(key) for key in keys]
        heads = self._table.heads([key for key in telling if key is not None], HEAD_BYTES)
        said = dict(zip([key for key in telling if key is not None], heads, strict=True))
        return [
            key
            for key, other in zip(keys, telling, strict=True)
            if (other is not None and not self._is_current(other, said)) or _bucket(key) >= self._n_buckets
        ]

    def _is_current(self, key: bytes, heads: Mapping[bytes, bytes]) -> bool:
        head = _read_head(heads[key])
        return head is not None and head >= (self._epoch, self._since)

    @property
    def sequence(self) -> int:
        return self._sequence

    def close(self) -> None:
        self._table.close()


def _bucket(key: bytes) -> int:
    """Return the number in ``fs:{MODEL.NUMBER}:…``."""
    return int(key[: key.index(b"}")].rpartition(b".")[2])


def _telling_key(key: bytes) -> bytes | None:
    """Return the key whose head says who wrote *key*: seen items are the user's; None: nothing is to be said of it."""
    tag, _, name = key.partition(b"}:")
    if name.startswith(b"s:"):
        return tag + b"}:u:" + name[2:]
    return key if name.startswith((b"u:", b"i:", b"vu:", b"vi:", b"block:")) else None


def _read_head(head: bytes) -> Head | None:
    """Read the first bytes of an embedding, an uncertainty or a block; None when they are of none of these."""
    epoch_at = {b"FSE1": 32, b"FSU1": 32, b"FSB1": 28}.get(head[:4])
    if epoch_at is None or len(head) < HEAD_BYTES:
        return None
    return Head(int.from_bytes(head[epoch_at : epoch_at + 4], "little"), int.from_bytes(head[16:24], "little"))
