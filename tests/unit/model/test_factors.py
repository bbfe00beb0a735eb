"""One side's parameters: what kernels get, and what a checkpoint brings back."""

import numpy as np
import pytest

from factorstream.worker import kernels
from factorstream.worker.kernels.api import Batch, Histories, Objective, Penalty, Rates
from factorstream.worker.model.factors import Factors

NONE = Histories(np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


@pytest.mark.parametrize("rank", [1, 2, 8, 16, 64])
def test_a_step_changes_the_rows_it_is_about_and_no_other(rank):
    users, items, learner = Factors(rank, seed=0, stream=0), Factors(rank, seed=0, stream=1), kernels.select("cpu")
    users.grow(7, learner, 0.1)
    items.grow(20, learner, 0.1)
    before = [(side.factors.copy(), side.biases.copy()) for side in (users, items)]
    ones = np.array([9], np.int32)
    batch = Batch(np.array([5], np.int32), np.array([15], np.int32), np.array([3], np.float32), ones, ones, NONE, NONE)
    learner.sgd(
        users.side,
        items.side,
        batch,
        intercept=0.0,
        objective=Objective(Penalty(0.1, 0.1, 0.1, False)),
        rates=Rates(0.1, 0.1, 0.0),
    )
    for side, row, (factors, biases) in zip((users, items), (5, 15), before, strict=True):
        assert len(side.side.factors) == len(side.side.biases)
        assert np.flatnonzero((side.factors != factors).any(axis=1)).tolist() == [row]
        assert (side.factors != factors)[row].all()
        assert np.flatnonzero(side.biases != biases).tolist() == [row]


def test_what_a_checkpoint_holds_comes_back():
    side = Factors(3, seed=0, stream=0)
    side.restore(np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2], np.float32))
    assert side.n == 2
    assert side.factors.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert side.biases.tolist() == [1, 2]
