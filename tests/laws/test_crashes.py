"""No accepted rating is lost, and none is learned twice, wherever the process ends."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws.strategies import logs
from tests.laws.world import World, held, live, published, settings_of, worker

SETTINGS = settings_of()
AS_THEY_ARE = settings_of("model.calibrate=false")
"""Readers get rows as they are, not corrected by what is known at the time."""


def outcome(log, *, crashes=(), max_records=3, settings=SETTINGS):
    world = World()
    world.write(log)
    state = live(world, settings, crashes=crashes, max_records=max_records)
    return state, world


@given(logs(), st.lists(st.integers(0, 40), max_size=4), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_a_crash_anywhere_changes_nothing(log, crashes, max_records):
    calm, calm_world = outcome(log, max_records=max_records)
    rough, rough_world = outcome(log, crashes=crashes, max_records=max_records)
    assert rough.model.state_hash() == calm.model.state_hash()
    assert held(rough) == held(calm)
    assert rough.offsets == calm.offsets
    assert rough_world.log.committed == calm_world.log.committed == ({0: len(log)} if log else {})


@given(logs(), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_batches_cut_differently_give_the_same_bits(log, one, other):
    assert outcome(log, max_records=one)[0].model.state_hash() == outcome(log, max_records=other)[0].model.state_hash()


@given(logs(max_size=30))
@settings(max_examples=40, deadline=None)
def test_the_log_twice_is_the_log_once(log):
    once, _ = outcome(log)
    twice, _ = outcome(log + log)
    assert held(twice) == held(once)


@given(logs(max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_ratings_held_do_not_depend_on_the_order_of_delivery(log, random):
    shuffled = log.copy()
    random.shuffle(shuffled)
    assert held(outcome(shuffled)[0]) == held(outcome(log)[0])


@given(logs(), st.lists(st.integers(0, 40), max_size=2), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_readers_end_with_exactly_the_rows_of_the_model(log, crashes, max_records):
    state, world = outcome(log, crashes=crashes, max_records=max_records, settings=AS_THEY_ARE)
    embeddings = published(world)
    model = state.model
    for side, ids, counts, factors in (
        ("user", state.identities.users, model.ratings.user_counts, model.users),
        ("item", state.identities.items, model.ratings.item_counts, model.items),
    ):
        for name, row in ids.items():
            if (side, name) in embeddings or counts[row]:
                embedding = embeddings.pop((side, name))
                assert embedding.vector.tolist() == factors.factors[row].tolist()
                assert embedding.bias == factors.biases[row]
                assert embedding.n_ratings == counts[row]
    assert not embeddings, "what was forgotten is still there"


@given(logs(), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_a_restart_goes_on_as_if_it_had_not_stopped(log, cut):
    calm, _ = outcome(log)
    world = World()
    world.write(log[:cut])
    live(world, SETTINGS)
    world.write(log[cut:])
    assert live(world, SETTINGS).model.state_hash() == calm.model.state_hash()


def test_an_empty_topic_and_empty_polls_are_nothing_special():
    world = World()
    state, _, turns = worker(world, SETTINGS)
    assert [tick.n_records for tick in turns] == [0, 0]
    assert held(state) == {}
