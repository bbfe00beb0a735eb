"""Checkpoints in a folder: immutable files named by their content, and small manifests that say which of them make a state.

    FOLDER/lock                                   held while a worker runs
    FOLDER/epoch                                  the highest epoch ever claimed here
    FOLDER/checkpoint-EEEEEEEEEE-PPPP…-NNNN.json  a manifest: epoch, position, and which there; the newest sorts last
    FOLDER/data/NAME-HASH.npy (or .ids)           arrays as numpy writes them, never pickled; ids separated by NUL

A manifest is renamed into place when everything it names is on the disk, so a checkpoint is whole or is not there.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from factorstream.worker.adapters.manifest import FORMAT, File, Manifest, Segment, joined
from factorstream.worker.checkpoint import NAMES_IN_CHUNK, Checkpoint, Facts, Snapshot
from factorstream.worker.errors import CheckpointDamaged, CheckpointFailed, CheckpointMismatch, CheckpointsLocked
from factorstream.worker.model.journal import ENTRY, Entries, base_of, concatenated, ratings_of
from factorstream.worker.ports import Written

log = structlog.get_logger()

MANIFEST = re.compile(r"checkpoint-\d{10}-\d{20}-\d{4,}\.json")

COMPACT_SEGMENTS = 64
"""Journal files older than every kept checkpoint, at which they are folded into the base."""
COMPACT_ENTRIES = 1_000_000
"""The same in entries, or half of the base if that is more."""


class Damaged(CheckpointDamaged):
    """A file of a checkpoint is missing or is not what it was."""


@dataclass(slots=True)
class Tail:
    """What is not on the disk yet besides the arrays; grows when a checkpoint fails, and is written with the next."""

    names: dict[str, dict[int, Sequence[str]]] = field(default_factory=dict)
    entries: list[Entries] = field(default_factory=list)

    def add(self, snapshot: Snapshot) -> None:
        """Take what changed in *snapshot*."""
        self.entries.extend(snapshot.entries)
        for side, chunks in snapshot.names.items():
            self.names.setdefault(side, {}).update(chunks)


class FileCheckpoints:
    """Checkpoints in *folder*, of which the newest *keep* stay. With *keep_journal* the journal reaches back to the beginning."""

    def __init__(self, folder: Path, *, keep: int = 3, keep_journal: bool = False) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._keep = keep
        self._keep_journal = keep_journal
        self._lock: io.FileIO | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Manifest] | None = None
        self._manifest: Manifest | None = None
        self._tail = Tail()
        self._seen_whole: set[str] = set()
        """Files of `data/` that were written, or read and found whole, by this process."""

    # --- the port

    def lock(self) -> None:
        """Lock the folder, making it if it is not there."""
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("ab+", buffering=0)
        except OSError as error:
            raise CheckpointFailed(
                f"checkpoint.dir {self.folder} cannot be used ({error.strerror}): give a folder that can be written"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            holder = self._lock.read().decode().strip() or "another process"
            raise CheckpointsLocked(
                f"checkpoint.dir {self.folder} is in use by {holder}: "
                "stop that worker, or give this one a folder and a model.name of its own"
            ) from error
        with suppress(OSError):  # on a full disk the next one is not told who holds it
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        for path in self.folder.glob(".*.[0-9]*"):  # what a killed worker was writing
            path.unlink()

    def latest(self) -> Checkpoint | None:
        """Read the newest checkpoint that is whole."""
        paths = self.manifests()
        for path in reversed(paths):
            try:
                self._manifest = self.manifest(path)
                return self.read(self._manifest)
            except Damaged as error:
                log.error("checkpoint is damaged; falling back to the one before", checkpoint=path.name, reason=str(error))
        self._manifest = None
        if paths:
            raise CheckpointDamaged(
                f"none of the {len(paths)} checkpoints in {self.folder} is whole: restore the folder from a copy, "
                "or move it away and set redis.replace = true to learn the topic again from its beginning"
            )
        return None

    def epoch(self) -> int:
        """Return the highest epoch of the folder."""
        try:
            claimed = int((self.folder / "epoch").read_text())
        except (FileNotFoundError, ValueError):
            claimed = 0
        return max([claimed, *(int(path.name.split("-")[1]) for path in self.manifests())])

    def claim(self, epoch: int) -> None:
        """Write the epoch."""
        try:
            self._write(self.folder / "epoch", [f"{epoch}\n".encode()])
        except OSError as error:
            raise self._failed(error) from error

    def begin(self, snapshot: Snapshot) -> None:
        """Hand *snapshot* to the writing thread."""
        self._tail.add(snapshot)
        self._writing = self._writer.submit(self._make, snapshot)

    @property
    def busy(self) -> bool:
        """Whether the writing thread writes."""
        return self._writing is not None and not self._writing.done()

    @property
    def remembers_forgotten(self) -> bool:
        """Read the manifests: who was forgotten is a file of each."""
        try:
            kept = [self.manifest(path) for path in self.manifests()]
        except Damaged:
            return False  # the log says so when it is read
        forgotten = {tuple(manifest.arrays[f"{side}.forgotten"].name for side in ("users", "items")) for manifest in kept}
        return len(forgotten) > 1

    def durable(self) -> Written | None:
        """Return what the writing thread has done."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                self._manifest = writing.result()
            except (OSError, Damaged) as error:
                raise self._failed(error) from error
            self._tail = Tail()
        return Written(self._manifest.facts.position, self._manifest.size_bytes) if self._manifest else None

    def wait(self) -> None:
        """Wait for the writing thread."""
        if self._writing is not None:
            self._writing.exception()

    def close(self) -> None:
        """Wait, and unlock."""
        self._writer.shutdown()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # --- reading, also for `checkpoint list` and `checkpoint verify`

    def manifests(self) -> list[Path]:
        """Return the manifests' paths, oldest first."""
        return sorted(path for path in self.folder.iterdir() if MANIFEST.fullmatch(path.name)) if self.folder.exists() else []

    def manifest(self, path: Path) -> Manifest:
        """Read a manifest. Raises `Damaged`."""
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (OSError, msgspec.MsgspecError) as error:
            raise Damaged(f"{path.name}: {error}") from error
        if manifest.format != FORMAT:
            raise CheckpointMismatch(
                f"{path.name} has format {manifest.format}, and this version reads {FORMAT}: run the version that wrote it, "
                "or start anew with another checkpoint.dir and redis.replace = true"
            )
        return manifest

    def read(self, manifest: Manifest) -> Checkpoint:
        """Read and check all files of *manifest*. Raises `Damaged`."""
        return Checkpoint(
            manifest.facts,
            {name: self.array(file) for name, file in manifest.arrays.items()},
            {side: [name for chunk in chunks for name in self._names(chunk)] for side, chunks in manifest.names.items()},
            self.entries(manifest.base),
            [self.entries(segment.file) for segment in manifest.journal],
        )

    def array(self, file: File) -> NDArray[Any]:
        """Read an array. Raises `Damaged`."""
        array: NDArray[Any] = np.load(io.BytesIO(self._content(file)), allow_pickle=False)
        return array

    def entries(self, file: File | None) -> Entries:
        """Read entries of a journal or base; none for None. Raises `Damaged`."""
        return np.empty(0, ENTRY) if file is None else self.array(file)

    def _names(self, file: File) -> list[str]:
        return self._content(file).decode().split("\0")

    def _content(self, file: File) -> bytes:
        try:
            content = (self._data / file.name).read_bytes()
        except OSError as error:
            raise Damaged(f"{file.name}: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise Damaged(f"{file.name} is not what was written ({len(content)} bytes of {file.size_bytes})")
        self._seen_whole.add(file.name)
        return content

    # --- writing, in the writing thread

    def _make(self, snapshot: Snapshot) -> Manifest:
        try:
            return self._made(snapshot)
        except OSError:
            self._remove_unnamed()  # what a failed one wrote takes the room that the next one needs
            raise

    def _made(self, snapshot: Snapshot) -> Manifest:
        before, facts = self._manifest, snapshot.facts
        entries = concatenated(self._tail.entries)
        journal = list(before.journal) if before else []
        if len(entries) or (before and before.facts.learning != facts.learning):  # what settings drop, they drop in a replay too
            began = (before.facts.epoch, before.facts.position) if before else (0, 0)
            journal.append(self._segment(entries, facts, *began))
        manifest = Manifest(
            facts=facts,
            arrays={name: self._save_array(name, array) for name, array in snapshot.arrays.items()},
            names={
                side: self._save_names(side, before.names.get(side, ()) if before else (), self._tail.names.get(side, {}))
                for side in ("users", "items")
            },
            base=before.base if before else None,
            base_position=before.base_position if before else 0,
            journal=journal,
        )
        if snapshot.base is not None:
            file = self._save_array("base", snapshot.base)
            manifest = msgspec.structs.replace(manifest, base=file, base_position=facts.position)
        manifest = self._joined(manifest) if self._keep_journal else self._compacted(manifest)
        self._sync(self._data)
        self._write(self._next_path(facts), [msgspec.json.encode(manifest)])
        self._remove_old()
        return manifest

    def _segment(self, entries: Entries, facts: Facts, first_epoch: int, first_position: int) -> Segment:
        return Segment(
            self._save_array("journal", entries),
            first_position=first_position,
            first_epoch=first_epoch,
            last_position=facts.position,
            learning=facts.learning,
            platform=facts.platform,
        )

    def _joined(self, manifest: Manifest) -> Manifest:
        """Join journal files older than every kept checkpoint, from which a replay may have to begin, into few."""
        old = self._older_than_kept(manifest)
        try:
            journal = [self._one(group) if len(group) > 1 else group[0] for group in joined(old)]
        except Damaged as error:
            log.error("a file of the journal is damaged; checkpoint verify will tell", reason=str(error))
            return manifest
        return msgspec.structs.replace(manifest, journal=[*journal, *manifest.journal[len(old) :]])

    def _one(self, group: Sequence[Segment]) -> Segment:
        file = self._save_array("journal", concatenated([self.entries(segment.file) for segment in group]))
        return msgspec.structs.replace(group[0], file=file, last_position=group[-1].last_position)

    def _older_than_kept(self, manifest: Manifest) -> list[Segment]:
        """Return the journal up to the oldest checkpoint that stays beside *manifest*."""
        kept = self.manifests()[-(self._keep - 1) :] if self._keep > 1 else []
        oldest = min((int(path.stem.split("-")[2]) for path in kept), default=manifest.facts.position)
        return [segment for segment in manifest.journal if segment.last_position <= oldest]

    def _next_path(self, facts: Facts) -> Path:
        """Return the path of a manifest that sorts behind all others."""
        stem = f"checkpoint-{facts.epoch:010}-{facts.position:020}"
        n_there = max((int(path.stem.split("-")[3]) for path in self.manifests() if path.name.startswith(stem)), default=0)
        return self.folder / f"{stem}-{n_there + 1:04}.json"

    def _compacted(self, manifest: Manifest) -> Manifest:
        """Fold journal files older than every kept checkpoint into the base, once they are many."""
        old = self._older_than_kept(manifest)
        n_base = manifest.base.size_bytes // ENTRY.itemsize if manifest.base else 0
        n_old = sum(segment.file.size_bytes for segment in old) // ENTRY.itemsize
        if len(old) < COMPACT_SEGMENTS and n_old < max(COMPACT_ENTRIES, n_base // 2):
            return manifest
        ratings = ratings_of(
            self.entries(manifest.base),
            [self.entries(segment.file) for segment in old],
            manifest.facts.n_users,
            manifest.facts.n_items,
        )
        return msgspec.structs.replace(
            manifest,
            base=self._save_array("base", base_of(ratings)),
            base_position=old[-1].last_position,
            journal=list(manifest.journal)[len(old) :],
        )

    def _save_array(self, name: str, array: NDArray[Any]) -> File:
        header = io.BytesIO()
        array = np.ascontiguousarray(array)
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
        return self._save(name, ".npy", [header.getvalue(), array.reshape(-1).view(np.uint8).data])

    def _save_names(self, side: str, before: Sequence[File], changed: Mapping[int, Sequence[str]]) -> list[File]:
        chunks = dict(enumerate(before))
        for chunk, names in sorted(changed.items()):
            assert len(names) <= NAMES_IN_CHUNK
            chunks[chunk] = self._save(f"{side}.{chunk}", ".ids", ["\0".join(names).encode()])
        return [chunks[chunk] for chunk in sorted(chunks)]

    def _save(self, name: str, suffix: str, parts: Sequence[bytes | memoryview]) -> File:
        """Write a file of `data/` unless it is there and was seen whole; its name tells its content."""
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        file = File(f"{name}-{digest.hexdigest()[:24]}{suffix}", digest.hexdigest(), sum(len(part) for part in parts))
        path = self._data / file.name
        if file.name not in self._seen_whole or not path.exists():
            self._write(path, parts)
            self._seen_whole.add(file.name)
        return file

    def _write(self, path: Path, parts: Sequence[bytes | memoryview]) -> None:
        """Write beside, to the disk, and rename: *path* is whole or is not there."""
        beside = path.with_name(f".{path.name}.{threading.get_ident()}")
        try:
            with beside.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        if path.parent == self.folder:
            self._sync(self.folder)

    @staticmethod
    def _sync(folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _remove_old(self) -> None:
        """Remove all but the newest manifests, and the files that none of those names."""
        for path in self.manifests()[: -self._keep]:
            path.unlink()
        self._remove_unnamed()

    def _remove_unnamed(self) -> None:
        """Remove the files that no manifest names; none while a manifest cannot be read, for it may name any."""
        try:
            named = {file.name for path in self.manifests() for file in self.manifest(path).files()}
        except Damaged:
            return
        for path in self._data.iterdir():
            if path.name not in named:
                path.unlink()
                self._seen_whole.discard(path.name)

    def _failed(self, error: OSError | Damaged) -> CheckpointFailed:
        reason = error.strerror if isinstance(error, OSError) else error
        return CheckpointFailed(
            f"no checkpoint can be written to {self.folder} ({reason}): free space or mend the folder; "
            "until then a restart begins at the last good one, and nothing is lost"
        )
