"""A history evaluated piece by piece is the history evaluated at once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker.config import load
from factorstream.worker.evaluation import evaluate, evaluate_so_far, pieces
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
