"""What the calibrator publishes, forgets and survives."""

import numpy as np
import pytest

from factorstream.worker import kernels
from factorstream.worker.config import load
from factorstream.worker.kernels import terms
from factorstream.worker.kernels.api import Scored
from factorstream.worker.learn.calibrator import part_of, published, published_variances
from factorstream.worker.learn.learner import adopt
from factorstream.worker.learn.sgd import batch_of
from factorstream.worker.model.journal import Events, Kind
from factorstream.worker.model.model import ITEMS, USERS, Model
from factorstream.worker.model.ratings import Accepted
from factorstream.worker.wiring import fresh_model, learner_of

SETTINGS = load(None, ["model.rank=3", "model.seed=1"], {})
START_MS = 1_600_000_000_000


def events(seed, n, n_users=20, n_items=30):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, n_users, n), rng.integers(0, n_items, n)
    moods = np.repeat(rng.normal(0, 1, n // 10 + 1), 10)[:n]
    ratings = 3 + moods + 0.5 * np.sin(users) + np.cos(items) + rng.normal(0, 0.3, n)
    times = START_MS + np.arange(n) * 40_000
    columns = users.astype(np.int32), items.astype(np.int32), ratings.astype(np.float32), times
    return Events(np.full(n, Kind.RATE, np.uint8), *columns)


def learned(*streams):
    model, learner = fresh_model(SETTINGS), learner_of(SETTINGS)
    for stream in streams:
        for _ in learner.learn(model, stream):
            pass
    return model, learner


def test_readers_get_the_calibrated_score_but_for_the_users_session():
    model, learner = learned(events(1, 3000))
    rule, part = learner.rule, part_of(model)
    users, items = np.arange(20, dtype=np.int32), np.arange(20, dtype=np.int32) + 5
    scored, accepted = asked(model, users, items)
    (u, b), (v, c) = (rule.readout(model, side, rows.astype(np.int64)) for side, rows in ((USERS, users), (ITEMS, items)))
    predictions = (u * v).sum(axis=1) + b + c
    for j in range(20):  # one at a time: each learns, and the memory is shared
        one = part.memory._replace(**{name: np.array(table) for name, table in part.tables().items()})
        one.users[:, : terms.U_LAGGED] = 0  # no session
        single = slice(j, j + 1)
        event = batch_of(accepted)
        event = event._replace(**{name: getattr(event, name)[single] for name in event._fields[:5]})
        errors = kernels.select("cpu").calibrate(
            one, Scored(*(column[single] for column in scored)), event, accepted.timestamps_ms[single], spread=model.level.spread
        )
        assert -errors[0] == pytest.approx(predictions[j], abs=1e-4)  # the rating is the intercept: the error is minus the rest


def test_variances_are_scaled_as_the_numbers_are():
    chosen = load(None, ["model.rank=3", "model.learner=posterior"], {})
    model, learner = fresh_model(chosen), learner_of(chosen)
    for _ in learner.learn(model, events(1, 2000)):
        pass
    rows = np.arange(20)
    part_of(model).memory.items[rows] = 0  # no last hours, of which an item's bias is a part
    for side, own in ((USERS, model.users), (ITEMS, model.items)):
        u, b = own.factors[rows], own.biases[rows]
        scaled, shifted = published(model, side, rows, u, b)
        factors, biases = published_variances(model, side, rows, u**2, b**2)
        np.testing.assert_allclose(factors, scaled**2, rtol=1e-4)
        shift = published(model, side, rows, u, np.zeros_like(b))[1]
        np.testing.assert_allclose(biases, (shifted - shift) ** 2, rtol=1e-3, atol=1e-5)


def asked(model, users, items):
    """Return what a rating equal to the intercept, of each pair, would be predicted from, now; counts include it."""
    u, b, v, c = model.parameters()
    products = (u[users] * v[items]).sum(axis=1)
    scored = Scored(-(b[users] + c[items] + products), b[users], c[items], products)
    n, counts = len(users), model.ratings
    empty = counts.histories_of_users(np.empty(0, np.int32))
    times = np.full(n, part_of(model).memory.newest_ms[0])
    columns = users, items, np.full(n, model.level.intercept, np.float32), times
    held = counts.user_counts[users] + 1, counts.item_counts[items] + 1
    return scored, Accepted(n, np.arange(n), *columns, *held, np.ones(n, np.int8), empty, empty)


def test_a_forgotten_user_leaves_no_session():
    stream = events(2, 500)
    columns = ((Kind.FORGET_USER, "u1"), (3, "i4"), (-1, "i4"), (np.nan, "f4"), (START_MS + 10**9, "i8"))
    forget = Events(*(np.array([value], kind) for value, kind in columns))
    model, _ = learned(stream, forget)
    memory = part_of(model).memory
    assert memory.users[4].any()
    assert not memory.users[3].any()
    assert not memory.user_ms[3]


def test_a_calibrator_switched_on_later_begins_with_the_score_as_it_is():
    plain = load(None, ["model.rank=3", "model.calibrate=false"], {})
    model, learner = fresh_model(plain), learner_of(plain)
    for _ in learner.learn(model, events(3, 200)):
        pass
    assert "calibrator" not in model.parts
    switched = learner_of(SETTINGS)
    adopt(switched.learning, model)
    rows = np.arange(5)
    factors, biases = switched.rule.readout(model, USERS, rows)
    np.testing.assert_array_equal(factors, model.users.factors[rows])
    np.testing.assert_array_equal(biases, model.users.biases[rows])


def test_what_is_restored_goes_on_with_the_same_bits():
    first, second = events(4, 700), events(5, 300)
    model, learner = learned(first)
    tables = {name: np.array(table) for name, table in part_of(model).tables().items()}
    for _ in learner.learn(model, second):
        pass
    other, learner = learned(first)
    part_of(other).restore(tables)
    for _ in learner.learn(other, second):
        pass
    assert isinstance(other, Model)
    assert other.state_hash() == model.state_hash()
