"""A worker that has nothing to do does nothing."""

import dataclasses
import itertools

from factorstream.worker.loop import LONGEST_POLL_S, Worker
from tests.laws.disk import disk
from tests.laws.strategies import START_MS
from tests.laws.world import World, settings_of, worker


def rate(n):
    return {"user_id": f"u{n}", "item_id": "i", "rating": 3.0, "timestamp_ms": START_MS + n}


def checkpoints_of(at_work, n_turns):
    """Return the positions of the checkpoints that become durable within *n_turns* turns."""
    ticks = [at_work.turn() for _ in range(n_turns)]
    return [tick.durable.position for tick in ticks if tick.durable]


def test_a_checkpoint_is_written_when_something_changed_and_not_again_and_again():
    world = World()
    at_work = Worker(*worker(world, settings_of("sweep.visits_per_rating=0"))[:2])
    assert checkpoints_of(at_work, 200) == [0], "one with this epoch's number"
    world.write([rate(0)])
    assert set(checkpoints_of(at_work, 200)) == {1}
    assert checkpoints_of(at_work, 200) == []
    world.write([rate(0)])
    assert checkpoints_of(at_work, 200) == [1], "old news: offsets went on"
    assert world.log.committed == {0: 2}


def test_rows_that_readers_saw_late_are_noted():
    world = World()
    at_work = Worker(*worker(world, settings_of("sweep.visits_per_rating=0"))[:2])
    world.table.available = False
    world.write([rate(0)])
    checkpoints_of(at_work, 200)
    assert world.folder.checkpoints[-1].arrays["users.pending"].tolist() == [0]
    world.table.available = True
    assert checkpoints_of(at_work, 200) == [1]
    assert world.folder.checkpoints[-1].arrays["users.pending"].tolist() == []


def test_a_checkpoint_that_failed_is_written_again_although_nothing_changed():
    with disk() as folder:
        world = World(folder=folder)
        at_work = Worker(*worker(world, settings_of())[:2])
        world.write([rate(0)])
        (folder.path / "data").rename(folder.path / "away")
        failed = [tick.checkpoint_failed for tick in itertools.islice(turns_of(at_work), 60)]
        assert failed.count(True) > 1
        (folder.path / "away").rename(folder.path / "data")
        assert checkpoints_of(at_work, 60)[-1:] == [at_work.state.model.position]


def test_a_checkpoint_that_takes_longer_than_their_interval_makes_nobody_hurry():
    world = World()
    state, parts, _ = worker(world, settings_of("sweep.visits_per_rating=0"))
    disk, source = Slow(parts.checkpoints), Patient(parts.source)
    at_work = Worker(state, dataclasses.replace(parts, checkpoints=disk, source=source))
    for _ in range(60):
        at_work.turn()
    assert parts.checkpoint_every.due()
    source.waited_s.clear()
    at_work.turn()
    assert source.waited_s == [LONGEST_POLL_S]


class Slow:
    """A disk that is busy with a checkpoint."""

    busy = True

    def __init__(self, checkpoints):
        self._checkpoints = checkpoints

    def __getattr__(self, name):
        return getattr(self._checkpoints, name)


class Patient:
    """A source that remembers how long it was to wait."""

    def __init__(self, source):
        self._source = source
        self.waited_s = []

    def __getattr__(self, name):
        return getattr(self._source, name)

    def poll(self, timeout_s):
        self.waited_s.append(timeout_s)
        return self._source.poll(timeout_s)


def turns_of(at_work):
    while True:
        yield at_work.turn()
