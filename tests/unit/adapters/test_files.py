"""What a folder of checkpoints does when disks and files do what they should not."""

import dataclasses
import resource
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest

from factorstream.worker.adapters import files
from factorstream.worker.adapters.files import FileCheckpoints
from factorstream.worker.errors import CheckpointDamaged, CheckpointFailed
from tests.contracts.test_checkpoint_store import LEARNING, begin, snapshot


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def store(folder):
    store = FileCheckpoints(folder, keep=2)
    store.lock()
    store.latest()
    yield store
    store.close()


def journal_of(checkpoint):
    return np.concatenate([checkpoint.base, *checkpoint.journal])["user"].tolist()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_damaged_file_means_falling_back_to_the_checkpoint_before(folder, store, damage):
    begin(store, snapshot(3, n_new=3))
    begin(store, snapshot(5, n_new=2))
    newest = store.manifest(store.manifests()[-1])
    damage(folder / "data" / newest.arrays["users.factors"].name)
    assert FileCheckpoints(folder).latest().facts.position == 3


def test_a_damaged_manifest_means_falling_back_too_and_going_on_from_there(folder, store):
    begin(store, snapshot(3, n_new=3))
    begin(store, snapshot(5, n_new=2))
    store.manifests()[-1].write_text("{")
    store.close()
    again = FileCheckpoints(folder, keep=2)
    again.lock()
    assert again.latest().facts.position == 3
    begin(again, snapshot(4, n_new=1, epoch=2))
    again.close()
    assert journal_of(FileCheckpoints(folder).latest()) == [0, 1, 2, 3]


def test_with_nothing_whole_the_error_says_what_to_do(folder, store):
    begin(store, snapshot(3))
    for path in store.manifests():
        path.write_text("{")
    with pytest.raises(CheckpointDamaged, match=r"restore the folder .* redis\.replace"):
        FileCheckpoints(folder).latest()


def test_only_the_newest_are_kept_and_nothing_else_lies_about(folder, store):
    for n in range(1, 6):
        begin(store, snapshot(n, n_new=1))
    assert [store.manifest(path).facts.position for path in store.manifests()] == [4, 5]
    named = {file.name for path in store.manifests() for file in store.manifest(path).files()}
    assert {path.name for path in (folder / "data").iterdir()} == named


@contextmanager
def full_disk(n_bytes):
    """Refuse files longer than *n_bytes*."""
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))


@pytest.mark.parametrize("n_bytes", [0, 130, 150, 500])
def test_what_a_full_disk_refused_is_written_with_the_next_checkpoint_and_takes_no_room_meanwhile(folder, store, n_bytes):
    begin(store, snapshot(3, n_new=3))
    before = set(folder.rglob("*"))
    with full_disk(n_bytes):
        for n in range(2):
            with pytest.raises(CheckpointFailed, match="File too large"):
                begin(store, snapshot(5 + n, n_new=2 - n))
    assert set(folder.rglob("*")) == before
    begin(store, snapshot(7, n_new=1))
    assert journal_of(FileCheckpoints(folder).latest()) == [0, 1, 2, 3, 4, 5, 6]


def test_an_old_journal_is_folded_into_a_base_that_holds_the_same(folder, store, monkeypatch):
    monkeypatch.setattr(files, "COMPACT_SEGMENTS", 3)
    for n in range(1, 12):
        begin(store, rated(n))
    newest = store.manifest(store.manifests()[-1])
    oldest = store.manifest(store.manifests()[0])
    assert newest.base is not None
    assert len(newest.journal) < 6
    assert newest.base_position <= oldest.facts.position
    assert journal_of(FileCheckpoints(folder).latest()) == list(range(11))


def test_a_journal_that_is_kept_for_ever_is_kept_in_few_files_and_no_kept_checkpoint_loses_one(folder):
    store = FileCheckpoints(folder, keep=2, keep_journal=True)
    store.lock()
    store.latest()
    for n in range(1, 130):
        begin(store, snapshot(n, n_new=1))
        if n % 8 == 0:
            for path in store.manifests():
                checkpoint = store.read(store.manifest(path))
                assert journal_of(checkpoint) == list(range(checkpoint.facts.position))
                assert len(checkpoint.journal) <= 12
    positions = [(segment.first_position, segment.last_position) for segment in store.manifest(store.manifests()[-1]).journal]
    assert [first for first, _ in positions] == [0, *(last for _, last in positions[:-1])]
    assert len(list((folder / "data").glob("journal-*"))) < 20
    store.close()


def test_pieces_of_a_journal_learned_with_other_settings_or_elsewhere_stay_apart(folder):
    store = FileCheckpoints(folder, keep=1, keep_journal=True)
    store.lock()
    store.latest()
    learnings = [LEARNING, dataclasses.replace(LEARNING, fold_in=3)]
    for n in range(40):
        one = snapshot(n + 1, n_new=1)
        where = {"learning": learnings[n // 20], "platform": f"platform {n // 10}"}
        begin(store, dataclasses.replace(one, facts=msgspec.structs.replace(one.facts, **where)))
    journal = store.manifest(store.manifests()[-1]).journal
    pieces = [(segment.learning.fold_in, segment.platform, segment.last_position) for segment in journal]
    assert {piece[:2]: piece[2] for piece in pieces} == {
        (LEARNING.fold_in, "platform 0"): 10,
        (LEARNING.fold_in, "platform 1"): 20,
        (3, "platform 2"): 30,
        (3, "platform 3"): 40,
    }
    assert journal_of(FileCheckpoints(folder).latest()) == list(range(40))
    store.close()


def test_a_damaged_old_piece_of_the_journal_stops_no_checkpoint(folder):
    store = FileCheckpoints(folder, keep=1, keep_journal=True)
    store.lock()
    store.latest()
    begin(store, snapshot(1, n_new=1))
    first = store.manifest(store.manifests()[-1]).journal[0].file
    (folder / "data" / first.name).write_bytes(b"")
    for n in (2, 3):
        assert begin(store, snapshot(n, n_new=1)).position == n
    assert first in store.manifest(store.manifests()[-1]).files()
    store.close()


def rated(n):
    """Return a snapshot whose journal has one new user."""
    one = snapshot(n, n_new=1)
    [entries] = one.entries
    entries["item"], entries["rating"], entries["time"] = 0, 1.0, n
    return files.Snapshot(type(one.facts)(**{**_fields(one.facts), "n_users": n}), one.arrays, one.names, one.entries)


def _fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointFailed, match=r"checkpoint\.dir .* cannot be used"):
        FileCheckpoints(tmp_path / "file" / "checkpoints").lock()
