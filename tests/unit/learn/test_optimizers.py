"""What optimizers remember of rows: their own alone, and nothing of a row that was forgotten."""

import itertools

import numpy as np
import pytest

from factorstream.worker.config import load
from factorstream.worker.learn.learner import adopt
from factorstream.worker.model.journal import Events, Kind
from factorstream.worker.wiring import fresh_model, learner_of, learning_of

OPTIMIZERS = ("momentum", "adagrad", "adam")


def settings_of(optimizer):
    return load(None, ["model.rank=3", "sgd.fold_in=0", f"sgd.optimizer={optimizer}"], {})


def events_of(seed, n=300):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 8, (2, n)).astype(np.int32)
    return Events(np.full(n, Kind.RATE, np.uint8), *rows, rng.integers(1, 6, n).astype(np.float32), 1000 * seed + np.arange(n))


def learn(settings, model, events):
    for _ in learner_of(settings).learn(model, events):
        pass
    return model


def tables_of(model):
    return {name: table for name, table in model.tables().items() if name.startswith("optimizer")}


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(OPTIMIZERS, 2)))
def test_another_optimizer_begins_without_what_the_one_before_remembered(before, after):
    model = learn(settings_of(before), fresh_model(settings_of(before)), events_of(1))
    assert any(table.any() for table in tables_of(model).values())
    adopt(learning_of(settings_of(after)), model)
    assert not any(table.any() for table in tables_of(model).values())
    learn(settings_of(after), model, events_of(2))
    same = fresh_model(settings_of(after))
    learn(settings_of(after), same, events_of(1))
    assert {name: table.shape for name, table in tables_of(model).items()} == {
        name: table.shape for name, table in tables_of(same).items()
    }
    assert all(np.isfinite(parameters).all() for parameters in model.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("kind", "side"), [(Kind.FORGET_USER, "users"), (Kind.REMOVE_ITEM, "items")])
def test_nothing_is_remembered_of_a_row_that_was_forgotten(optimizer, kind, side):
    settings = settings_of(optimizer)
    model = learn(settings, fresh_model(settings), events_of(1))
    forgetting = Events(
        np.array([kind], np.uint8), *np.array([[2], [2]], np.int32), np.array([np.nan], np.float32), np.array([10_000])
    )
    learn(settings, model, forgetting)
    own = {name: table for name, table in tables_of(model).items() if f".{side}." in name}
    assert own
    assert not any(table[2].any() for table in own.values())
    assert all(table[3].any() for table in own.values()), "others go on"
