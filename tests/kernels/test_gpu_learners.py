"""Learners whose tables are on a device learn what they learn on the processor: in the stream, in sweeps, and when forgetting."""

import numpy as np
import pytest

from factorstream.worker.config import load
from factorstream.worker.kernels import cpu, gpu, gpu_tables
from factorstream.worker.learn.learner import Learner, new_model
from factorstream.worker.model.journal import Events, Kind
from factorstream.worker.wiring import learning_of

LEARNERS = {
    "posterior": ["model.learner=posterior", "sweep.visits_per_rating=0"],
    "sgd": ["sgd.fold_in=0", "sweep.visits_per_rating=0"],
}


def events_of(entries):
    users, items, ratings = (np.array(column) for column in zip(*entries, strict=True))
    kinds = np.where(np.isnan(ratings), np.uint8(Kind.UNRATE), np.uint8(Kind.RATE))
    return Events(kinds, users.astype(np.int32), items.astype(np.int32), ratings.astype(np.float32), np.arange(len(kinds)) + 1)


STREAM = [(0, 0, 4.0), (1, 0, 2.0), (0, 1, 5.0), (0, 0, 3.0), (1, 2, 1.0), (1, 0, np.nan)]
LATER = [(2, 1, 3.0), (0, 3, 4.0)]
FORGETTING = Events(
    np.array([Kind.FORGET_USER], np.uint8),
    np.array([0], np.int32),
    np.array([-1], np.int32),
    np.array([np.nan], np.float32),
    np.array([100]),
)


def learned(kernels, assignments):
    """Return what a model holds after a stream, a block of users and one of items, a restart, more ratings, and a forgetting."""
    learning = learning_of(load(None, [*assignments, "model.calibrate=false", "model.rank=2"], {}))
    learner, model, restarted = Learner(kernels, learning), *(new_model(learning, 2, 0) for _ in range(2))
    found = [one.errors for one in learner.learn(model, events_of(STREAM))]
    for _ in range(2):
        learner.solve_idle_block(model)
    restarted.ratings = model.ratings
    restarted.level, restarted.sweep = model.level, model.sweep
    restarted.restore({name: table.copy() for name, table in model.tables().items()})
    found += [one.errors for one in learner.learn(restarted, events_of(LATER))]
    for _ in learner.learn(restarted, FORGETTING):
        pass
    return [*found, *restarted.tables().values()]


@pytest.mark.parametrize("most_bytes", [None, 0])
@pytest.mark.parametrize("assignments", LEARNERS.values(), ids=LEARNERS)
def test_a_learner_on_a_device_learns_what_it_does_on_the_processor(monkeypatch, assignments, most_bytes):
    """Also where the device has room for nothing."""
    expected = learned(cpu, assignments)
    monkeypatch.setattr(gpu_tables, "most_bytes", most_bytes)
    for one, other in zip(learned(gpu, assignments), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
