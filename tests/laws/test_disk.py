"""The laws that checkpoints matter for, on real files; a crash comes before any of them is written, too."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker.adapters import files
from factorstream.worker.adapters.files import FileCheckpoints
from factorstream.worker.loop import run
from factorstream.worker.verification import verify
from tests.laws.disk import disk, is_whole
from tests.laws.strategies import START_MS, logs
from tests.laws.world import Crash, Fuse, World, held, live, settings_of, worker

SETTINGS = settings_of()
IDLE = settings_of("sweep.when_idle=true", "model.rating_max=5")
UNCALIBRATED = settings_of("sweep.when_idle=true", "model.rating_max=5", "model.calibrate=false")
many_crashes = st.lists(st.integers(0, 150), max_size=4)


@pytest.fixture(autouse=True, scope="module")
def small_journals():
    """Fold or join the journal at every chance, as it happens after weeks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "COMPACT_SEGMENTS", 2)
        yield


@given(logs(max_size=40), many_crashes, st.integers(1, 7), st.integers(1, 3), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_crash_before_any_file_changes_nothing(log, crashes, max_records, keep, keep_journal):
    calm = World()
    calm.write(log)
    expected = live(calm, SETTINGS, max_records=max_records)
    with disk(keep=keep, keep_journal=keep_journal) as folder:
        world = World(folder=folder)
        world.write(log)
        state = live(world, SETTINGS, crashes=crashes, max_records=max_records)
        assert state.model.state_hash() == expected.model.state_hash()
        assert held(state) == held(expected)
        assert world.log.committed == calm.log.committed
        assert len(list(folder.path.glob("checkpoint-*"))) <= keep
        assert_nothing_lies_about(folder.path)


runs = st.tuples(st.sampled_from([IDLE, UNCALIBRATED]), st.integers(0, 150), st.booleans())
"""A worker's settings, after how many effects it ends, and whether its newest checkpoint is damaged then."""


@given(logs(max_size=40), st.lists(runs, max_size=4), st.integers(1, 7), st.integers(0, 12), st.integers(1, 4), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_run_with_any_crashes_and_damages_is_what_its_own_files_say(log, runs, max_records, n_idle, keep, keep_journal):
    with disk(keep=keep, keep_journal=keep_journal) as folder:
        world = World(folder=folder)
        world.write(log)
        for chosen, length, damaged in [*runs, (IDLE, None, False)]:
            with suppress(Crash):
                state, parts, turns = worker(world, chosen, fuse=Fuse(length), max_records=max_records)
                for _, _ in zip(range(len(log) + n_idle), turns, strict=False):
                    pass
                parts.checkpoints.durable()
                parts.checkpoints.begin(parts.snapshot(state))
                parts.checkpoints.durable()
            if damaged:
                folder.damage_newest()
        found = verify(FileCheckpoints(folder.path))
        assert found.ok
        assert found.comparable
        assert found.state_hash == state.model.state_hash()
        if keep_journal:
            assert found.replayed >= len(held(state))


@pytest.mark.parametrize("others", [[UNCALIBRATED], [UNCALIBRATED, IDLE], [IDLE, UNCALIBRATED, IDLE]])
def test_other_settings_change_nothing_that_verify_finds_even_if_nothing_is_learned_with_them(others):
    with disk(keep=9) as folder:
        world = World(folder=folder)
        world.write(
            [{"user_id": f"u{n % 4}", "item_id": f"i{n}", "rating": n % 5, "timestamp_ms": START_MS + n} for n in range(15)]
        )
        live(world, IDLE, max_records=100)
        for chosen in others:
            state, parts, _ = worker(world, chosen)
            list(run(state, parts, stop=lambda: True))  # told to stop before its first turn
        found = verify(FileCheckpoints(folder.path))
        assert found.ok
        assert found.state_hash == state.model.state_hash()


def test_a_checkpoint_left_behind_is_not_taken_for_the_one_made_later_at_its_position():
    log = [{"user_id": f"u{n % 4}", "item_id": f"i{n}", "rating": float(n % 5), "timestamp_ms": START_MS + n} for n in range(15)]
    with disk(keep=3) as folder:
        world = World(folder=folder)
        for first in (0, 5):
            world.write(log[first : first + 5])
            live(world, SETTINGS, max_records=100)
        folder.damage_newest()
        live(world, settings_of("sgd.fold_in=0"), max_records=100)  # learns other numbers
        world.write(log[10:])
        live(world, SETTINGS, max_records=100)
        store = FileCheckpoints(folder.path)
        left, again, newest = (store.manifest(path) for path in store.manifests())
        assert left.facts.position == again.facts.position
        assert not is_whole(store, left)
        assert newest.base is not None
        found = verify(store)
        assert found.ok
        assert found.replayed >= 5


def assert_nothing_lies_about(path):
    store = FileCheckpoints(path)
    named = {file.name for manifest in store.manifests() for file in store.manifest(manifest).files()}
    assert {file.name for file in (path / "data").iterdir()} == named


def test_a_forgotten_id_is_soon_nowhere_on_the_disk_though_nothing_comes_after_it():
    with disk(keep=3) as folder:
        world = World(folder=folder)
        world.write([{"user_id": "someone", "item_id": f"i{n}", "rating": 3, "timestamp_ms": START_MS + n} for n in range(5)])
        live(world, SETTINGS)
        assert any(b"someone" in path.read_bytes() for path in folder.path.rglob("*") if path.is_file())
        world.write([{"type": "forget_user", "user_id": "someone", "timestamp_ms": START_MS + 100}])
        state, parts, _ = worker(world, SETTINGS)
        for _ in zip(range(100), run(state, parts, stop=lambda: False), strict=False):
            parts.checkpoints.wait()
        assert not any(b"someone" in path.read_bytes() for path in folder.path.rglob("*") if path.is_file())
        assert len(FileCheckpoints(folder.path).manifests()) == 3
