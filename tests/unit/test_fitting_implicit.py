"""Clicks fitted from a whole history: the objective over all pairs is lowered, and a worker can go on from what was fitted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker import fitting, kernels
from factorstream.worker.config import load
from factorstream.worker.errors import UserMistake
from factorstream.worker.evaluation import check_ratings
from factorstream.worker.fitting.ranking import of_places, places
from factorstream.worker.learn.implicit import memory_of, penalties_of
from factorstream.worker.learn.learner import Learner, new_model
from factorstream.worker.model.journal import Events
from factorstream.worker.model.model import ITEMS, USERS
from factorstream.worker.wiring import learning_of

CPU = kernels.select("cpu")


def told(*assignments):
    return learning_of(load(None, ["model.loss=implicit", *assignments], {}))


@st.composite
def clicks(draw):
    """Return a matrix of strengths, NaN where nothing is held; some are held and 0."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    return np.where(rng.random(shape) < draw(st.sampled_from([0.1, 0.6, 1.0])), rng.integers(0, 4, shape), np.nan)


def prepared(strengths, learning, rank):
    users, items = (side.astype(np.int32) for side in np.nonzero(~np.isnan(strengths)))
    ratings = strengths[users, items].astype(np.float32)
    columns = (users, items, ratings, np.zeros(len(users), np.int64))
    model = new_model(learning, rank, 1)
    fitting.prepare(model, fitting.last_writes(*columns, n_users=len(strengths), n_items=strengths.shape[1]), CPU, learning)
    return model


def written_out(strengths, model, learning):
    """Return the objective with a term for every pair of a user and an item that hold ratings."""
    held = ~np.isnan(strengths)
    strengths = np.nan_to_num(strengths)[held.any(1)][:, held.any(0)]
    p = model.users.factors[held.any(1)].astype(np.float64)
    q = model.items.factors[held.any(0)].astype(np.float64)
    confidences = 1 + learning.alpha * strengths
    norms, largest = 0.0, model.ratings.item_counts.max()
    for side, factors, sums in ((USERS, p, strengths.sum(1)), (ITEMS, q, strengths.sum(0))):
        norms += penalties_of(learning, side, sums, strengths.shape[1 - side], largest) @ (factors**2).sum(1)
    return 0.5 * ((confidences * ((strengths > 0) - p @ q.T) ** 2).sum() + norms)


@given(clicks(), st.booleans(), st.integers(1, 4), st.sampled_from([None, 0.01, 2.0]))
def test_iterations_never_raise_the_objective_over_all_pairs(strengths, weighted, rank, penalty):
    if np.isnan(strengths).all():
        strengths[0, 0] = 1
    penalties = [f"als.lambda_user={penalty}", f"als.lambda_item={2 * penalty}"] if penalty else []
    learning = told(*penalties, "implicit.alpha=3", f"als.weighted={weighted}")
    model = prepared(strengths, learning, rank)
    values = [fitting.objective(model, learning)]
    for step in fitting.fit(model, CPU, learning, method="als", n_iterations=4, seed=0):
        values.append(step.objective)
        assert step.objective == pytest.approx(written_out(strengths, model, learning), rel=1e-9)
    assert (np.diff(values) <= 1e-4 * (1 + values[0])).all()
    assert model.level.intercept == 0
    assert not model.users.biases.any()


def test_ids_without_clicks_are_learned_when_they_come_after_a_fit():
    learning = told("sweep.visits_per_rating=0", "als.lambda_user=0.1", "als.lambda_item=0.1")
    strengths = np.full((4, 5), np.nan)
    strengths[:2, :2] = 1
    model = prepared(strengths, learning, 3)
    for _ in fitting.fit(model, CPU, learning, method="als", n_iterations=2, seed=0):
        pass
    model.n_accepted = model.ratings.n_ratings
    n = 200
    rows = np.arange(n, dtype=np.int32)
    events = Events(np.zeros(n, np.uint8), 2 + rows % 2, 3 + rows % 2, np.ones(n, np.float32), 10 + np.arange(n))
    for _ in Learner(CPU, learning).learn(model, events):
        pass
    assert model.score(2, 3) > 0.3
    assert memory_of(model).due[0] > model.n_accepted


def test_places_count_what_scores_at_least_as_high_among_items_not_met():
    known = fitting.last_writes(
        np.zeros(2, np.int32), np.array([0, 4], np.int32), np.ones(2, np.float32), np.zeros(2, np.int64), n_users=1, n_items=6
    )
    items = np.array([[9.0], [3.0], [5.0], [3.0], [8.0], [1.0]], np.float32)
    tested = np.array([2, 1, 3, 5], np.int32)
    found = places(np.ones((1, 1), np.float32), items, known, np.zeros(4, np.int32), tested)
    assert found.tolist() == [0, 2, 2, 3]
    ranked = of_places(np.array([0, 2, 10]))
    assert ranked.recall_at_10 == pytest.approx(2 / 3)
    assert ranked.ndcg_at_10 == pytest.approx((1 + 0.5) / 3)


def test_a_file_with_negative_strengths_is_refused_with_the_value():
    with pytest.raises(UserMistake, match=r"-2, .* at least 0"):
        check_ratings(told(), told().first_level((None, None)), np.array([1.0, -2.0], np.float32))
    squared = learning_of(load(None, [], {}))
    check_ratings(squared, squared.first_level((None, None)), np.array([1.0, -2.0], np.float32))


def test_a_penalty_that_is_not_set_leaves_something_to_learn_and_a_weighted_one_goes_with_confidence():
    strengths = np.array([0.0, 4.0])
    learning = told("implicit.alpha=2")
    for largest in (1, 100, 10_000):
        assert (penalties_of(learning, USERS, strengths, 100, largest) < 3 * largest**0.5).all()
    assert penalties_of(told("als.lambda_user=3"), USERS, strengths, 100, 5).tolist() == [3, 3]
    weighted = told("als.weighted=true", "als.lambda_item=0.1", "implicit.alpha=2")
    assert penalties_of(weighted, ITEMS, strengths, 100, 5) == pytest.approx([10, 10.8])
