"""The awkward shapes: one of everything, none of anything, no regularisation, bytes that mean nothing."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker import kernels
from factorstream.worker.errors import CheckpointMismatch
from factorstream.worker.learn.sgd import Sgd
from factorstream.worker.learn.sweeper import Sweeper
from factorstream.worker.model.model import ITEMS, USERS
from tests.laws.strategies import START_MS, logs, rating_logs
from tests.laws.world import NOW_MS, World, held, live, published, settings_of

SHAPES = {
    "rank one": ["model.rank=1"],
    "no regularisation": ["als.lambda_user=0", "als.lambda_item=0", "als.lambda_bias=0"],
    "weighted": ["als.weighted=true", "als.lambda_user=0.1", "als.lambda_item=0.1", "als.lambda_bias=0.1"],
    "no fold-in, no sweeps": ["sgd.fold_in=0", "sweep.visits_per_rating=0"],
    "everything folded in": ["sgd.fold_in=100"],
    "rows longer than the rank": ["model.rank=2", "sgd.fold_in=5"],
    "posterior": ["model.learner=posterior"],
    "posterior of rank one, no sweeps": ["model.learner=posterior", "model.rank=1", "sweep.visits_per_rating=0"],
    "a range": ["model.rating_min=1", "model.rating_max=4"],
}


def rate(user, item, rating=3.0, time=START_MS):
    return {"user_id": user, "item_id": item, "rating": rating, "timestamp_ms": time}


def finite(state):
    return all(np.isfinite(parameters).all() for parameters in state.model.parameters())


@pytest.mark.parametrize("shape", SHAPES)
@given(log=logs(max_size=40))
@settings(max_examples=15, deadline=None)
def test_every_shape_learns_and_replays(shape, log):
    chosen = settings_of(*SHAPES[shape])
    one, other = World(), World()
    one.write(log)
    other.write(log)
    state = live(one, chosen, max_records=7)
    assert finite(state)
    assert live(other, chosen, max_records=2).model.state_hash() == state.model.state_hash()


@pytest.mark.parametrize(
    "log",
    [
        [],
        [rate("u", "i")],
        [rate("u", "i", time=START_MS + n, rating=n % 5) for n in range(30)],
        [rate("u", f"i{n}", rating=n % 5) for n in range(30)],
        [rate(f"u{n}", "i", rating=n % 5) for n in range(30)],
        [rate(name, "7") for name in ("7", "07", "007")],
        [rate(7, 7), rate("7", "7", time=START_MS + 1)],
    ],
    ids=[
        "nothing",
        "one rating",
        "one pair again and again",
        "a user with every item",
        "an item of every user",
        "zeros",
        "integers",
    ],
)
def test_small_worlds(log):
    world = World()
    world.write(log)
    state = live(world, settings_of())
    expected = {(str(event["user_id"]), str(event["item_id"])): event["rating"] for event in log}
    assert {pair: rating for pair, (rating, _) in held(state).items()} == expected
    assert {name for side, name in published(world) if side == "user"} == {user for user, _ in expected}
    assert finite(state)


def test_a_later_unrate_outlives_an_earlier_forgetting():
    later, earlier, between = START_MS + 10, START_MS + 5, START_MS + 7
    for forgetting in ({"type": "forget_user", "user_id": "u"}, {"type": "remove_item", "item_id": "i"}):
        log = [
            {"type": "unrate", "user_id": "u", "item_id": "i", "timestamp_ms": later},
            {**forgetting, "timestamp_ms": earlier},
            rate("u", "i", time=between),
        ]
        world = World()
        world.write(log)
        assert held(live(world, settings_of())) == {}


def test_a_forgetting_holds_for_those_who_come_back_and_after_a_restart():
    world = World()
    world.write([rate("u", "i"), {"type": "forget_user", "user_id": "u", "timestamp_ms": START_MS + 100}])
    world.write([rate("u", "i", 5.0, START_MS + 150), rate("u", "j", 1.0, START_MS + 50)])
    live(world, settings_of())
    world.write([rate("u", "k", 1.0, START_MS + 60)])
    assert held(live(world, settings_of())) == {("u", "i"): (5.0, START_MS + 150)}


def test_what_was_forgotten_is_gone_even_if_the_id_came_back_for_nothing():
    world = World()
    world.write([rate("u", "m"), rate("u", "n")])
    live(world, settings_of())
    assert ("user", "u") in published(world)
    world.write([{"type": "remove_item", "item_id": "m", "timestamp_ms": START_MS + 100}])
    world.write([{"type": "forget_user", "user_id": "u", "timestamp_ms": START_MS + 50}])
    world.write([rate("u", "m", time=START_MS + 60)])
    state = live(world, settings_of(), max_records=10)
    assert held(state) == {}
    assert ("user", "u") not in published(world)


@given(st.lists(st.one_of(st.binary(max_size=30), st.none()), max_size=20), rating_logs(max_size=20))
@settings(max_examples=40, deadline=None)
def test_a_poisoned_record_stops_nothing_and_is_kept(poison, log):
    world, clean = World(), World()
    clean.write(log)
    for value in [*poison, *(json.dumps(event).encode() for event in log), *poison]:
        world.log.append(0, value, NOW_MS)
    state = live(world, settings_of())
    assert held(state) == held(live(clean, settings_of()))
    assert [reject.value for reject in world.dead.acknowledged] == poison + poison


def objective(state):
    """Return the objective of DESIGN §3, as the equation has it."""
    model, penalty = state.model, state.learning.penalty(state.model.level)
    users, items, ratings, _ = model.ratings.entries()
    kept = ~np.isnan(ratings)
    users, items, ratings = users[kept], items[kept], ratings[kept].astype(np.float64)
    u, b, v, c = (parameters.astype(np.float64) for parameters in model.parameters())
    scores = model.level.intercept + b[users] + c[items] + (u[users] * v[items]).sum(axis=1)
    losses = 0.5 * ((ratings - scores) ** 2).sum()
    return losses + 0.5 * (
        penalty.user * (u**2).sum() + penalty.item * (v**2).sum() + penalty.bias * ((b**2).sum() + (c**2).sum())
    )


@given(rating_logs())
@settings(max_examples=40, deadline=None)
def test_a_block_never_raises_the_objective_of_the_live_model(log):
    world = World()
    world.write(log)
    state = live(world, settings_of("model.learn_priors=false"))
    sweeper = Sweeper(Sgd(kernels.select("cpu"), state.learning), state.learning)
    for _ in range(8 if log else 0):
        before = objective(state)
        sweeper.solve_block(state.model)
        assert objective(state) <= before + 1e-4 * (1 + before)


@given(rating_logs(max_size=30))
@settings(max_examples=40, deadline=None)
def test_a_solved_row_is_solved_over_every_rating_accepted_so_far(log):
    world = World()
    world.write(log)
    state = live(world, settings_of("model.learn_priors=false"))
    for side, own in ((USERS, state.model.users), (ITEMS, state.model.items)):
        rows = np.flatnonzero((state.model.ratings.user_counts if side == USERS else state.model.ratings.item_counts)[: own.n])
        Sgd(kernels.select("cpu"), state.learning).solve(state.model, side, rows.astype(np.int32))
        assert np.abs(gradient(state, side)).max(initial=0.0) < 1e-3


def gradient(state, side):
    """Return the objective's gradient by the side's factors, over the ratings held."""
    model, penalty = state.model, state.learning.penalty(state.model.level)
    users, items, ratings, _ = model.ratings.entries()
    kept = ~np.isnan(ratings)
    users, items, ratings = users[kept], items[kept], ratings[kept].astype(np.float64)
    u, b, v, c = (parameters.astype(np.float64) for parameters in model.parameters())
    errors = ratings - model.level.intercept - b[users] - c[items] - (u[users] * v[items]).sum(axis=1)
    own, other, rows, others, weight = (u, v, users, items, penalty.user) if side == USERS else (v, u, items, users, penalty.item)
    slope = weight * own
    np.subtract.at(slope, rows, errors[:, None] * other[others])
    return slope


def test_categories_stay_as_they_were_when_the_history_began():
    stars = ["model.loss=ordinal", "model.rating_min=1"]
    world = World()
    world.write([rate("u", "i")])
    live(world, settings_of(*stars, "model.rating_max=5"))
    with pytest.raises(CheckpointMismatch, match=r"model\.rating_max = 5\.0, the settings say 10\.0"):
        live(world, settings_of(*stars, "model.rating_max=10"))
    live(world, settings_of(*stars, "model.rating_max=5"))
