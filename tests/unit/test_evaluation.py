"""A history evaluated piece by piece is the history evaluated at once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker.config import load
from factorstream.worker.errors import UserMistake
from factorstream.worker.evaluation import check_ratings, evaluate, evaluate_so_far, pieces
from factorstream.worker.model.journal import Events
from factorstream.worker.wiring import fresh_model, learner_of

SETTINGS = load(None, ["model.rank=3"], {})
writes = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([1.0, 2.5, 5.0]), st.integers(0, 8))


def events_of(log):
    users, items, ratings, times = zip(*sorted(log, key=lambda write: write[3]), strict=True)
    kinds = np.zeros(len(log), np.uint8)
    columns = (np.array(users, np.int32), np.array(items, np.int32), np.array(ratings, np.float32), np.array(times, np.int64))
    return Events(kinds, *columns)


@settings(max_examples=50)
@given(st.lists(writes, min_size=1, max_size=60), st.integers(1, 12))
def test_evaluating_in_pieces_is_evaluating_at_once(log, n_pieces):
    events = events_of(log)
    whole = evaluate(learner_of(SETTINGS), fresh_model(SETTINGS), events)
    *_, last = evaluate_so_far(learner_of(SETTINGS), fresh_model(SETTINGS), events, n_pieces)
    assert (last.n_ratings, last.n_sweeps) == (whole.n_ratings, whole.n_sweeps)
    assert (last.rmse, last.mae) == pytest.approx((whole.rmse, whole.mae), rel=1e-9)


@given(st.lists(writes, min_size=1, max_size=60), st.integers(1, 12))
def test_pieces_are_all_events_and_no_moment_is_in_two(log, n_pieces):
    events = events_of(log)
    parts = list(pieces(events, n_pieces))
    assert np.concatenate([part.timestamps_ms for part in parts]).tolist() == events.timestamps_ms.tolist()
    assert 1 <= len(parts) <= n_pieces
    assert all(len(part) for part in parts)
    assert all(a.timestamps_ms[-1] < b.timestamps_ms[0] for a, b in pairwise(parts))


LIKELIHOODS = {
    "logistic": (lambda x: x > 2, lambda x, prediction: -np.log(np.where(x > 0, prediction, 1 - prediction))),
    "poisson": (lambda x: x, lambda x, prediction: prediction - x * np.log(prediction)),
    "squared": (lambda x: x, lambda x, prediction: 0.5 * (x - prediction) ** 2),
}


@pytest.mark.parametrize("loss", LIKELIHOODS)
@settings(max_examples=20)
@given(log=st.lists(writes, min_size=1, max_size=30))
def test_the_loss_is_that_of_the_predictions_made_before_learning(loss, log):
    turned, likelihood = LIKELIHOODS[loss]
    chosen = load(None, ["model.rank=3", "model.calibrate=false", f"model.loss={loss}"], {})
    events = events_of([(user, item, float(turned(x)), time) for time, (user, item, x, _) in enumerate(log)])
    learned = list(learner_of(chosen).learn(fresh_model(chosen), events))
    predictions = events.ratings.astype(np.float64) - np.concatenate([part.errors for part in learned])
    found = evaluate(learner_of(chosen), fresh_model(chosen), events)
    assert found.loss == pytest.approx(np.mean(likelihood(events.ratings, predictions)), rel=1e-3, abs=1e-4)


def test_rows_without_biases_are_foreseen_from_where_they_begin():
    """Of factors that are never negative nothing else says how large a first rating is: zero is far from all of them."""
    rng = np.random.default_rng(0)
    log = [(user, user % 50, float(rng.choice([1, 4, 4, 5, 5])), user) for user in range(400)]
    chosen = load(None, ["model.nonnegative=true", "als.weighted=true"], {})
    found = evaluate(learner_of(chosen), fresh_model(chosen), events_of(log))
    assert found.rmse < 2


def test_ratings_that_a_loss_cannot_learn_are_told_by_value():
    for assignments, ratings, told in (
        (["model.loss=logistic"], [0, 1, 0.5], r"0\.5, .* 0 and 1"),
        (["model.loss=poisson"], [0, 3, -2], r"-2, .* counts"),
        (
            ["model.loss=ordinal", "model.rating_min=1", "model.rating_max=5"],
            [1, 2.5],
            r"2\.5, .* from 1\.0 to 5\.0 at steps of 1\.0",
        ),
        (["model.nonnegative=true"], [4, -1], r"-1, .*nonnegative"),
    ):
        chosen = load(None, assignments, {})
        model, learning = fresh_model(chosen), learner_of(chosen).learning
        check_ratings(learning, model.level, np.array(ratings[:-1], np.float32))
        with pytest.raises(UserMistake, match=told):
            check_ratings(learning, model.level, np.array(ratings, np.float32))
