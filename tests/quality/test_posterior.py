"""`evaluate` with the learner posterior and its defaults, on two histories that its defaults must serve alike."""

from pathlib import Path

import pytest

from factorstream.worker.config import load
from factorstream.worker.evaluation import evaluate, events_of
from factorstream.worker.history import read
from factorstream.worker.local import movielens
from factorstream.worker.wiring import fresh_model, learner_of

MOVIETWEETINGS = Path(__file__).parents[3] / "shared/data/movietweetings/ratings.dat.gz"


def history_of(name):
    if name == "MovieLens-100K":
        return read(movielens.fetch(Path(".data/ml-100k")).ratings)
    if not MOVIETWEETINGS.exists():
        pytest.skip(f"{name} is not on this machine")
    return read(MOVIETWEETINGS)


@pytest.mark.parametrize(
    ("name", "calibrate", "at_most"),
    [
        ("MovieLens-100K", False, 0.926),
        ("MovieLens-100K", True, 0.905),
        ("MovieTweetings", False, 1.572),
        ("MovieTweetings", True, 1.552),
    ],
)
def test_every_rating_is_predicted_well_and_with_honest_intervals(name, calibrate, at_most):
    """River's BiasedMF: 0.948 and 1.625. Of the 90 % intervals, 88 to 92 % hold the rating."""
    settings = load(None, ["model.learner=posterior", f"model.calibrate={calibrate}"], {})
    found = evaluate(learner_of(settings), fresh_model(settings), events_of(history_of(name)))
    assert found.rmse <= at_most
    assert 0.88 <= found.coverage <= 0.92
