"""``evaluate``, test-then-train in order of time, with the defaults: errors that must not grow."""

from pathlib import Path

import pytest

from factorstream.worker.config import load
from factorstream.worker.evaluation import evaluate, events_of
from factorstream.worker.history import read
from factorstream.worker.local import movielens
from factorstream.worker.wiring import fresh_model, learner_of

TWEETINGS = Path(__file__).parents[3] / "shared/data/movietweetings/ratings.dat.gz"


def rmse(path, *assignments):
    settings = load(None, list(assignments), {})
    return evaluate(learner_of(settings), fresh_model(settings), events_of(read(path))).rmse


@pytest.mark.parametrize(
    ("assignments", "at_most"),
    [((), 0.913), (("model.calibrate=false",), 0.923), (("model.calibrate=false", "model.rank=64"), 0.923)],
    ids=["calibrated", "vectors alone", "of high rank"],
)
def test_movielens(assignments, at_most):
    """River's BiasedMF: 0.948."""
    assert rmse(movielens.fetch(Path(".data/ml-100k")).ratings, *assignments) <= at_most


@pytest.mark.parametrize(
    ("assignments", "at_most"), [((), 1.556), (("model.calibrate=false",), 1.57)], ids=["calibrated", "vectors alone"]
)
def test_movietweetings(assignments, at_most):
    """River's BiasedMF: 1.625."""
    if TWEETINGS.exists():
        assert rmse(TWEETINGS, *assignments) <= at_most
