"""Everything is a function of the journal: the model can be learned again from it, bit for bit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker import kernels
from factorstream.worker.learn.learner import Learner, new_model
from factorstream.worker.wiring import learning_of
from tests.laws.strategies import logs
from tests.laws.world import World, last_of, settings_of

IDLE = ("sweep.when_idle=true", "model.rating_max=5")
LEARNERS = {
    "sgd": [],
    "posterior": ["model.learner=posterior"],
    "stars": ["model.loss=ordinal", "model.rating_min=0.5", "model.rating_step=0.5", "sgd.optimizer=adam"],
    "counts": ["model.loss=poisson", "als.l1_user=0.1", "sgd.optimizer=momentum", "sgd.schedule=inverse", "sgd.fold_in=0"],
    "parts": ["model.nonnegative=true", "sgd.optimizer=rmsprop", "sgd.fold_in=1"],
}


def replayed(journal, chosen):
    learner = Learner(kernels.select("cpu"), learning_of(chosen))
    model = new_model(learner.learning, chosen.model.rank, chosen.model.seed, chosen.model.range)
    for entries in journal:
        for _ in learner.replay(model, entries):
            pass
    return model


@pytest.mark.parametrize("learner", LEARNERS)
@given(log=logs(), crashes=st.lists(st.integers(0, 60), max_size=4), max_records=st.integers(1, 7), n_idle=st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_any_run_with_any_crashes_is_what_its_own_journal_says(learner, log, crashes, max_records, n_idle):
    chosen = settings_of(*IDLE, *LEARNERS[learner])
    world = World()
    world.write(log)
    state = last_of(world, chosen, crashes, max_records=max_records, n_turns=len(log) + n_idle)
    journal = world.folder.checkpoints[-1].journal
    assert replayed(journal, chosen).state_hash() == state.model.state_hash()
