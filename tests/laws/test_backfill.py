"""A history fitted from a file is where a worker begins: nothing of it is lost, nothing learned twice, and the stream goes on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker import backfill, fitting, kernels
from factorstream.worker.adapters.files import FileCheckpoints
from factorstream.worker.adapters.memory_checkpoints import MemoryFolder
from factorstream.worker.errors import UserMistake
from factorstream.worker.verification import verify
from factorstream.worker.wiring import fresh_model, fresh_state, learning_of
from tests.laws.disk import disk
from tests.laws.world import NOW_MS, PLATFORM, Fuse, World, held, live, opened, published, settings_of, worker

SETTINGS = settings_of()


def rate(user, item, rating, time):
    return {"user_id": f"u{user}", "item_id": f"m{item}", "rating": rating, "timestamp_ms": NOW_MS - 1000 + time}


rates = st.builds(rate, st.integers(0, 5), st.integers(0, 5), st.sampled_from([1.0, 2.5, 5.0]), st.integers(0, 4))


def fit_into(folder, events):
    """Fit *events* and write the checkpoint; return what was written."""
    events = sorted(events, key=lambda event: event["timestamp_ms"])
    users, items = (list(dict.fromkeys(event[name] for event in events)) for name in ("user_id", "item_id"))
    store = fitting.last_writes(
        np.array([users.index(event["user_id"]) for event in events], np.int32),
        np.array([items.index(event["item_id"]) for event in events], np.int32),
        np.array([event["rating"] for event in events], np.float32),
        np.array([event["timestamp_ms"] for event in events], np.int64),
        n_users=len(users), n_items=len(items),
    )  # fmt: skip
    model, learning, cpu = fresh_model(SETTINGS), learning_of(SETTINGS), kernels.select("cpu")
    fitting.prepare(model, store, cpu, learning)
    for _ in fitting.fit(model, cpu, learning, method="als", n_iterations=3, seed=0):
        pass
    state = fresh_state(SETTINGS)
    backfill.begin_with(state, model, users, items)
    checkpoints = opened(folder, Fuse())
    checkpoints.lock()
    backfill.check_empty(checkpoints)
    backfill.write(state, checkpoints, seen_items=4, platform=PLATFORM, created_ms=NOW_MS)
    with pytest.raises(UserMistake, match="holds checkpoints already"):
        backfill.check_empty(checkpoints)
    checkpoints.close()
    return state


def newest(events):
    """Return what the pairs of *events* hold in the end."""
    found = {}
    for event in events:
        pair, write = (event["user_id"], event["item_id"]), (event["timestamp_ms"], event["rating"])
        found[pair] = max(found.get(pair, write), write)
    return {pair: (rating, time) for pair, (time, rating) in found.items()}


@settings(max_examples=40)
@given(st.lists(rates, min_size=1, max_size=30), st.lists(rates, max_size=20), st.lists(st.integers(0, 40), max_size=3))
def test_a_worker_goes_on_from_a_fitted_file_whatever_crashes(history, log, crashes):
    with disk() as folder:
        world = World(folder=folder)
        begun = fit_into(folder, history)
        world.write(log)
        state = live(world, SETTINGS, crashes=crashes)
        assert held(state) == newest([*history, *log])
        assert state.journal_id == begun.journal_id
        assert published(world).keys() == {(side, event[f"{side}_id"]) for event in [*history, *log] for side in ("user", "item")}
        found = verify(FileCheckpoints(folder.path))
        assert found.ok
        assert found.state_hash == state.model.state_hash()


@settings(max_examples=20)
@given(st.lists(rates, min_size=1, max_size=30), st.data())
def test_a_topic_that_holds_the_file_too_teaches_nothing_twice(history, data):
    world = World(folder=MemoryFolder())
    begun = fit_into(world.folder, history)
    parameters = [array.copy() for array in begun.model.parameters()]
    world.write(data.draw(st.permutations(history)))
    state = live(world, SETTINGS)
    assert state.model.n_accepted == len(newest(history))
    assert all((a == b).all() for a, b in zip(parameters, state.model.parameters(), strict=True))
    assert sum(world.log.committed.values()) == len(history)


def test_a_worker_of_another_shape_is_refused():
    world = World(folder=MemoryFolder())
    fit_into(world.folder, [rate(0, 0, 1.0, 0), rate(1, 0, 5.0, 0)])
    with pytest.raises(UserMistake, match=r"model\.rank = 3"):
        worker(world, settings_of("model.rank=4"))


def test_ratings_that_a_worker_would_not_accept_are_told():
    backfill.check_range(0.5, 5.0, None, None)
    with pytest.raises(UserMistake, match="accepts 1 to 5: set model"):
        backfill.check_range(0.5, 5.0, 1.0, 5.0)
    with pytest.raises(UserMistake, match="from 0 to 2000"):
        backfill.check_range(0.0, 2000.0, None, None)
