"""Laws of `beliefs.Filters`, for every set of such kernels that this machine runs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker.kernels import available_filters
from factorstream.worker.kernels.api import Batch, Histories
from factorstream.worker.kernels.beliefs import MEETINGS, Beliefs, Prior, equations_width, outlook_width
from tests.kernels.problems import batch_of, copied, histories_of, problems, side, slice_of, sparing

REFERENCE, *OTHERS = available_filters()
every_filter = pytest.mark.parametrize("filters", available_filters(), ids=lambda filters: filters.name)
every_other = pytest.mark.parametrize("filters", OTHERS, ids=lambda filters: filters.name)

USER_PRIOR, ITEM_PRIOR = Prior(0.3, 0.4, 0.1, 0.05), Prior(0.2, 0.5, -0.1, 0.0)
HOW = {"intercept": 3.5, "noise": 0.8, "user_prior": USER_PRIOR, "item_prior": ITEM_PRIOR}
WIDTHS = [2, 14, 15, 17, 30, 31, 46, 47, 62, 63, 64]
"""Ranks about those where a row takes one vector more, and the most that is allowed."""
LEVEL = Prior(0.3, 0.4, 0.0, 0.0)


def beliefs(rng, rows, rank, *, variance=0.2, effects=0.1, center=3.5):
    """Return what is known of rows without ratings."""
    equations = np.zeros((rows, equations_width(rank)), np.float32)
    equations[:, -1] = center
    outlook = np.zeros((rows, outlook_width(rank)), np.float32)
    outlook[:, :rank] = outlook[:, 2 * rank] = variance
    outlook[:, 2 * rank + 1 :] = rng.normal(0, effects, (rows, rank + 1))
    return Beliefs(equations, outlook)


class SmallProblem:
    """A few users and four items."""

    def __init__(self, rng, rank=5, n_users=3):
        self.users, self.items = side(rng, n_users, rank), side(rng, 4, rank)


class World:
    """Both sides of a problem, to be changed."""

    def __init__(self, problem, **known):
        rng = np.random.default_rng(7)
        self.users, self.items = copied(problem.users), copied(problem.items)
        rank = self.users.factors.shape[1]
        self.user_beliefs = beliefs(rng, len(self.users.biases), rank, **known)
        self.item_beliefs = beliefs(rng, len(self.items.biases), rank, **known)

    @property
    def sides(self):
        return self.users, self.items, self.user_beliefs, self.item_beliefs

    @property
    def arrays(self):
        return [array for part in self.sides for array in part]

    def learn(self, filters, batch, **changed):
        return filters.filter_batch(*self.sides, batch, **{**HOW, **changed})

    def smooth(self, filters, histories, *, prior=USER_PRIOR, intercept=3.5, noise=0.8, rows=None):
        """Solve users, the first unless others are named, from *histories*."""
        users, items, user_beliefs, item_beliefs = self.sides
        rows = np.arange(len(histories.starts) - 1, dtype=np.int32) if rows is None else rows
        return filters.smooth(
            users, items, user_beliefs, item_beliefs, rows, histories, intercept=intercept, noise=noise, prior=prior
        )

    def explain(self, filters, histories, counts):
        """Let the first users' effects on the items that they met be found."""
        _, items, user_beliefs, item_beliefs = self.sides
        rows = np.arange(len(histories.starts) - 1, dtype=np.int32)
        filters.explain(
            user_beliefs, items, item_beliefs, rows, histories, counts, factor_ridge=10.0, bias_ridge=5.0, prior=ITEM_PRIOR
        )


def alike(one, other, tolerance=1e-4):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * (1 + np.abs(np.nan_to_num(b)).max(initial=0)))


def replacing(events, longest=50):
    """Return *events* as the store hands them over: histories only where a rating was held in the event's place."""
    batch, held = batch_of(events, longest), set()
    keep = []
    for user, item, rating in events:
        keep.append((user, item) in held)
        held.discard((user, item))
        if not np.isnan(rating):
            held.add((user, item))
    cut = [_only(histories, keep) for histories in (batch.user_histories, batch.item_histories)]
    return Batch(*batch[:5], *cut)


def _only(histories, keep):
    entries = []
    for j, kept in enumerate(keep):
        part = slice(*histories.starts[j : j + 2])
        pairs = zip(histories.others[part].tolist(), histories.ratings[part].tolist(), strict=True)
        entries.append(list(pairs) if kept else [])
    return histories_of(entries)


def histories_at_end(events, n_users):
    held = {(user, item): rating for user, item, rating in events}
    kept = sorted((pair, rating) for pair, rating in held.items() if not np.isnan(rating))
    return histories_of([[(item, rating) for (user, item), rating in kept if user == row] for row in range(n_users)])


@every_other
@given(problem=problems())
@settings(max_examples=60, deadline=None)
@sparing
def test_filters_agree_with_the_reference(filters, problem):
    assert_agrees(filters, problem, problem.events)


@every_other
@pytest.mark.parametrize("rank", WIDTHS)
def test_filters_agree_where_ratings_are_replaced_and_taken_back(filters, rank):
    events = [(0, 1, 5.0), (0, 2, 3.0), (1, 1, 2.0), (0, 1, 4.0), (0, 2, np.nan), (1, 3, np.nan)]
    assert_agrees(filters, SmallProblem(np.random.default_rng(5), rank), events)


def assert_agrees(filters, problem, events):
    """Learn *events* twice, the second time from another intercept; solve users, and find their effects."""
    worlds = World(problem), World(problem)
    batch, histories = replacing(events), histories_at_end(events, len(problem.users.biases))
    counts = np.bincount(histories.others, minlength=len(problem.items.biases)).astype(np.int32)
    told = []
    for world, kernels in zip(worlds, (REFERENCE, filters), strict=True):
        errors = world.learn(kernels, batch), world.learn(kernels, batch, intercept=3.25)
        solved = world.smooth(kernels, histories, intercept=3.0, noise=0.5)
        world.explain(kernels, histories, counts)
        told.append([*itertools.chain(*errors), *solved, *world.arrays])
    alike(*told, tolerance=1e-3)


@every_filter
@given(problem=problems(max_events=30), cuts=st.lists(st.integers(0, 30), max_size=3))
@settings(max_examples=30, deadline=None)
@sparing
def test_a_batch_cut_differently_gives_the_same_bits(filters, problem, cuts):
    whole, parts = World(problem), World(problem)
    batch = replacing(problem.events)
    foreseen = whole.learn(filters, batch)
    places = sorted({0, len(problem.events), *(min(cut, len(problem.events)) for cut in cuts)})
    pieces = [parts.learn(filters, slice_of(batch, *ends)) for ends in itertools.pairwise(places)]
    for k, column in enumerate(foreseen):
        np.testing.assert_array_equal(np.concatenate([column[:0], *(piece[k] for piece in pieces)]), column)
    for one, other in zip(whole.arrays, parts.arrays, strict=True):
        np.testing.assert_array_equal(one, other)


@every_filter
@pytest.mark.parametrize("rank", [8, 20, 40])
def test_rows_solved_one_by_one_become_the_same_bits(filters, rank):
    rng, n = np.random.default_rng(3), 19
    problem = SmallProblem(rng, rank, n_users=n)
    histories = histories_of([[(item, 3.0 + rng.normal()) for item in range(4) if rng.random() < 0.6] for _ in range(n)])
    whole, parts = World(problem), World(problem)
    told = whole.smooth(filters, histories)
    for row in range(n):
        one = slice(*histories.starts[row : row + 2])
        history = Histories(np.array([0, one.stop - one.start]), histories.others[one], histories.ratings[one])
        alone = parts.smooth(filters, history, rows=np.array([row], np.int32))
        assert [float(column[0]) for column in alone] == [float(column[row]) for column in told]
    for one, other in zip(whole.arrays, parts.arrays, strict=True):
        np.testing.assert_array_equal(one, other)


@every_filter
def test_events_one_side_of_which_has_a_history_are_learned_in_order(filters):
    """A row too long to be solved anew has none; the other's history names rows that events just before have changed."""
    problem = SmallProblem(np.random.default_rng(4))
    batch = batch_of([(1, 1, 2.0), (0, 1, 5.0), (0, 0, 1.0), (1, 1, 4.0)], 50)
    batch = batch._replace(user_histories=histories_of([[]] * 4))
    whole, parts, meant = World(problem), World(problem), World(problem)
    whole.learn(filters, batch)
    meant.learn(REFERENCE, batch)
    for j in range(4):
        parts.learn(filters, slice_of(batch, j, j + 1))
    for one, other in zip(whole.arrays, parts.arrays, strict=True):
        np.testing.assert_array_equal(one, other)
    alike(whole.arrays, meant.arrays)


@every_filter
@given(problem=problems(max_events=20))
@settings(max_examples=30, deadline=None)
@sparing
def test_a_row_becomes_the_ridge_solution_when_the_other_side_is_certain(filters, problem):
    """Whether its ratings came one after another or are solved at once; the other side is held where it is."""
    events = [(0, item, 3.0 + item % 3) for item in sorted({item for _, item, _ in problem.events})]
    ridge = ridge_solution(problem, events)
    for by_sweep in (False, True):
        world = World(problem, variance=0.0, effects=0.0)
        world.users.factors[:], world.users.biases[:] = 0, 0
        if by_sweep:
            world.smooth(filters, histories_at_end(events, 1), prior=LEVEL)
        for event in [] if by_sweep else zip(events, itertools.count(1)):
            hold_still(world, problem)
            world.learn(filters, one_event(*event), user_prior=LEVEL)
        if events:
            alike([np.append(world.users.factors[0], world.users.biases[0])], [ridge], tolerance=2e-4)


def ridge_solution(problem, events):
    items = [item for _, item, _ in events]
    design = np.column_stack([problem.items.factors[items], np.ones(len(items))]).astype(np.float64)
    target = np.array([rating for _, _, rating in events]) - 3.5 - problem.items.biases[items]
    rank = design.shape[1] - 1
    weights = np.append(np.full(rank, 0.8 / LEVEL.factors), 0.8 / LEVEL.bias)
    return np.linalg.solve(design.T @ design + np.diag(weights), design.T @ target)


def hold_still(world, problem):
    world.items.factors[:], world.items.biases[:] = problem.items.factors, problem.items.biases
    world.item_beliefs.outlook[:] = 0


def one_event(event, count):
    """Return an event whose user holds *count* ratings after it."""
    batch = batch_of([event], 0)
    return batch._replace(user_counts=np.array([count], np.int32))


@every_filter
@given(problem=problems(max_events=30))
@settings(max_examples=30, deadline=None)
@sparing
def test_a_rating_makes_its_rows_no_less_certain(filters, problem):
    world = World(problem)
    rank = problem.users.factors.shape[1]
    world.learn(filters, replacing(problem.events))
    for known, prior in ((world.user_beliefs, USER_PRIOR), (world.item_beliefs, ITEM_PRIOR)):
        rated = known.equations[:, : (rank + 1) * (rank + 2) // 2].any(axis=1)
        assert (known.outlook[rated, :rank] <= prior.factors * (1 + 1e-5)).all()
        assert (known.outlook[rated, 2 * rank] <= prior.bias * (1 + 1e-5)).all()
        assert (known.outlook[rated, :rank] > 0).all()


@every_filter
def test_a_row_left_with_nothing_becomes_its_prior(filters):
    rng = np.random.default_rng(0)
    world = World(SmallProblem(rng))
    world.learn(filters, replacing([(0, 0, 5.0), (0, 0, np.nan)]))
    assert not world.users.factors[0].any()
    assert world.users.biases[0] == pytest.approx(USER_PRIOR.level)
    assert world.user_beliefs.outlook[0, 0] == pytest.approx(USER_PRIOR.factors)
    world.smooth(filters, histories_of([[]]))
    assert world.users.biases[0] == pytest.approx(USER_PRIOR.level)


@every_filter
def test_what_is_not_finite_stays_in_its_row(filters):
    world = World(SmallProblem(np.random.default_rng(0)))
    world.items.factors[0, 0] = np.nan
    before = [array.copy() for array in world.arrays]
    foreseen = world.learn(filters, replacing([(0, 0, 5.0), (1, 1, 4.0), (2, 2, np.inf)]))
    assert np.isfinite(foreseen.errors).tolist() == [False, True, False]
    for now, then in zip(world.arrays, before, strict=True):
        np.testing.assert_array_equal(np.delete(now, 1, axis=0)[[0, 1]], np.delete(then, 1, axis=0)[[0, 1]])


@every_filter
def test_an_event_whose_row_would_not_be_finite_is_none(filters):
    world = World(SmallProblem(np.random.default_rng(0)))
    world.item_beliefs.outlook[0, 0] = np.inf
    foreseen = world.learn(filters, replacing([(0, 0, 5.0), (1, 1, 4.0)]))
    assert np.isfinite(foreseen.errors).tolist() == [False, True]


@every_filter
def test_a_row_that_would_not_be_finite_is_not_solved(filters):
    world = World(SmallProblem(np.random.default_rng(0)))
    world.items.factors[0, 0] = np.nan
    before = [array.copy() for array in (world.users.factors, world.user_beliefs.equations, world.user_beliefs.outlook)]
    world.smooth(filters, histories_of([[(0, 4.0), (1, 3.0)], [(1, 2.0)], []]))
    after = world.users.factors, world.user_beliefs.equations, world.user_beliefs.outlook
    assert [np.array_equal(now[0], then[0]) for now, then in zip(after, before, strict=True)] == [True] * 3
    assert np.isfinite(world.users.factors[:3]).all()
    assert not np.array_equal(world.users.factors[1], before[0][1])


@every_filter
def test_a_second_solve_gains_nothing(filters):
    world = World(SmallProblem(np.random.default_rng(1)))
    histories = histories_of([[(0, 1.0), (2, 4.0)], [(1, 5.0)], []])
    first, second = world.smooth(filters, histories), world.smooth(filters, histories)
    assert (first.gains >= 0).all()
    np.testing.assert_allclose(second.gains, 0, atol=1e-8)
    np.testing.assert_allclose(second.misfits, first.misfits, rtol=1e-4)


@every_filter
def test_effects_settle_at_the_ridge_regression_of_the_rows_met(filters):
    rng = np.random.default_rng(2)
    world = World(SmallProblem(rng), effects=0.0)
    histories = histories_of([[(0, 3.0), (1, 3.0), (3, 3.0)], [(1, 3.0), (2, 3.0)], [(0, 3.0), (2, 3.0)]])
    counts = np.bincount(histories.others, minlength=4).astype(np.int32)
    for _ in range(12):
        world.explain(filters, histories, counts)
    met = np.zeros((4, 3))
    for user in range(3):
        met[histories.others[histories.starts[user] : histories.starts[user + 1]], user] = 1
    met /= np.sqrt(counts + MEETINGS)[:, None]
    target = world.items.biases - ITEM_PRIOR.level
    effects = np.linalg.solve(met.T @ met + 5.0 * ITEM_PRIOR.bias * np.eye(3), met.T @ target)
    np.testing.assert_allclose(world.user_beliefs.outlook[:3, -1], effects, atol=1e-5)
