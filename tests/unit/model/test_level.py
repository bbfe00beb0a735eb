"""Level and spread: estimates that no way of cutting the stream changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.model.level import SETTLED_AFTER, Level

ratings = st.lists(st.floats(-1000, 1000, width=32), max_size=60)


KINDS = {
    "squared": {},
    "logistic": {"lowest": 0.0, "highest": 1.0},
    "poisson": {"lowest": 0.0, "highest": None},
    "ordinal": {"lowest": 1.0, "highest": 3.0, "step": 0.5},
}


def levelled(ratings, sizes, level=None):
    level = level or Level()
    rest = np.array(ratings, np.float32)
    while len(rest):
        n = min(next(sizes), level.until_next() or len(rest))
        level.clip(rest[:n], rest[:n])
        level.add(rest[:n])
        rest = rest[n:]
    return level


@given(ratings, st.integers(1, 9))
def test_batches_cut_differently_give_the_same_level(ratings, size):
    def forever(n):
        while True:
            yield n

    assert levelled(ratings, forever(size)) == levelled(ratings, forever(1))


@given(st.floats(-1000, 1000, width=32))
def test_equal_ratings_have_a_spread_that_can_be_divided_by(rating):
    level = Level()
    for _ in range(5):
        level.add(np.array([rating], np.float32))
    assert level.intercept == pytest.approx(rating)
    assert level.spread > 0


def test_estimates_end_after_the_first_ten_thousand():
    level = Level()
    n = 0
    while not level.settled:
        due = level.until_next()
        level.add(np.full(due, 3.0, np.float32))
        n += due
    assert n == SETTLED_AFTER
    level.add(np.full(100, 9.0, np.float32))
    assert level.intercept == 3.0


def test_a_prediction_is_clipped_to_what_was_known_before_its_rating():
    level = Level()
    ratings = np.array([2, 4, 9, np.nan, 3], np.float32)
    predictions = np.array([7, 5, 1, np.nan, 20], np.float32)
    clipped = ratings - level.clip(ratings, ratings - predictions)
    np.testing.assert_array_equal(clipped, [7, 2, 2, np.nan, 9])
    assert (level.lowest, level.highest) == (2, 9)
    assert Level.of_range(1.0, 5.0).intercept == 3.0


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shift", [0, 9_990])
def test_every_loss_has_a_level_that_no_cut_changes(name, shift):
    random = np.random.default_rng(4)
    kind = {"lowest": None, "highest": None, **KINDS[name]}
    draw = {"logistic": lambda n: random.integers(0, 2, n), "poisson": lambda n: random.poisson(2, n)}
    values = draw.get(name, lambda n: 1 + random.integers(0, 5, n) / 2)(shift + 2_500).astype(np.float32)
    levels = []
    for size in (5_000, 7):
        level = Level.of_range(kind.pop("lowest", None), kind.pop("highest", None), loss_name=name, **kind)
        kind = {"lowest": None, "highest": None, **KINDS[name]}
        rest = values
        while len(rest):
            n = min(size, level.until_next() or len(rest))
            level.follow(rest[:n], np.linspace(-1, 1, n))
            level.add(rest[:n])
            rest = rest[n:]
        levels.append(level)
    assert levels[0].until_next() == levels[1].until_next()
    assert (levels[0].intercept, levels[0].spread, levels[0].counts) == (levels[1].intercept, levels[1].spread, levels[1].counts)
    prediction = levels[0].predictions(np.array([levels[0].intercept]))[0]
    assert prediction == pytest.approx(values[:10_000].mean(), rel=0.05)
