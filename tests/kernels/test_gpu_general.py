"""SGD on a device for every objective: what stays there between batches, batches full of repeats, and hard rows."""

import logging

import numpy as np
import pytest

from factorstream.worker.kernels import available_kernels, cpu, gpu, gpu_tables
from factorstream.worker.kernels.api import Objective, Optimizer, Penalty, Rates
from factorstream.worker.learn.optimizers import RowMoments
from factorstream.worker.model.model import ITEMS, USERS
from tests.kernels.objectives import LOSSES, NAMES, OPTIMIZERS, label, optimizer_for, ratings_for, side_for
from tests.kernels.problems import batch_of, copied, slice_of

REFERENCE = available_kernels()[0]
RATES, N_USERS, N_ITEMS, RANK = Rates(0.05, 0.03, 0.01, 0.2), 4, 3, 3
PENALTIES = {"l2": (0.0, False), "l1": (0.2, False), "nonnegative": (0.0, True), "l1-nonnegative": (0.2, True)}


def objective_of(name, penalty, ridge=0.3, *, weighted=False):
    lasso, nonnegative = PENALTIES[penalty]
    return Objective(Penalty(ridge, ridge, 0.1, weighted, lasso, lasso), LOSSES[name][0], nonnegative, not nonnegative)


def sides(objective, rng):
    return side_for(objective, rng, N_USERS, RANK), side_for(objective, rng, N_ITEMS, RANK)


def learn(kernels, users, items, batch, objective, optimizer):
    intercept = 0.3 if objective.biased else 0.0
    how = {"intercept": intercept, "objective": objective, "rates": RATES, "optimizer": optimizer}
    return kernels.sgd(users, items, batch, **how)


def assert_close(found, expected, tolerance=1e-4):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("objective", "optimizer", "fold_in"),
    [
        (objective_of("ordinal", "l1"), "adam", 0),
        (objective_of("poisson", "l1-nonnegative", weighted=True), "rmsprop", 0),
        (objective_of("logistic", "l2", weighted=True), "momentum", 1),
        (objective_of("squared", "nonnegative"), "adagrad", 1),
    ],
    ids=lambda one: label(one) if isinstance(one, Objective) else str(one),
)
@pytest.mark.parametrize("one_user", [True, False])
def test_what_is_held_learns_batches_full_of_repeats_as_the_reference_does(objective, optimizer, fold_in, one_user):
    """Batches kept on the device, of one user's events or half of them one item's."""
    rng = np.random.default_rng(1)
    n = 4 if fold_in else 10
    users_met = np.zeros(n, int) if one_user else rng.integers(0, N_USERS, n)
    items_met = rng.integers(0, N_ITEMS, n) if one_user else np.where(np.arange(n) % 2, 0, rng.integers(0, N_ITEMS, n))
    batch = batch_of(
        list(zip(users_met.tolist(), items_met.tolist(), ratings_for(objective, rng, n).tolist(), strict=True)), fold_in
    )
    users, items = sides(objective, rng)
    state, expected_state = (optimizer_for(optimizer, N_USERS, N_ITEMS, RANK) for _ in range(2))
    expected_users, expected_items = copied(users), copied(items)
    held = gpu.hold(users, N_USERS), gpu.hold(items, N_ITEMS), gpu.hold(state.users, N_USERS), gpu.hold(state.items, N_ITEMS)
    kept = gpu.keep(batch)
    for _ in range(1 if fold_in else 2):
        scored = learn(gpu, *held[:2], kept, objective, state._replace(users=held[2], items=held[3]))
        expected = learn(REFERENCE, expected_users, expected_items, batch, objective, expected_state)
        assert_close(scored, expected)
    assert not any(table.any() for table in state.users)
    for one in held:
        one.fetch()
    assert_close((*users, *items), (*expected_users, *expected_items))
    assert_close((*state.users, *state.items), (*expected_state.users, *expected_state.items))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", NAMES)
def test_a_fold_in_is_the_minimiser(name, penalty):
    """With more ratings than factors, and a λ that hardly holds the row."""
    objective, rng = objective_of(name, penalty, ridge=0.02), np.random.default_rng(2)
    users, items = side_for(objective, rng, 1, RANK), side_for(objective, rng, 4, RANK)
    items.factors[:] *= 3
    events = [(0, m, x) for m, x in enumerate(ratings_for(objective, rng, 4).tolist())]
    last = slice_of(batch_of(events, 4), 3, 4)
    last = last._replace(item_histories=slice_of(batch_of(events, 0), 3, 4).item_histories)
    expected_users, expected_items = copied(users), copied(items)
    learn(gpu, users, items, last, objective, Optimizer())
    learn(REFERENCE, expected_users, expected_items, last, objective, Optimizer())
    assert_close((*users, *items), (*expected_users, *expected_items))
    assert ((users.factors == 0) == (expected_users.factors == 0)).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS[1:])
def test_what_an_optimizer_remembers_is_the_models_wherever_it_is(optimizer):
    """Grown, read for a checkpoint, forgotten, restored."""
    objective, rng = objective_of("logistic", "l2"), np.random.default_rng(3)
    users, items = sides(objective, rng)
    found = []
    for kernels in (gpu, cpu):
        own, memory = (copied(users), copied(items)), RowMoments(optimizer, RANK)
        own = kernels.hold(own[0], N_USERS), kernels.hold(own[1], N_ITEMS)

        def step(events, n_users, memory, own=own, kernels=kernels):
            state = Optimizer(optimizer, 0.9, 0.99, 1e-8, *memory.on(kernels, n_users, N_ITEMS))
            learn(kernels, *own, batch_of(events, 0), objective, state)

        step([(0, 0, 1.0), (1, 0, 0.0), (0, 2, 0.0)], 2, memory)
        step([(3, 0, 1.0), (0, 1, 1.0)], 4, memory)
        memory.forget(USERS, 0)
        memory.forget(ITEMS, 2)
        step([(0, 0, 1.0)], 4, memory)
        restored = RowMoments(optimizer, RANK)
        restored.on(kernels, 1, 1)
        restored.restore({name: table.copy() for name, table in memory.tables().items()})
        step([(0, 0, 0.0)], 4, restored)
        found.append({**memory.tables(), **{f"restored.{name}": table for name, table in restored.tables().items()}})
    assert found[0].keys() == found[1].keys()
    for name, table in found[1].items():
        np.testing.assert_allclose(found[0][name], table, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("most_bytes", [6000, 600, 0])
def test_short_memory_changes_nothing_that_is_learned(monkeypatch, caplog, most_bytes):
    objective, rng = objective_of("poisson", "l2"), np.random.default_rng(4)
    users, items = sides(objective, rng)
    n = 70
    rows = rng.integers(0, N_USERS, n).tolist(), rng.integers(0, N_ITEMS, n).tolist()
    batch = batch_of(list(zip(*rows, ratings_for(objective, rng, n).tolist(), strict=True)), 0)
    state, expected_state = (optimizer_for("adam", N_USERS, N_ITEMS, RANK) for _ in range(2))
    expected_users, expected_items = copied(users), copied(items)
    expected = learn(cpu, expected_users, expected_items, batch, objective, expected_state)
    monkeypatch.setattr(gpu_tables, "most_bytes", most_bytes)
    with caplog.at_level(logging.WARNING):
        scored = learn(gpu, users, items, batch, objective, state)
    assert_close((*users, *items, *scored), (*expected_users, *expected_items, *expected))
    assert_close((*state.users, *state.items), (*expected_state.users, *expected_state.items))
    assert ("GPU" in caplog.text) == (most_bytes < 6000)
