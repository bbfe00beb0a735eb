"""Cut points between ordered categories: where they begin, how they follow, where they end."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.prediction import category_probabilities
from factorstream.worker.kernels.api import Loss
from factorstream.worker.kernels.cuts import LEAST_GAP
from factorstream.worker.model import cuts

POINTS = (-1.5, -0.4, 0.3, 1.8)


def drawn(n, seed=0, points=POINTS):
    """Return scores, and ratings 1, 1.5, … 3 with the probabilities that *points* give."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 1, n)
    below = np.cumsum(category_probabilities(scores, points), axis=1)
    return 1 + 0.5 * (random.random(n)[:, None] > below[:, :-1]).sum(1), scores


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12))
def test_at_a_score_of_zero_categories_have_the_shares_of_the_counts(counts):
    shares = (np.array(counts) + 1 / len(counts)) / (sum(counts) + 1)
    np.testing.assert_allclose(category_probabilities(np.zeros(1), cuts.of_counts(counts))[0], shares, atol=1e-9)
    assert cuts.curvature(counts) > 0


def test_derivatives_are_those_of_the_loss():
    ratings, scores = drawn(200)
    points, loss, step = np.array(POINTS), Loss("ordinal", 1.0, 0.5), 1e-5
    here = cuts.slope_of(points, loss, ratings, scores)
    for k, unit in enumerate(np.eye(4)):
        after, before = (cuts.slope_of(points + sign * step * unit, loss, ratings, scores) for sign in (1, -1))
        assert here.gradient[k] == pytest.approx((after.value - before.value) / (2 * step), rel=1e-5, abs=1e-5)
        np.testing.assert_allclose(here.hessian[k], (after.gradient - before.gradient) / (2 * step), rtol=1e-5, atol=1e-4)


def test_following_and_refitting_end_where_the_ratings_came_from():
    ratings, scores = drawn(200_000)
    begun = (-3.0, -2.0, -1.0, 0.0)
    moved = cuts.followed(begun, ratings.astype(np.float32), scores, 1.0, 0.5)
    np.testing.assert_allclose(moved, POINTS, atol=0.15)
    found = cuts.refitted(begun, lambda points: cuts.slope_of(points, Loss("ordinal", 1.0, 0.5), ratings, scores))
    np.testing.assert_allclose(found, POINTS, atol=0.03)


@given(st.lists(st.tuples(st.sampled_from([1.0, 1.5, 3.0, np.nan]), st.floats(-50, 50) | st.just(np.nan)), max_size=200))
def test_they_stay_in_order_whatever_comes(events):
    ratings, scores = np.array([x for x, _ in events], np.float32), np.array([s for _, s in events], np.float64)
    moved = POINTS
    for _ in range(20):
        moved = cuts.followed(moved, ratings, scores, 1.0, 0.5)
    assert all(above - below >= LEAST_GAP * 0.99 for below, above in itertools.pairwise(moved))
    found = cuts.refitted(moved, lambda points: cuts.slope_of(points, Loss("ordinal", 1.0, 0.5), *known(ratings, scores)))
    assert (np.diff(found) > 0).all()


def known(ratings, scores):
    kept = np.isfinite(ratings) & np.isfinite(scores)
    return ratings[kept].astype(np.float64), scores[kept]


def test_following_does_not_depend_on_how_the_ratings_are_cut():
    ratings, scores = drawn(100)
    whole = cuts.followed(POINTS, ratings.astype(np.float32), scores, 1.0, 0.5)
    parts = POINTS
    for begin, end in itertools.pairwise((0, 1, 40, 100)):
        parts = cuts.followed(parts, ratings[begin:end].astype(np.float32), scores[begin:end], 1.0, 0.5)
    assert parts == whole
