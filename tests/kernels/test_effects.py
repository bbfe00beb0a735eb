"""Laws of prior means from the rows met (`Kernels.meet`, `recall`, `attribute`), and of rows held to them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.kernels import available_kernels
from factorstream.worker.kernels.api import Objective, Penalty, Rates
from factorstream.worker.kernels.effects import CAUTION, Effects, Pull
from tests.kernels.problems import batch_of, copied, few, histories_of, problems, side, slice_of, sparing

REFERENCE = available_kernels()[0]
every_kernel = pytest.mark.parametrize("kernels", available_kernels(), ids=lambda kernels: kernels.name)
every_other = pytest.mark.parametrize("kernels", available_kernels()[1:], ids=lambda kernels: kernels.name)
PULL = Pull(2.0, 1.5, 3.0, 4.0)


class World:
    """Who met whom."""

    def __init__(self, seed, *, rank=None, n_users=7, n_items=12, n_events=50):
        rng = np.random.default_rng(seed)
        self.rank = rank or int(rng.integers(1, 40))
        self.users, self.items = side(rng, n_users, self.rank), side(rng, n_items, self.rank)
        self.effects = tuple(Effects(*rng.normal(0, 0.1, (2, n, self.rank + 1)).astype(np.float32)) for n in (n_users, n_items))
        rows = rng.integers(0, n_users, n_events).tolist(), rng.integers(0, n_items, n_events).tolist()
        events = [(n, m, 1.0) for n, m in zip(*rows, strict=True)]
        self.batch = batch_of(events, 0)
        self.changes = np.array([pair not in events[:j] for j, pair in enumerate(events)], np.int8)
        held = sorted({(n, m) for n, m, _ in events})
        self.of_users = histories_of([[(m, float(rng.normal())) for user, m in held if user == n] for n in range(n_users)])
        self.user_counts = np.diff(self.of_users.starts).astype(np.int32)
        self.item_counts = np.bincount([m for _, m in held], minlength=n_items).astype(np.int32)

    def copies(self):
        return tuple(Effects(*(table.copy() for table in effects)) for effects in self.effects)

    def recall(self, kernels, users, items):
        rows = np.arange(len(users.said), dtype=np.int32)
        return kernels.recall(users, items, rows, self.of_users)

    def attribute(self, kernels, users, items, *, items_side=None):
        rows = np.arange(len(users.said), dtype=np.int32)
        kernels.attribute(users, items, items_side or self.items, rows, self.of_users, self.item_counts, PULL)


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@every_other
@given(seed=st.integers(0, 2**32))
@sparing
def test_kernels_agree_with_the_reference(kernels, seed):
    world, outcomes = World(seed, n_events=few(kernels, 50, 15)), []
    for one in (kernels, REFERENCE):
        users, items = world.copies()
        met = one.meet(users, items, world.batch, world.changes)
        recalled = world.recall(one, users, items)
        world.attribute(one, users, items)
        outcomes.append((*met, recalled, *users, *items))
    assert_close(*outcomes)


@every_kernel
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 50), max_size=4))
@sparing
def test_a_batch_means_the_same_however_it_is_cut(kernels, seed, cuts):
    n = few(kernels, 50, 15)
    world = World(seed, n_events=n)
    whole, cut = world.copies(), world.copies()
    expected = kernels.meet(*whole, world.batch, world.changes)
    parts = [
        kernels.meet(*cut, slice_of(world.batch, begin, end), world.changes[begin:end])
        for begin, end in itertools.pairwise(sorted({0, n, *(min(cut, n) for cut in cuts)}))
    ]
    found = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    for one, other in zip((*found, *cut[0], *cut[1]), (*expected, *whole[0], *whole[1]), strict=True):
        assert one.tobytes() == other.tobytes()


@every_kernel
def test_what_is_summed_anew_is_what_was_summed(kernels):
    world = World(1)
    users, items = world.copies()
    users.told[:] = items.told[:] = 0
    kernels.meet(users, items, world.batch, world.changes)
    told = users.told.copy()
    means = world.recall(kernels, users, items)
    np.testing.assert_allclose(users.told, told, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(means, told / np.sqrt(world.user_counts + CAUTION)[:, None], rtol=1e-4, atol=1e-5)


@every_kernel
def test_who_was_met_and_is_met_no_longer_says_nothing(kernels):
    world = World(2)
    users, items = world.copies()
    kernels.meet(users, items, world.batch, world.changes)
    kernels.meet(users, items, world.batch, -world.changes)
    assert_close((*users, *items), (*world.effects[0], *world.effects[1]))


@every_kernel
def test_effects_are_a_ridge_regression(kernels):
    """Users' effects on items: found one at a time, again and again, they are the solution for all at once."""
    world = World(3, rank=4)
    users, items = world.copies()
    users.said[:] = 0
    items.told[:] = 0
    for _ in range(12):
        world.attribute(kernels, users, items)
    met = np.zeros((len(items.said), len(users.said)))
    met[world.of_users.others, np.repeat(np.arange(len(users.said)), world.user_counts)] = 1
    design = met / np.sqrt(world.item_counts + CAUTION)[:, None]
    for k in range(5):
        weight, ridge = (PULL.factors, PULL.factor_ridge) if k < 4 else (PULL.biases, PULL.bias_ridge)
        target = world.items.factors[:, k] if k < 4 else world.items.biases
        expected = np.linalg.solve(weight * design.T @ design + ridge * np.eye(len(users.said)), weight * design.T @ target)
        np.testing.assert_allclose(users.said[:, k], expected, rtol=1e-3, atol=1e-4)


@every_kernel
def test_a_diverged_row_has_no_effect(kernels):
    world = World(4)
    users, items = world.copies()
    bad = copied(world.items)
    bad.factors[0] = np.nan
    world.attribute(kernels, users, items, items_side=bad)
    assert all(np.isfinite(table).all() for table in (*users, *items))


def with_means(problem, seed):
    """Return the events of *problem* with prior means."""
    rng = np.random.default_rng(seed)
    rank = problem.users.factors.shape[1]
    means = rng.normal(0, 0.2, (2, len(problem.events), rank + 1)).astype(np.float32)
    return batch_of(problem.events, problem.fold_in)._replace(user_means=means[0], item_means=means[1])


def learned(kernels, problem, batch):
    users, items = copied(problem.users), copied(problem.items)
    objective = Objective(problem.objective.penalty._replace(weighted=False))
    scored = kernels.sgd(users, items, batch, intercept=problem.intercept, objective=objective, rates=problem.rates)
    return *users, *items, *scored


@every_other
@given(problems(), st.integers(0, 2**32))
@sparing
def test_kernels_hold_rows_to_their_means_as_the_reference_does(kernels, problem, seed):
    batch = with_means(problem, seed)
    for one, other in zip(learned(kernels, problem, batch), learned(REFERENCE, problem, batch), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@every_kernel
@pytest.mark.parametrize("fold_in", [0, 50])
def test_without_a_rating_that_speaks_a_row_goes_to_its_mean(kernels, fold_in):
    """Whatever is predicted exactly: only λ moves the rows."""
    rng = np.random.default_rng(5)
    users, items = side(rng, 1, 4), side(rng, 1, 4)
    items.factors[:] = 0
    means = rng.normal(0, 1, (2, 1, 5)).astype(np.float32)
    strong = Objective(Penalty(1e6, 1e6, 1e6, False))
    for _ in range(2):
        rating = 3.0 + float(users.biases[0] + items.biases[0])
        batch = batch_of([(0, 0, rating)], fold_in)._replace(user_means=means[0], item_means=means[1])
        kernels.sgd(users, items, batch, intercept=3.0, objective=strong, rates=Rates(0.1, 0.1, 0.0))
        items.factors[:] = 0
    np.testing.assert_allclose(users.factors[0], means[0, 0, :-1], atol=1e-3)
    np.testing.assert_allclose(users.biases[0], means[0, 0, -1], atol=1e-3)
