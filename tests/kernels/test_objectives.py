"""Laws of every objective with every optimizer and set of kernels: a new one is tested by existing."""

import itertools

import numpy as np
import pytest
from scipy.optimize import Bounds, minimize, nnls

from factorstream.worker.kernels import available_kernels, cpu
from factorstream.worker.kernels.api import Loss, Objective, Penalty, Rates, Side
from tests.kernels.objectives import LOSSES, OPTIMIZERS, label, objectives, optimizer_for, ratings_for, side_for, total
from tests.kernels.problems import batch_of, copied, few, histories_of, interpreted, slice_of, spared

REFERENCE = available_kernels()[0]
every_kernel = pytest.mark.parametrize("kernels", available_kernels(), ids=lambda kernels: kernels.name)
every_other = pytest.mark.parametrize("kernels", available_kernels()[1:], ids=lambda kernels: kernels.name)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
PAIRS = [(one, name) for i, one in enumerate(objectives()) for j, name in enumerate(OPTIMIZERS) if (i + j) % 2 == 0]
"""Each loss, penalty and constraint with each optimizer, of weighted and plain objectives in turns."""
SPARED = 10
"""Interpreted kernels take a thousand times as long: a test that solves gets one in so many of the objectives for them."""


def every_solve(kernels, turn):
    """Return a mark: *kernels* with every objective; those that are interpreted with those whose *turn* it is."""
    pairs = [
        (one, objective)
        for one in kernels
        for number, objective in enumerate(objectives())
        if not interpreted(one) or number % SPARED == turn
    ]
    names = ["-".join([one.name, label(objective)]) for one, objective in pairs]
    return pytest.mark.parametrize(("kernels", "objective"), pairs, ids=names)


def every(kernels, names, choices, *, one_in, salt=()):
    """Return a mark: *kernels* with all *choices*, tuples of *names*; those that are interpreted with one in so many of them."""

    def said(choice):
        return tuple(label(one) if isinstance(one, Objective) else one for one in choice)

    chosen = [(one, *choice) for one in kernels for choice in choices if not spared(one, *salt, *said(choice), one_in=one_in)]
    return pytest.mark.parametrize(("kernels", *names), chosen, ids=["-".join([one.name, *said(rest)]) for one, *rest in chosen])


RATES = Rates(0.05, 0.03, 0.01, 0.2)


class World:
    """A small model and ratings that *objective* is for."""

    def __init__(self, objective, *, rank=5, n_users=6, n_items=9, n_events=40, seed=0):
        rng = np.random.default_rng(seed)
        self.objective, self.rank = objective, rank
        self.users, self.items = side_for(objective, rng, n_users, rank), side_for(objective, rng, n_items, rank)
        users, items = rng.integers(0, n_users, n_events), rng.integers(0, n_items, n_events)
        self.events = list(zip(users.tolist(), items.tolist(), ratings_for(objective, rng, n_events).tolist(), strict=True))
        self.held = {(n, m): x for n, m, x in self.events}
        self.ratings = [(n, m, x) for (n, m), x in sorted(self.held.items())]
        self.intercept = 0.3 if objective.biased else 0.0

    def step(self, kernels, batch, optimizer="sgd", rates=RATES):
        """Return users, items, the optimizer's state and the errors."""
        users, items = copied(self.users), copied(self.items)
        state = optimizer_for(optimizer, len(users.biases), len(items.biases), self.rank)
        how = {"intercept": self.intercept, "objective": self.objective, "rates": rates, "optimizer": state}
        errors = kernels.sgd(users, items, batch, **how).errors
        return users, items, state, errors

    def entries(self, *, of_users):
        n_rows = len((self.users if of_users else self.items).biases)
        turned = self.ratings if of_users else sorted((m, n, x) for n, m, x in self.ratings)
        return [[(other, x) for row, other, x in turned if row == at] for at in range(n_rows)]

    def solve(self, kernels, users, items, *, of_users, rows=None):
        """Solve one side in place; return the gains."""
        own, other = (users, items) if of_users else (items, users)
        rows = np.arange(len(own.biases)) if rows is None else rows
        entries = self.entries(of_users=of_users)
        histories = histories_of([entries[row] for row in rows])
        how = {"intercept": self.intercept, "objective": self.objective, "of_users": of_users}
        return kernels.als(own, other, np.array(rows, np.int32), histories, **how)

    def total(self, users, items):
        return total(self.objective, users, items, self.ratings, self.intercept)


def world_for(kernels, objective, **how):
    """Return a world, of fewer rows for interpreted kernels."""
    return World(objective, **({"n_users": 3, "n_items": 4, "n_events": 20} if interpreted(kernels) else {}), **how)


def assert_close(found, expected, tolerance=2e-3):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@every(available_kernels()[1:], ("objective", "optimizer"), PAIRS, one_in=6)
def test_steps_agree_with_the_reference(kernels, objective, optimizer):
    for fold_in, seed, n_enough in ((0, 1, 10), (3, 2, 3)):
        world = World(objective, seed=seed, n_events=few(kernels, 25, n_enough))
        batch = batch_of([*world.events, (*world.events[0][:2], np.nan)], fold_in)
        found, expected = (world.step(one, batch, optimizer) for one in (kernels, REFERENCE))
        assert_close((*found[0], *found[1], found[3]), (*expected[0], *expected[1], expected[3]))
        assert_close((*found[2].users, *found[2].items), (*expected[2].users, *expected[2].items))


@every_solve(available_kernels()[1:], turn=8)
def test_solves_agree_with_the_reference(kernels, objective):
    for rank, seed in ((3, 1),) if interpreted(kernels) else ((3, 1), (20, 2)):
        world = world_for(kernels, objective, rank=rank, seed=seed)
        for of_users in (True, False):
            tables = [(copied(world.users), copied(world.items)) for _ in range(2)]
            gains, expected = (
                world.solve(k, *own, of_users=of_users) for k, own in zip((kernels, REFERENCE), tables, strict=True)
            )
            assert_close((*tables[0][0], *tables[0][1], gains), (*tables[1][0], *tables[1][1], expected))
            if objective.penalty.l1_user:
                assert ((tables[0][1 - of_users].factors == 0) == (tables[1][1 - of_users].factors == 0)).mean() > 0.99


@every_other
@pytest.mark.parametrize("biased", [True, False])
def test_without_a_penalty_rows_have_minimum_norm(kernels, biased):
    """Some rows have fewer ratings than factors, others more."""
    for n_events in (15, 90):
        world = World(Objective(Penalty(0.0, 0.0, 0.0, False), biased=biased), seed=16, n_events=n_events)
        tables = [copied(world.users) for _ in range(2)]
        for one, users in zip((kernels, REFERENCE), tables, strict=True):
            world.solve(one, users, world.items, of_users=True)
        assert_close(tables[0], tables[1])


@every_solve(available_kernels(), turn=3)
def test_a_sweep_lowers_the_objective_by_what_it_says(kernels, objective):
    world = world_for(kernels, objective, seed=3)
    users, items = copied(world.users), copied(world.items)
    for of_users in (True, False, True, False):
        before = world.total(users, items)
        gains = world.solve(kernels, users, items, of_users=of_users)
        assert (gains >= 0).all()
        assert before - world.total(users, items) == pytest.approx(gains.sum(), rel=1e-4, abs=1e-5 * abs(before))


@every_solve(available_kernels(), turn=4)
def test_a_solved_row_is_optimal(kernels, objective):
    """Karush, Kuhn and Tucker: no slope where a number is free, no more than κ at zero, none downhill into the constraint."""
    world = world_for(kernels, objective, seed=4)
    users, items = copied(world.users), copied(world.items)
    world.solve(kernels, users, items, of_users=True)
    ridge, lasso = objective.penalty.on(users=True)
    smooth = world_for(kernels, objective, seed=4)
    smooth.objective = objective._replace(penalty=objective.penalty._replace(l1_user=0.0, l1_item=0.0))
    for row, entry in enumerate(world.entries(of_users=True)):
        weight = len(entry) if objective.penalty.weighted else 1
        kink, close = weight * lasso, 2e-3 * (1 + ridge * weight)
        for k, number in enumerate(users.factors[row]):
            slope = slope_of(smooth, users, items, 0, (row, k))
            if number != 0:
                assert slope == pytest.approx(-kink * np.sign(number), abs=close)
            else:
                assert slope >= -kink - close
                assert objective.nonnegative or slope <= kink + close
        if objective.biased:
            assert slope_of(smooth, users, items, 1, (row,)) == pytest.approx(0, abs=close)
    assert objective.biased or not users.biases.any()
    assert not objective.nonnegative or (users.factors >= 0).all()


def slope_of(world, users, items, table, place, step=1e-4):
    """Return the derivative of *world*'s objective by a number of one table: users' factors, biases, items' factors, biases."""

    def at(change):
        tables = [np.array(values, np.float64) for values in (*users, *items)]
        tables[table][place] += change
        return world.total(Side(*tables[:2]), Side(*tables[2:]))

    return (at(step) - at(-step)) / (2 * step)


@every_kernel
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("nonnegative", [False, True])
def test_a_solved_row_is_what_scipy_finds(kernels, name, nonnegative):
    """Elastic net with and without the constraint: as ``w = a − b`` with ``a, b ≥ 0``, which is smooth."""
    objective = Objective(Penalty(0.3, 0.2, 0.1, False, 0.4, 0.1), LOSSES[name][0], nonnegative, not nonnegative)
    world = World(objective, rank=4, n_users=2, seed=5)
    users, items = copied(world.users), copied(world.items)
    world.solve(kernels, users, items, of_users=True)

    def both(w):
        tables = users.factors.astype(np.float64), users.biases.astype(np.float64)
        tables[0][0], tables[1][0] = w[:4] - w[4:8], w[8]
        return world.total(Side(*tables), items)

    limits = Bounds([0] * 8 + [-np.inf], [np.inf] * 4 + [0 if nonnegative else np.inf] * 4 + [0 if nonnegative else np.inf])
    limits.lb[8] = 0 if nonnegative else -np.inf
    best = minimize(
        both, np.full(9, 0.1) * (limits.ub > 0), method="L-BFGS-B", bounds=limits, options={"ftol": 1e-14, "gtol": 1e-9}
    )
    assert world.total(users, items) <= best.fun + 1e-6 * abs(best.fun)


@every_kernel
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_nonnegative_rows_are_what_nnls_finds(kernels, ridge):
    objective = Objective(Penalty(ridge, ridge, 0.0, False), nonnegative=True, biased=False)
    world = World(objective, rank=4, n_items=12, n_events=60, seed=6)
    users, items = copied(world.users), copied(world.items)
    world.solve(kernels, users, items, of_users=True)
    for row, entry in enumerate(world.entries(of_users=True)):
        design = items.factors[[m for m, _ in entry]].astype(np.float64)
        target = np.array([x for _, x in entry])
        best, _ = nnls(np.vstack([design, np.sqrt(ridge) * np.eye(4)]), np.append(target, np.zeros(4)))
        np.testing.assert_allclose(users.factors[row], best, rtol=1e-3, atol=1e-4)
        assert ((users.factors[row] == 0) == (best == 0)).all()


@every(available_kernels()[1:], ("objective", "optimizer"), PAIRS, one_in=16, salt=("cut",))
def test_a_batch_means_the_same_however_it_is_cut(kernels, objective, optimizer):
    world = World(objective, seed=7, n_events=few(kernels, 40))
    batch = batch_of(world.events, few(kernels, 2, 1))
    users, items, state, errors = world.step(kernels, batch, optimizer)
    other_users, other_items = copied(world.users), copied(world.items)
    other_state = optimizer_for(optimizer, len(users.biases), len(items.biases), world.rank)
    how = {"intercept": world.intercept, "objective": objective, "rates": RATES, "optimizer": other_state}
    others = [
        kernels.sgd(other_users, other_items, slice_of(batch, begin, end), **how).errors
        for begin, end in itertools.pairwise(sorted({0, 1, 2, min(17, len(errors)), len(errors)}))
    ]
    pairs = (
        (*users, *items, *state.users, *state.items, errors),
        (*other_users, *other_items, *other_state.users, *other_state.items),
    )
    for one, other in zip(pairs[0], (*pairs[1], np.concatenate(others)), strict=True):
        assert one.tobytes() == other.tobytes()


@every(available_kernels(), ("objective",), [(one,) for one in objectives()], one_in=6)
def test_the_mean_step_is_the_gradient_of_the_objective(kernels, objective):
    """Where κ and the constraint do not bend it: of numbers that stay away from zero."""
    world = World(objective, seed=8)
    user_counts = np.bincount([n for n, _, _ in world.ratings], minlength=len(world.users.biases))
    item_counts = np.bincount([m for _, m, _ in world.ratings], minlength=len(world.items.biases))
    moved, rate = [np.zeros(table.shape) for table in (*world.users, *world.items)], 1e-3
    for n, m, x in world.ratings:
        batch = batch_of([(n, m, x)], 0)._replace(
            user_counts=np.array([user_counts[n]], np.int32), item_counts=np.array([item_counts[m]], np.int32)
        )
        users, items, _, _ = world.step(kernels, batch, rates=Rates(rate, rate, 0.0))
        for sums, new, old in zip(moved, (*users, *items), (*world.users, *world.items), strict=True):
            sums += (new.astype(np.float64) - old) / rate
    for table, sums in enumerate(moved):
        old = (*world.users, *world.items)[table]
        for place in [*np.ndindex(sums.shape)][:: max(1, sums.size // 8)]:
            if (user_counts if table < 2 else item_counts)[place[0]] and (abs(old[place]) > 0.02 or table % 2):
                slope = 0.0 if table % 2 and not objective.biased else slope_of(world, world.users, world.items, table, place)
                assert sums[place] == pytest.approx(-slope, rel=0.02, abs=0.03)


def turned(name, gradients, rate):
    """Yield the sum of steps after each gradient: the recursions of torch.optim's documentation, its defaults but for these."""
    mu = beta1 = 0.9
    alpha = beta2 = 0.99
    epsilon, place, velocity, mean, squares = 1e-8, 0.0, 0.0, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        if name == "sgd":
            place -= rate * g
        elif name == "momentum":
            velocity = g if t == 1 else mu * velocity + g
            place -= rate * velocity
        elif name == "adagrad":
            squares += g * g
            place -= rate * g / (np.sqrt(squares) + epsilon)
        elif name == "rmsprop":
            squares = alpha * squares + (1 - alpha) * g * g
            place -= rate * g / (np.sqrt(squares) + epsilon)
        else:
            mean, squares = beta1 * mean + (1 - beta1) * g, beta2 * squares + (1 - beta2) * g * g
            place -= rate * (mean / (1 - beta1**t)) / (np.sqrt(squares / (1 - beta2**t)) + epsilon)
        yield place


@every_kernel
@every_optimizer
def test_optimizers_are_the_textbook_recursions(kernels, optimizer):
    """One user and one item in turns with strangers: a row's state moves with its own steps alone. Weighted λ is weight decay."""
    objective = Objective(Penalty(0.2, 0.1, 0.05, True))
    world = World(objective, rank=3, n_users=2, n_items=2, seed=9)
    events = [(j % 2, j % 2, float(x)) for j, x in enumerate(np.random.default_rng(9).normal(0, 1, few(kernels, 40, 12)))]
    rates = Rates(0.01, 0.01, 0.0)
    tables = [np.array(table, np.float64) for table in (*world.users, *world.items)]
    starts, gradients = [table.copy() for table in tables], [[[], []] for _ in tables]
    for n, m, x in events:
        p, b, q, c = (table[row] for table, row in zip(tables, (n, n, m, m), strict=True))
        g = 0.3 + b + c + p @ q - x
        for table, row, gradient in zip(
            range(4), (n, n, m, m), (g * q + 0.2 * p, g + 0.05 * b, g * p + 0.1 * q, g + 0.05 * c), strict=True
        ):
            gradients[table][row].append(gradient)
        for table, row in enumerate((n, n, m, m)):
            tables[table][row] = starts[table][row] + list(turned(optimizer, gradients[table][row], 0.01))[-1]
    users, items, _, _ = world.step(kernels, batch_of(events, 0), optimizer, rates)
    assert_close((*users, *items), tables, tolerance=1e-4)


@every_kernel
@every_optimizer
def test_rows_without_ratings_keep_their_state(kernels, optimizer):
    world = World(objectives()[0], seed=10)
    batch = batch_of([event for event in world.events if event[0] < 3 and event[1] < 4], 0)
    users, items, state, _ = world.step(kernels, batch, optimizer)
    assert users.factors[3:].tobytes() == world.users.factors[3:].tobytes()
    assert items.factors[4:].tobytes() == world.items.factors[4:].tobytes()
    assert not any(table[3:].any() for table in state.users)
    assert not any(table[4:].any() for table in state.items)


@every(available_kernels(), ("name", "optimizer"), [*itertools.product(LOSSES, OPTIMIZERS)], one_in=4)
def test_heavy_tails_do_not_diverge(kernels, name, optimizer):
    objective = Objective(Penalty(0.01, 0.01, 0.01, False), LOSSES[name][0])
    world = World(objective, seed=11, n_events=few(kernels, 60, 16))
    tail = 1e4 if name in ("squared", "poisson") else 1.0
    batch = batch_of([(n, m, x * tail if j % 7 == 0 else x) for j, (n, m, x) in enumerate(world.events)], 0)
    users, items, _, errors = world.step(kernels, batch, optimizer, Rates(0.5, 0.5, 0.0))
    assert np.isfinite(errors).all()
    assert all(np.isfinite(table).all() for table in (*users, *items))


@every_solve(available_kernels(), turn=5)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_diverged_row_poisons_no_other(kernels, objective, poison):
    world = world_for(kernels, objective, seed=12)
    calm = copied(world.users)
    world.solve(kernels, calm, world.items, of_users=True)
    world.items.factors[0, 0] = poison
    users = copied(world.users)
    gains = world.solve(kernels, users, world.items, of_users=True)
    met = np.array([any(m == 0 for m, _ in entry) for entry in world.entries(of_users=True)])
    assert users.factors[~met].tobytes() == calm.factors[~met].tobytes()
    assert users.factors[met].tobytes() == world.users.factors[met].tobytes()
    assert not gains[met].any()
    events = sorted(world.events, key=lambda event: event[1])[:3] if interpreted(kernels) else world.events
    for fold_in in () if spared(kernels, label(objective), poison, one_in=4) else (0, 3):
        users, items, _, errors = world.step(kernels, batch_of(events, fold_in))
        assert np.isfinite(users.factors).all()
        assert np.isfinite(items.factors[1:]).all()
        assert fold_in or not np.isfinite(errors[[m == 0 for _, m, _ in events]]).any()


@every_solve(available_kernels(), turn=7)
def test_a_diverged_row_is_healed(kernels, objective):
    world = world_for(kernels, objective, seed=13)
    expected = copied(world.users)
    world.solve(kernels, expected, world.items, of_users=True)
    users = copied(world.users)
    users.factors[0, 0] = np.nan
    gains = world.solve(kernels, users, world.items, of_users=True)
    assert_close(users, expected)
    assert gains[0] == np.inf


@every_solve(available_kernels(), turn=6)
def test_rows_without_ratings_become_zero(kernels, objective):
    world = world_for(kernels, objective, seed=14)
    users, n = copied(world.users), len(world.users.biases)
    how = {"intercept": world.intercept, "objective": objective, "of_users": True}
    gains = kernels.als(users, world.items, np.arange(n, dtype=np.int32), histories_of([[]] * n), **how)
    assert not users.factors.any()
    assert (gains >= 0).all()


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    world = World(Objective(Penalty(0.1, 0.1, 0.1, False, 0.1, 0.1), Loss("poisson")), n_users=60, n_events=400, seed=15)
    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 1)
    results = set()
    for threads in (1, 2, 5):
        monkeypatch.setattr(cpu, "threads", threads)
        users = copied(world.users)
        gains = world.solve(cpu, users, world.items, of_users=True)
        results.add((users.factors.tobytes(), users.biases.tobytes(), gains.tobytes()))
    assert len(results) == 1
