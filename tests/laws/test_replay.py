"""Everything is a function of the journal: the model can be learned again from it, bit for bit."""

from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker import kernels
from factorstream.worker.learn.learner import Learner, new_model
from factorstream.worker.wiring import learning_of
from tests.laws.strategies import logs
from tests.laws.world import Crash, Fuse, World, settings_of, worker

IDLE = settings_of("sweep.when_idle=true", "model.rating_max=5")


def replayed(journal):
    model = new_model(learning_of(IDLE), IDLE.model.rank, IDLE.model.seed, (None, 5.0))
    learner = Learner(kernels.select("cpu"), learning_of(IDLE))
    for entries in journal:
        for _ in learner.replay(model, entries):
            pass
    return model


@given(logs(), st.lists(st.integers(0, 60), max_size=4), st.integers(1, 7), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_any_run_with_any_crashes_is_what_its_own_journal_says(log, crashes, max_records, n_idle):
    world = World()
    world.write(log)
    for length in [*crashes, None]:
        try:
            state, parts, turns = worker(world, IDLE, fuse=Fuse(length), max_records=max_records)
            for _, _ in zip(range(len(log) + n_idle), turns, strict=False):
                pass
            parts.checkpoints.begin(parts.snapshot(state))
        except Crash:
            continue
    journal = world.folder.checkpoints[-1].journal
    assert replayed(journal).state_hash() == state.model.state_hash()
