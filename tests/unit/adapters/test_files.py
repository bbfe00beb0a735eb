"""What a folder of checkpoints does when disks and files do what they should not."""

import resource
from contextlib import contextmanager

import numpy as np
import pytest

from factorstream.worker.adapters import files
from factorstream.worker.adapters.files import FileCheckpoints
from factorstream.worker.errors import CheckpointDamaged, CheckpointFailed
from tests.contracts.test_checkpoint_store import begin, snapshot


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
