"""What every checkpoint store promises: a folder on a disk and its twin in memory."""

import numpy as np
import pytest

from factorstream.worker.adapters.files import FileCheckpoints
from factorstream.worker.adapters.memory_checkpoints import MemoryCheckpoints, MemoryFolder
from factorstream.worker.checkpoint import Facts, Snapshot
from factorstream.worker.errors import CheckpointsLocked
from factorstream.worker.learn.settings import Learning
from factorstream.worker.model.journal import ENTRY
from factorstream.worker.model.level import Level
from factorstream.worker.model.model import Sweep

LEARNING = Learning(None, 0.05, 0.0, 8, None, None, 2.5, False, 8.0, 20_000)


@pytest.fixture(params=["memory", "files"])
def new_store(request, tmp_path):
    """Return a function that opens the one store of this test anew, as a process that starts does."""
    folder = MemoryFolder()
    stores = []

    def open_store():
        store = MemoryCheckpoints(folder) if request.param == "memory" else FileCheckpoints(tmp_path / "checkpoints")
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


def facts(n_accepted=0, epoch=1, n_users=2):
    return Facts(
        journal_id="j",
        name="default",
        anew=False,
        key="00",
        epoch=epoch,
        sequence=n_accepted,
        offsets={0: n_accepted},
        cluster_id="c",
        topic="t",
        topic_id="i",
        rank=2,
        loss="squared",
        learner="sgd",
        seed=0,
        n_accepted=n_accepted,
        n_blocks=0,
        n_users=n_users,
        n_items=1,
        n_ratings=0,
        removed_users=["ü"],
        removed_items=[],
        range=(None, 5.0),
        level=Level(),
        sweep=Sweep(),
        learning=LEARNING,
        platform="test",
        created_ms=0,
    )


def snapshot(n_accepted=0, *, n_new=0, epoch=1, names=("ü", "b\n")):
    entries = np.zeros(n_new, ENTRY)
    entries["user"] = np.arange(n_accepted - n_new, n_accepted)
    arrays = {"users.factors": np.full((2, 2), n_accepted, np.float32), "users.biases": np.zeros(2, np.float32)}
    return Snapshot(facts(n_accepted, epoch), arrays, {"users": {0: list(names)}, "items": {}}, [entries])


def begin(store, snapshot):
    store.begin(snapshot)
    store.wait()
    return store.durable()


def test_nothing_is_there_before_the_first(new_store):
    store = new_store()
    store.lock()
    assert store.latest() is None
    assert store.durable() is None
    assert store.epoch() == 0


def test_the_latest_is_what_was_begun_last_with_the_journal_since_the_beginning(new_store):
    store = new_store()
    store.lock()
    store.latest()
    begin(store, snapshot(3, n_new=3))
    written = begin(store, snapshot(5, n_new=2))
    assert written.position == 5
    assert written.size_bytes > 0
    store.close()
    latest = new_store().latest()
    assert latest.facts == facts(5)
    assert latest.arrays["users.factors"].tolist() == [[5.0, 5.0], [5.0, 5.0]]
    assert np.concatenate([latest.base, *latest.journal])["user"].tolist() == [0, 1, 2, 3, 4]


def test_ids_come_back_as_they_were_written_last(new_store):
    store = new_store()
    store.lock()
    store.latest()
    begin(store, snapshot(1, names=["a", "b"]))
    begin(store, snapshot(2, names=["", "b", "ü\n"]))
    assert list(new_store().latest().names["users"]) == ["", "b", "ü\n"]


def test_a_restarted_store_goes_on_from_the_latest(new_store):
    store = new_store()
    store.lock()
    store.latest()
    begin(store, snapshot(3, n_new=3))
    store.close()
    again = new_store()
    again.lock()
    again.latest()
    begin(again, snapshot(4, n_new=1, epoch=2))
    latest = new_store().latest()
    assert latest.facts.epoch == 2
    assert np.concatenate([latest.base, *latest.journal])["user"].tolist() == [0, 1, 2, 3]


def test_an_epoch_is_claimed_for_good(new_store):
    store = new_store()
    store.lock()
    store.claim(7)
    store.close()
    assert new_store().epoch() == 7


def test_one_worker_at_a_time(new_store):
    store = new_store()
    store.lock()
    with pytest.raises(CheckpointsLocked, match="in use"):
        new_store().lock()
    store.close()
    new_store().lock()
