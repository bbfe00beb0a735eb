"""Laws of `Kernels.als`, for every set of kernels that this machine runs."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.kernels import available_kernels, cpu
from factorstream.worker.kernels.api import Histories, Objective, Penalty, Side
from factorstream.worker.kernels.cpu_als import PIECE
from tests.kernels.problems import copied, histories_of, interpreted, objective, side, sparing

REFERENCE = available_kernels()[0]
every_kernel = pytest.mark.parametrize("kernels", available_kernels(), ids=lambda kernels: kernels.name)
every_way = pytest.mark.parametrize(
    ("kernels", "solver"),
    [*((kernels, "exact") for kernels in available_kernels()), (cpu, "cg")],
    ids=lambda it: it if isinstance(it, str) else it.name,
)
every_iterative = pytest.mark.parametrize("kernels", [cpu], ids=lambda kernels: kernels.name)
every_other = pytest.mark.parametrize("kernels", available_kernels()[1:], ids=lambda kernels: kernels.name)


@dataclass(frozen=True)
class Sweep:
    """One side to be solved against the other."""

    own: Side
    other: Side
    histories: Histories
    penalty: float
    bias_penalty: float
    weighted: bool

    @property
    def rows(self):
        return np.arange(len(self.own.biases), dtype=np.int32)

    @property
    def effort(self):
        return self.own.factors.size

    def run(self, kernels, own=None, solver="exact"):
        own = own or copied(self.own)
        return own, kernels.als(own, self.other, self.rows, self.histories, solver=solver, **self.how)

    @property
    def how(self):
        penalty = Penalty(self.penalty, np.nan, self.bias_penalty, self.weighted)
        return {"intercept": 3.5, "objective": Objective(penalty), "of_users": True}

    def objective(self, own):
        """Return the objective, but for what the other side's norm adds to it."""
        starts = self.histories.starts
        ratings = {
            (n, int(m)): float(x)
            for n in range(len(self.rows))
            for m, x in zip(
                self.histories.others[starts[n] : starts[n + 1]], self.histories.ratings[starts[n] : starts[n + 1]], strict=True
            )
        }
        rank = own.factors.shape[1]
        both = np.concatenate([own.factors, own.biases[:, None]], axis=1) * np.sqrt([self.penalty] * rank + [self.bias_penalty])
        norms = (both.astype(np.float64) ** 2).sum(1)
        counts = np.diff(starts) if self.weighted else np.ones(len(self.rows))
        return objective(own, self.other, ratings, 3.5, Penalty(0, 0, 0, self.weighted)) + 0.5 * counts @ norms


@st.composite
def sweeps(draw, penalties=(0.02, 1.0)):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rank = draw(st.integers(1, 40))
    n_own, n_other = draw(st.integers(1, 40)), draw(st.integers(1, 90))
    share = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    return sweep(rng, n_own, n_other, rank, share, draw(st.floats(*penalties)), draw(st.floats(*penalties)), draw(st.booleans()))


def sweep(rng, n_own, n_other, rank, share, penalty, bias_penalty, weighted):
    held = rng.random((n_own, n_other)) < share
    entries = [[(m, float(rng.normal(3.5, 1))) for m in np.flatnonzero(row)] for row in held]
    return Sweep(side(rng, n_own, rank), side(rng, n_other, rank), histories_of(entries), penalty, bias_penalty, weighted)


def assert_close(found, expected, tolerance=1e-3):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@every_other
@given(sweeps())
@sparing
def test_kernels_agree_with_the_reference(kernels, sweep):
    own, gains = sweep.run(kernels)
    expected, expected_gains = sweep.run(REFERENCE)
    assert_close((*own, gains), (*expected, expected_gains))


@every_kernel
@given(sweeps(), st.integers(0, 2**32))
@sparing
def test_rows_held_to_their_means_are_rows_less_their_means_held_to_zero(kernels, sweep, seed):
    """Solving for u − m, from ratings less what m predicts of them, is solving for u."""
    means = np.random.default_rng(seed).normal(0, 0.3, (len(sweep.rows), sweep.own.factors.shape[1] + 1)).astype(np.float32)
    whose = np.repeat(sweep.rows, np.diff(sweep.histories.starts))
    predicted = (sweep.other.factors[sweep.histories.others] * means[whose, :-1]).sum(axis=1) + means[whose, -1]
    less = Side(sweep.own.factors - means[:, :-1], sweep.own.biases - means[:, -1])
    ratings = (sweep.histories.ratings - predicted).astype(np.float32)
    own, gains = (
        copied(sweep.own),
        kernels.als(less, sweep.other, sweep.rows, sweep.histories._replace(ratings=ratings), **sweep.how),
    )
    found = kernels.als(own, sweep.other, sweep.rows, sweep.histories, means=means, **sweep.how)
    assert_close((own.factors, own.biases, found), (less.factors + means[:, :-1], less.biases + means[:, -1], gains))


@every_other
@pytest.mark.parametrize("rank", [1, 16, 33, 64])
def test_long_and_short_rows_agree_with_the_reference(kernels, rank):
    n = 10 if interpreted(kernels) else 60
    problem = sweep(np.random.default_rng(rank), n, 700, rank, 0.5, 0.05, 0.05, True)
    keep = np.random.default_rng(0).integers(0, 400, n)
    keep[:3] = 0, rank, max(rank - 1, 0)
    starts = problem.histories.starts
    entries = [
        list(zip(problem.histories.others[a : a + n].tolist(), problem.histories.ratings[a : a + n].tolist(), strict=False))
        for a, b, n in zip(starts, starts[1:], keep, strict=False)
        if a + n <= b
    ]
    entries += [[]] * (n - len(entries))
    problem = Sweep(problem.own, problem.other, histories_of(entries), 0.05, 0.05, True)
    own, gains = problem.run(kernels)
    expected, expected_gains = problem.run(REFERENCE)
    assert_close((*own, gains), (*expected, expected_gains), tolerance=1e-4)


@every_way
@given(sweeps())
@sparing
def test_a_sweep_lowers_the_objective_by_what_it_says(kernels, solver, sweep):
    own, gains = sweep.run(kernels, solver=solver)
    before, after = sweep.objective(sweep.own), sweep.objective(own)
    assert (gains >= 0).all()
    assert before - after == pytest.approx(gains.sum(), rel=1e-3, abs=1e-3)


@every_kernel
@given(sweeps())
@sparing
def test_solving_again_gains_nothing(kernels, sweep):
    own, gains = sweep.run(kernels)
    again, more = sweep.run(kernels, copied(own))
    assert more.sum() <= 1e-6 * (1 + gains.sum())
    assert_close(again, own)


@every_iterative
@pytest.mark.parametrize("rank", [5, 64, 130])
@pytest.mark.parametrize("weighted", [False, True])
def test_conjugate_gradients_end_where_the_exact_solver_does(kernels, rank, weighted):
    problem = sweep(np.random.default_rng(rank), 40, 400, rank, 0.5, 0.5, 0.5, weighted)
    exact, most = problem.run(kernels)
    own, first = problem.run(kernels, solver="cg")
    assert first.sum() == pytest.approx(most.sum(), rel=0.05)
    assert kernels is not cpu or not np.array_equal(own.factors, exact.factors)
    for _ in range(8):
        own, gains = problem.run(kernels, own, solver="cg")
    assert gains.sum() <= 1e-6 * most.sum()
    assert_close(own, exact)


@every_iterative
@pytest.mark.parametrize("penalty", [1e-6, 1e-2])
def test_conjugate_gradients_get_there_soon_where_they_have_it_hard(kernels, penalty):
    problem = sweep(np.random.default_rng(4), 30, 60, 40, 1.0, penalty, penalty, False)
    problem.other.factors[:] *= np.float32(10) ** -np.linspace(0, 2, 40, dtype=np.float32)
    problem.other.factors[:, 1:] += problem.other.factors[:, :1]
    _, most = problem.run(kernels)
    own, first = problem.run(kernels, solver="cg")
    _, second = problem.run(kernels, own, solver="cg")
    assert (first + second).sum() == pytest.approx(most.sum(), rel=1e-3)


@every_kernel
@given(sweeps(penalties=(0.0, 0.0)))
@sparing
def test_without_a_penalty_the_solution_is_least_squares_of_minimum_norm(kernels, sweep):
    own, _ = sweep.run(kernels)
    starts = sweep.histories.starts
    for row in sweep.rows:
        entry = slice(starts[row], starts[row + 1])
        others = sweep.histories.others[entry]
        design = np.column_stack([sweep.other.factors[others].astype(np.float64), np.ones(len(others))])
        target = sweep.histories.ratings[entry].astype(np.float64) - 3.5 - sweep.other.biases[others]
        best = np.linalg.lstsq(design, target, rcond=1e-6)[0] if len(others) else np.zeros(design.shape[1])
        found = np.append(own.factors[row], own.biases[row])
        assert ((design @ found - target) ** 2).sum() <= ((design @ best - target) ** 2).sum() + 1e-4 * (1 + (best**2).sum())
        assert (found**2).sum() <= (best**2).sum() * (1 + 1e-3) + 1e-6


@every_kernel
@pytest.mark.parametrize("penalty", [1e-9, 1e-6, 1e-3])
def test_a_small_penalty_costs_no_digits(kernels, penalty):
    rng = np.random.default_rng(8)
    for n in (9, 10, 30):
        problem = sweep(rng, 20, n, 10, 1.0, penalty, penalty, False)
        problem.other.factors[:, 1] = problem.other.factors[:, 0] + np.float32(1e-3) * problem.other.factors[:, 1]
        best, _ = problem.run(REFERENCE)
        own, _ = problem.run(kernels)
        assert problem.objective(own) <= problem.objective(best) * (1 + 1e-3) + 1e-6


@every_way
@given(sweeps(), st.integers(1, 7))
@sparing
def test_a_row_does_not_depend_on_those_solved_with_it(kernels, solver, sweep, step):
    whole, gains = sweep.run(kernels, solver=solver)
    rows, starts = sweep.rows[::step], sweep.histories.starts
    pairs = list(zip(sweep.histories.others.tolist(), sweep.histories.ratings.tolist(), strict=True))
    chosen = histories_of([pairs[starts[row] : starts[row + 1]] for row in rows])
    part = copied(sweep.own)
    some = kernels.als(part, sweep.other, rows, chosen, solver=solver, **sweep.how)
    assert part.factors[rows].tobytes() == whole.factors[rows].tobytes()
    assert part.biases[rows].tobytes() == whole.biases[rows].tobytes()
    assert some.tobytes() == gains[::step].tobytes()
    left = np.setdiff1d(sweep.rows, rows)
    assert part.factors[left].tobytes() == sweep.own.factors[left].tobytes()


@pytest.mark.parametrize("solver", ["exact", "cg"])
def test_the_number_of_threads_changes_no_bit(solver, monkeypatch):
    problem = sweep(np.random.default_rng(9), 300, 200, 24, 0.2, 0.05, 0.05, True)
    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 1)
    results = set()
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(cpu, "threads", threads)
        own, gains = problem.run(cpu, solver=solver)
        results.add((own.factors.tobytes(), own.biases.tobytes(), gains.tobytes()))
    assert len(results) == 1


@every_other
@pytest.mark.parametrize("rank", [3, 20])
def test_a_very_long_row_is_the_reference_whatever_shares_the_work(kernels, rank, monkeypatch):
    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 1)
    rng = np.random.default_rng(rank)
    longest, piece, shares = (2_500, kernels.gpu_solve.PIECE, (1,)) if interpreted(kernels) else (100_000, PIECE, (1, 2, 3))
    lengths = np.array([longest, 2 * piece, piece, piece + 1, 7])
    others = np.concatenate([np.sort(rng.choice(120_000, n, replace=False)) for n in lengths]).astype(np.int32)
    ratings = rng.normal(3.5, 1, lengths.sum()).astype(np.float32)
    held = Histories(np.concatenate([[0], np.cumsum(lengths)]), others, ratings)
    problem = Sweep(side(rng, 5, rank), side(rng, 120_000, rank), held, 0.05, 0.05, True)
    expected, expected_gains = problem.run(REFERENCE)
    results = set()
    for threads in shares:
        monkeypatch.setattr(cpu, "threads", threads)
        own, gains = problem.run(kernels)
        assert_close((*own, gains), (*expected, expected_gains), tolerance=1e-5)
        results.add((own.factors.tobytes(), own.biases.tobytes(), gains.tobytes()))
    assert len(results) == 1


@every_way
@given(sweeps(), st.sampled_from([np.nan, np.inf, 3e38]), st.booleans())
@sparing
def test_a_diverged_row_poisons_no_other(kernels, solver, sweep, poison, in_bias):
    calm, _ = sweep.run(kernels, solver=solver)
    bad = Side(sweep.other.factors.copy(), sweep.other.biases.copy())
    (bad.biases if in_bias else bad.factors)[0] = poison
    own, gains = Sweep(sweep.own, bad, sweep.histories, sweep.penalty, sweep.bias_penalty, sweep.weighted).run(
        kernels, solver=solver
    )
    starts = sweep.histories.starts
    met = np.array([0 in sweep.histories.others[a:b] for a, b in itertools.pairwise(starts)])
    assert own.factors[~met].tobytes() == calm.factors[~met].tobytes()
    assert np.isfinite(own.factors).all()
    assert np.isfinite(own.biases).all()
    if not np.isfinite(poison):
        assert own.factors[met].tobytes() == sweep.own.factors[met].tobytes()
        assert not gains[met].any()


@every_kernel
@given(sweeps())
@sparing
def test_a_diverged_row_is_healed(kernels, sweep):
    expected, _ = sweep.run(kernels)
    for poison in (np.nan, 1e30):
        own = copied(sweep.own)
        own.factors[0] = poison
        _, gains = sweep.run(kernels, own)
        assert_close(own, expected)
        if np.isnan(poison):
            assert gains[0] == np.inf


@every_kernel
def test_rows_without_ratings_become_zero(kernels):
    problem = sweep(np.random.default_rng(10), 20, 5, 7, 0.0, 0.1, 0.2, False)
    own, gains = problem.run(kernels)
    assert not own.factors.any()
    assert not own.biases.any()
    norms = 0.1 * (problem.own.factors.astype(np.float64) ** 2).sum(1) + 0.2 * problem.own.biases.astype(np.float64) ** 2
    np.testing.assert_allclose(gains, norms / 2, rtol=1e-4)


@every_kernel
def test_no_rows_are_no_work(kernels):
    problem = sweep(np.random.default_rng(11), 3, 5, 7, 0.5, 0.1, 0.1, True)
    nothing = kernels.als(problem.own, problem.other, np.zeros(0, np.int32), histories_of([]), **problem.how)
    assert nothing.shape == (0,)
