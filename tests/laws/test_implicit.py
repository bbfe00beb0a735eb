"""The laws of the stream, for clicks over all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker import kernels
from factorstream.worker.learn import implicit
from factorstream.worker.learn.implicit import memory_of
from factorstream.worker.learn.learner import Learner, new_model
from factorstream.worker.model.model import ITEMS, USERS
from factorstream.worker.wiring import learning_of
from tests.laws.strategies import logs
from tests.laws.world import World, held, last_of, live, published, settings_of, worker

SETTINGS = settings_of("model.loss=implicit", "implicit.alpha=2")
IDLE = settings_of("model.loss=implicit", "sweep.when_idle=true")


@pytest.fixture(autouse=True, scope="module")
def short_histories():
    """Drain often, and let users be long soon: everything happens within a few events."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(implicit, "DRAIN", 5)
        patch.setattr(implicit, "LONGEST", 2)
        patch.setattr(implicit, "VISITS", (2, 2))
        patch.setattr(implicit.Implicit, "fold_in", (2, 0))
        yield


def clicks(*, max_size=60):
    """Return logs of running totals, some of them 0; unrates and forgettings as in any log."""
    return logs(max_size=max_size).map(lambda log: [{**event, **_strength(event)} for event in log])


def _strength(event):
    return {"rating": float(int(event["rating"]) % 4)} if "rating" in event else {}


def outcome(log, *, asked=SETTINGS, crashes=(), max_records=3):
    world = World()
    world.write(log)
    return live(world, asked, crashes=crashes, max_records=max_records), world


def replayed(journal, asked):
    model = new_model(learning_of(asked), asked.model.rank, asked.model.seed)
    learner = Learner(kernels.select("cpu"), learning_of(asked))
    for entries in journal:
        for _ in learner.replay(model, entries):
            pass
    return model


@given(clicks(), st.lists(st.integers(0, 40), max_size=4), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_neither_a_crash_anywhere_nor_other_batches_change_a_bit(log, crashes, one, other):
    calm, _ = outcome(log, max_records=one)
    rough, _ = outcome(log, crashes=crashes, max_records=other)
    assert rough.model.state_hash() == calm.model.state_hash()
    assert held(rough) == held(calm)


@given(clicks(), st.lists(st.integers(0, 60), max_size=4), st.integers(1, 7), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_any_run_with_any_crashes_is_what_its_own_journal_says(log, crashes, max_records, n_idle):
    world = World()
    world.write(log)
    state = last_of(world, IDLE, crashes, max_records=max_records, n_turns=len(log) + n_idle)
    assert replayed(world.folder.checkpoints[-1].journal, IDLE).state_hash() == state.model.state_hash()


@given(clicks(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_readers_end_with_exactly_the_rows_of_the_model(log, max_records):
    state, world = outcome(log, max_records=max_records)
    embeddings, model = published(world), state.model
    learner = Learner(kernels.select("cpu"), learning_of(SETTINGS))
    for side, number, ids, counts in (
        ("user", USERS, state.identities.users, model.ratings.user_counts),
        ("item", ITEMS, state.identities.items, model.ratings.item_counts),
    ):
        for name, row in ids.items():
            if (side, name) in embeddings or counts[row]:
                embedding = embeddings.pop((side, name))
                factors, biases = learner.rule.readout(model, number, np.array([row]))
                assert embedding.vector.tolist() == factors[0].tolist()
                assert embedding.bias == biases[0] == 0
    assert not embeddings, "what was forgotten is still there"
    assert model.level.intercept == 0


@given(clicks())
@settings(max_examples=60, deadline=None)
def test_the_gram_matrices_follow_every_change(log):
    model = outcome(log)[0].model
    for side, own, counts in (
        (USERS, model.users, model.ratings.user_counts),
        (ITEMS, model.items, model.ratings.item_counts),
    ):
        kept = memory_of(model).sides[side]
        counted = kept.counts[: own.n]
        emptied = np.setdiff1d(np.flatnonzero(counts[: own.n] == 0), kept.queue)  # in the queue until the next drain
        assert not counted[emptied].any()
        assert kept.n == counted.sum()
        rows = own.factors[counted].astype(np.float64)
        np.testing.assert_allclose(kept.gram, rows.T @ rows, rtol=1e-9, atol=1e-9)


def test_a_negative_strength_is_a_dead_letter():
    world = World()
    world.write([{"user_id": "u", "item_id": "i", "rating": rating, "timestamp_ms": 1_600_000_000_000} for rating in (-1, 0, 2)])
    state, _, turns = worker(world, SETTINGS)
    for _ in turns:
        pass
    assert [letter.reason for letter in world.dead.acknowledged] == ["bad_rating"]
    assert held(state) == {("u", "i"): (2.0, 1_600_000_000_000)}
