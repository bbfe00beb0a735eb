"""Laws of `Kernels.sgd`, for every set of kernels that this machine runs."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.kernels import available_kernels, cpu
from factorstream.worker.kernels.api import Batch, Objective, Penalty, Rates, Side
from tests.kernels.problems import batch_of, copied, histories_of, interpreted, objective, problems, side, slice_of, sparing

NO_NUMBERS = np.empty(0, np.float32)
REFERENCE = available_kernels()[0]
every_kernel = pytest.mark.parametrize("kernels", available_kernels(), ids=lambda kernels: kernels.name)
every_other = pytest.mark.parametrize("kernels", available_kernels()[1:], ids=lambda kernels: kernels.name)


def learn(kernels, problem, batch):
    users, items = copied(problem.users), copied(problem.items)
    scored = kernels.sgd(users, items, batch, intercept=problem.intercept, objective=problem.objective, rates=problem.rates)
    return users, items, scored


def assert_close(found, expected, tolerance=1e-3):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@every_other
@given(problems())
@sparing
def test_kernels_agree_with_the_reference(kernels, problem):
    batch = batch_of(problem.events, problem.fold_in)
    users, items, scored = learn(kernels, problem, batch)
    expected_users, expected_items, expected = learn(REFERENCE, problem, batch)
    assert_close((*users, *items, *scored), (*expected_users, *expected_items, *expected))


@every_kernel
@given(problems(), st.lists(st.integers(0, 60), max_size=5))
@sparing
def test_a_batch_means_the_same_however_it_is_cut(kernels, problem, cuts):
    batch = batch_of(problem.events, problem.fold_in)
    users, items, scored = learn(kernels, problem, batch)
    n = len(problem.events)
    parts = sorted({0, n, *(cut for cut in cuts if cut <= n)})
    other_users, other_items, other = copied(problem.users), copied(problem.items), []
    for begin, end in itertools.pairwise(parts):
        part = slice_of(batch, begin, end)
        other.append(
            kernels.sgd(
                other_users, other_items, part, intercept=problem.intercept, objective=problem.objective, rates=problem.rates
            )
        )
    joined = [np.concatenate([NO_NUMBERS, *columns]) for columns in zip(*other, strict=True)] if other else [NO_NUMBERS] * 4
    for one, two in zip((*users, *items, *scored), (*other_users, *other_items, *joined), strict=True):
        assert one.tobytes() == two.tobytes()


@every_kernel
def test_a_long_batch_means_the_same_however_it_is_cut(kernels):
    rng = np.random.default_rng(7)
    rank, n = (5, 40) if interpreted(kernels) else (33, 2000)
    users, items = side(rng, n // 10, rank), side(rng, n // 40, rank)
    rows = rng.integers(0, n // 10, n).tolist(), rng.integers(0, n // 40, n).tolist()
    batch = batch_of(list(zip(*rows, rng.normal(3, 1, n).tolist(), strict=True)), 6)
    tables = []
    for size in (n, 1, 7, n // 4):
        u, i = copied(users), copied(items)
        for begin in range(0, n, size):
            kernels.sgd(
                u,
                i,
                slice_of(batch, begin, begin + size),
                intercept=3.0,
                objective=Objective(Penalty(0.05, 0.05, 0.05, True)),
                rates=Rates(0.02, 0.02, 0),
            )
        tables.append((*u, *i))
    for other in tables[1:]:
        assert all(one.tobytes() == two.tobytes() for one, two in zip(tables[0], other, strict=True))


@every_kernel
@pytest.mark.parametrize("fold_in", [0, 6])
def test_parts_that_share_no_row_may_be_learned_at_the_same_time(kernels, fold_in, monkeypatch):
    rng = np.random.default_rng(8)
    rank, n = (5, 12) if interpreted(kernels) else (33, 3000)
    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(cpu, "threads", 2)
    users, items = side(rng, 40, rank), side(rng, 12, rank)
    parts = np.sort(rng.integers(0, 4, n))
    rows = (4 * rng.integers(0, 10, n) + parts).tolist(), (4 * rng.integers(0, 3, n) + parts).tolist()
    batch = batch_of(list(zip(*rows, rng.normal(3, 1, n).tolist(), strict=True)), fold_in)
    how = {"intercept": 3.0, "objective": Objective(Penalty(2.0, 2.0, 1.0, False)), "rates": Rates(0.02, 0.02, 0.0)}
    apart = np.searchsorted(parts, [0, 1, 1, 2, 3, 4])  # one part is empty
    found = [copied(users), copied(items)]
    expected = [copied(users), copied(items)]
    scored = kernels.sgd(*found, batch, **how, apart=apart)
    one_by_one = kernels.sgd(*expected, batch, **how)
    for one, two in zip((*found[0], *found[1], *scored), (*expected[0], *expected[1], *one_by_one), strict=True):
        assert one.tobytes() == two.tobytes()


@every_kernel
@given(problems(max_events=30))
@sparing
def test_folding_in_a_full_history_is_the_als_solution(kernels, problem):
    batch = batch_of([(0, item, 3.0 + item % 3) for item in range(len(problem.items.biases))], fold_in=1000)
    last = slice_of(batch, len(batch.ratings) - 1, len(batch.ratings))
    users, items, _ = learn(kernels, problem, last)
    solved = copied(problem.users)
    arguments = {"intercept": problem.intercept, "objective": problem.objective}
    row = np.zeros(1, np.int32)
    kernels.als(solved, problem.items, row, last.user_histories, of_users=True, **arguments)
    assert_close(users, solved)
    solved = copied(problem.items)
    kernels.als(solved, problem.users, last.item_rows, last.item_histories, of_users=False, **arguments)
    assert_close(items, solved)


@every_kernel
@given(problems(max_events=25))
@sparing
def test_the_mean_step_is_the_gradient_of_the_objective(kernels, problem):
    ratings = {(user, item): x for user, item, x in problem.events if not np.isnan(x)}
    user_counts = np.bincount([n for n, _ in ratings], minlength=len(problem.users.biases))
    item_counts = np.bincount([m for _, m in ratings], minlength=len(problem.items.biases))
    rate = 1e-3
    moved = [np.zeros(table.shape) for table in (*problem.users, *problem.items)]
    for (user, item), x in ratings.items():
        users, items = copied(problem.users), copied(problem.items)
        kernels.sgd(
            users,
            items,
            one_event(user, item, x, user_counts[user], item_counts[item]),
            intercept=problem.intercept,
            objective=problem.objective,
            rates=Rates(rate, rate, 0.0),
        )
        for total, new, old in zip(moved, (*users, *items), (*problem.users, *problem.items), strict=True):
            total += (new.astype(np.float64) - old) / rate
    for table, total in enumerate(moved):
        for place in [*np.ndindex(total.shape)][:: max(1, total.size // 12)]:
            if user_counts[place[0]] if table < 2 else item_counts[place[0]]:
                assert total[place] == pytest.approx(-slope(problem, ratings, table, place), rel=0.02, abs=0.02)


def one_event(user, item, rating, user_count, item_count):
    column = lambda value: np.array([value], np.int32)  # noqa: E731
    empty = histories_of([[]])
    return Batch(column(user), column(item), np.array([rating], np.float32), column(user_count), column(item_count), empty, empty)


def slope(problem, ratings, table, place, step=1e-4):
    """Return the objective's derivative by one number of the model."""

    def at(change):
        tables = [np.array(values, np.float64) for values in (*problem.users, *problem.items)]
        tables[table][place] += change
        return objective(Side(*tables[:2]), Side(*tables[2:]), ratings, problem.intercept, problem.penalty)

    return (at(step) - at(-step)) / (2 * step)


@every_kernel
@given(problems(), st.sampled_from([np.nan, np.inf, -np.inf, 3e38]), st.booleans(), st.booleans())
@sparing
def test_a_diverged_row_poisons_no_other(kernels, problem, poison, in_bias, of_user):
    bad = problem.users if of_user else problem.items
    (bad.biases if in_bias else bad.factors)[0] = poison
    users, items, (errors, *_) = learn(kernels, problem, batch_of(problem.events, problem.fold_in))
    for new, old, may_be_bad in ((users, problem.users, of_user), (items, problem.items, not of_user)):
        first = 1 if may_be_bad else 0
        assert np.isfinite(new.factors[first:]).all()
        assert np.isfinite(new.biases[first:]).all()
        if may_be_bad and not np.isfinite(poison) and not problem.fold_in:
            assert new.factors[0].tobytes() == old.factors[0].tobytes()
            assert new.biases[0].tobytes() == old.biases[0].tobytes()
    if not np.isfinite(poison) and not problem.fold_in:
        touched = [(user if of_user else item) == 0 for user, item, _ in problem.events]
        assert not np.isfinite(errors[touched]).any()


@every_kernel
@pytest.mark.parametrize("rank", [1, 16, 20])
def test_a_step_too_far_is_not_taken_and_is_told(kernels, rank):
    rng = np.random.default_rng(1)
    users, items = side(rng, 2, rank), side(rng, 2, rank)
    users.factors[0] = 100
    before_users, before_items = copied(users), copied(items)
    penalty = Penalty(3e38, 0.1, 0.1, True)  # takes the user beyond float32, and the item nowhere special
    scored = kernels.sgd(
        users, items, one_event(0, 0, 1.0, 5, 5), intercept=0.0, objective=Objective(penalty), rates=Rates(0.1, 0.1, 0)
    )
    assert not np.isfinite(scored.errors[0])
    assert users.factors.tobytes() == before_users.factors.tobytes()
    assert users.biases.tobytes() == before_users.biases.tobytes()
    assert items.factors[0].tobytes() != before_items.factors[0].tobytes()
    assert np.isfinite(items.factors).all()


@every_kernel
def test_large_factors_are_learned_like_small_ones(kernels):
    rng = np.random.default_rng(2)
    users, items = side(rng, 3, 18), side(rng, 3, 18)
    users.factors[:] *= 50
    expected_users, expected_items = copied(users), copied(items)
    events = [(n % 3, n % 2, 3.0) for n in range(20)]
    arguments = {"intercept": 3.0, "objective": Objective(Penalty(0.1, 0.1, 0.1, False)), "rates": Rates(1e-4, 0.01, 0)}
    scored = kernels.sgd(users, items, batch_of(events, 0), **arguments)
    expected = REFERENCE.sgd(expected_users, expected_items, batch_of(events, 0), **arguments)
    assert_close((*users, *items, *scored), (*expected_users, *expected_items, *expected))


@every_kernel
def test_an_unrate_only_folds_in(kernels):
    rng = np.random.default_rng(3)
    users, items = side(rng, 2, 5), side(rng, 3, 5)
    before_users, before_items = copied(users), copied(items)
    events = [(0, 0, 4.0), (0, 1, 2.0), (0, 1, np.nan), (0, 0, np.nan)]
    batch = batch_of(events, fold_in=4)
    arguments = {"intercept": 3.0, "objective": Objective(Penalty(0.1, 0.1, 0.1, True)), "rates": Rates(0.1, 0.1, 0)}
    scored = kernels.sgd(users, items, slice_of(batch, 2, 3), **arguments)  # the user is left with one rating, the item with none
    assert np.isnan(scored.errors[0])
    assert users.factors[0].tobytes() != before_users.factors[0].tobytes()
    assert items.factors.tobytes() == before_items.factors.tobytes()
    scored = kernels.sgd(users, items, slice_of(batch_of(events, fold_in=0), 2, 3), **arguments)
    assert np.isnan(scored.errors[0])
    assert items.factors.tobytes() == before_items.factors.tobytes()


@every_kernel
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("rank", [1, 3, 16])
def test_without_a_penalty_a_fold_in_has_minimum_norm(kernels, weighted, rank):
    rng = np.random.default_rng(4)
    for n in (1, 2, 5, 30):
        users, items = side(rng, 1, rank), side(rng, n, rank)
        history = [(item, float(rng.normal(3, 1))) for item in range(n)]
        batch = batch_of([(0, item, x) for item, x in history], fold_in=100)
        last = slice_of(batch, n - 1, n)._replace(item_histories=histories_of([[]]))
        design = np.column_stack([items.factors.astype(np.float64), np.ones(n)])
        target = np.array([x for _, x in history], np.float32).astype(np.float64) - 3.0 - items.biases
        expected = np.linalg.lstsq(design, target, rcond=1e-6)[0]
        kernels.sgd(users, items, last, intercept=3.0, objective=Objective(Penalty(0, 0, 0, weighted)), rates=Rates(0, 0, 0))
        np.testing.assert_allclose(np.append(users.factors[0], users.biases[0]), expected, rtol=1e-3, atol=1e-4)


@every_kernel
def test_an_empty_batch_changes_nothing(kernels):
    users, items = side(np.random.default_rng(5), 2, 4), side(np.random.default_rng(6), 2, 4)
    before = copied(users)
    scored = kernels.sgd(
        users, items, batch_of([], 5), intercept=0.0, objective=Objective(Penalty(0.1, 0.1, 0.1, True)), rates=Rates(0.1, 0.1, 0)
    )
    assert [column.shape for column in scored] == [(0,)] * 4
    assert users.factors.tobytes() == before.factors.tobytes()
