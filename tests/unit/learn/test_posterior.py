"""The learner whose rows are Gaussian posteriors, on models of its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker import kernels
from factorstream.worker.config import load
from factorstream.worker.evaluation import evaluate
from factorstream.worker.learn.learner import Learner, new_model
from factorstream.worker.learn.posterior import Estimates, estimated, growth, remembered
from factorstream.worker.model.journal import Events, Kind
from factorstream.worker.model.model import ITEMS, USERS
from factorstream.worker.wiring import learning_of


def learner_of(*assignments):
    chosen = load(None, ["model.learner=posterior", "model.rank=3", "model.calibrate=false", *assignments], {})
    return Learner(kernels.select("cpu"), learning_of(chosen)), chosen


def learned(events, *assignments):
    learner, chosen = learner_of(*assignments)
    model = new_model(learner.learning, chosen.model.rank, chosen.model.seed)
    for _ in learner.learn(model, events):
        pass
    return learner, model


def events_of(entries):
    kinds, users, items, ratings = (np.array(column) for column in zip(*entries, strict=True))
    return Events(
        kinds.astype(np.uint8),
        users.astype(np.int32),
        items.astype(np.int32),
        ratings.astype(np.float32),
        np.arange(len(kinds), dtype=np.int64) + 1,
    )


def entries(max_size=40):
    """Ratings, now and then one taken back, or a user or an item forgotten."""
    rows, ratings = st.integers(0, 4), st.sampled_from([1.0, 2.0, 5.0])
    rate = st.tuples(st.just(Kind.RATE), rows, rows, ratings)
    unrate = st.tuples(st.just(Kind.UNRATE), rows, rows, st.just(np.nan))
    forget = st.tuples(st.sampled_from([Kind.FORGET_USER, Kind.REMOVE_ITEM]), rows, rows, st.just(np.nan))
    return st.lists(st.one_of(rate, rate, rate, rate, rate, unrate, forget), min_size=1, max_size=max_size)


@given(entries())
@settings(max_examples=40, deadline=None)
def test_rows_know_each_rating_that_they_hold_once_however_often_it_changed(log):
    _, model = learned(events_of(log), "sweep.visits_per_rating=0")
    rank, part = model.rank, remembered(model)
    for side, counts in ((USERS, model.ratings.user_counts), (ITEMS, model.ratings.item_counts)):
        equations = part.tables()["users.equations" if side == USERS else "items.equations"]
        ratings_known = equations[:, (rank + 1) * (rank + 2) // 2 - 1]
        np.testing.assert_array_equal(ratings_known, counts[: len(ratings_known)])


@pytest.mark.parametrize("unit", [1e-3, 0.1, 100.0])
def test_ratings_in_another_unit_are_predicted_as_well_in_that_unit(unit):
    """About as well: before the very first no unit is known."""
    random = np.random.default_rng(0)
    users, items = random.integers(0, 40, 3000), random.integers(0, 60, 3000)
    taste, kind = random.normal(size=(40, 2)), random.normal(size=(60, 2))
    ratings = 3 + (taste[users] * kind[items]).sum(1) + random.normal(0, 0.5, 3000)
    times, kinds = np.arange(3000) + 1, np.zeros(3000, np.uint8)
    found = []
    for scale in (1.0, unit):
        learner, chosen = learner_of()
        model = new_model(learner.learning, chosen.model.rank, 0)
        columns = users.astype(np.int32), items.astype(np.int32), (ratings * scale).astype(np.float32), times
        found.append(evaluate(learner, model, Events(kinds, *columns)).rmse / scale)
    assert found[1] == pytest.approx(found[0], rel=0.06)


def test_what_it_remembers_is_what_its_tables_say():
    events = events_of([(Kind.RATE, n % 7, n % 11, float(n % 5)) for n in range(60)])
    learner, model = learned(events)
    copy = new_model(learner.learning, model.rank, 0)
    remembered(copy).restore({name: table.copy() for name, table in remembered(model).tables().items()})
    for name, table in remembered(model).tables().items():
        np.testing.assert_array_equal(remembered(copy).tables()[name], table)


def test_a_sweep_without_ratings_leaves_the_estimates_where_they_begin():
    first = Estimates.first()
    after = estimated(first, np.zeros((2, 10)), np.zeros(2), 1.0, 8)
    for now, then in zip(after, first, strict=True):
        np.testing.assert_allclose(now, then)


def test_estimates_stay_within_bounds_whatever_a_sweep_says():
    sums = np.full((2, 10), 1e12)
    sums[:, 5:] = 1.0
    after = estimated(Estimates.first(), sums * [[1], [1e6]], np.array([1e9, 1.0]), 2.0, 8)
    assert all(np.isfinite(value).all() for value in after)
    assert after.noise <= 2
    assert after.surprise <= 4


@given(st.tuples(st.floats(0, 1e6), st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(0, 1e6)))
def test_variances_of_factors_grow_at_most_twofold(products):
    assert 1 <= growth(np.array(products)) <= 2


def test_variances_of_factors_grow_while_errors_surely_go_along_with_products():
    """Sums over 10,000 ratings whose errors have a variance of 1, with products of a tenth of that deviation."""
    assert growth(np.array([10_000, 50.0, 100.0, 10_000.0])) > 1.25
    assert growth(np.array([10_000, 20.0, 100.0, 10_000.0])) == 1  # two standard errors
    assert growth(np.array([10_000, -50.0, 100.0, 10_000.0])) == 1
    assert growth(np.array([999, 50.0, 100.0, 999.0])) == 1


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1e3])
def test_ratings_of_any_spread_are_learned(spread):
    random = np.random.default_rng(0)
    log = [(Kind.RATE, random.integers(9), random.integers(9), 3.0 + spread * random.normal()) for _ in range(400)]
    _, model = learned(events_of(log))
    assert all(np.isfinite(parameters).all() for parameters in model.parameters())
    assert model.score(0, 0) == pytest.approx(3.0, abs=4 * spread or 0.1)
