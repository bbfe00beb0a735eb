"""Clicks over all pairs: the dense equations, gains that are what the objective loses, and Gram matrices that follow."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker import kernels
from factorstream.worker.kernels import cpu
from factorstream.worker.kernels.api import Histories, Side
from factorstream.worker.kernels.gram import gram_of, replace_rows
from factorstream.worker.kernels.ranking import Clicks, rank_clicks
from tests.kernels.problems import copied, histories_of, sparing

REFERENCE = kernels.available_kernels()[0]
every_kernel = pytest.mark.parametrize("kernels", kernels.available_kernels(), ids=lambda one: one.name)
every_other = pytest.mark.parametrize("kernels", kernels.available_kernels()[1:], ids=lambda one: one.name)


@dataclass(frozen=True)
class Problem:
    """A side before its rows are solved, and the dense matrix of strengths."""

    own: Side
    other: Side
    strengths: np.ndarray
    alpha: float
    penalties: np.ndarray

    @property
    def effort(self):
        return self.own.factors.size

    @property
    def histories(self):
        """Every other pair without a click is said to hold 0, which means the same as not to be there."""
        return histories_of([[(m, x) for m, x in enumerate(row) if x > 0 or (x == 0 and m % 2)] for row in self.strengths])

    @property
    def gram(self):
        return gram_of(self.other.factors, np.ones(len(self.other.factors), bool))

    def run(self, kernels, rows=None, own=None, solver="exact"):
        own = own or copied(self.own)
        rows = np.arange(len(self.strengths), dtype=np.int32) if rows is None else rows
        histories, starts = self.histories, self.histories.starts
        entries = [list(zip(histories.others[a:b], histories.ratings[a:b], strict=True)) for a, b in pairwise(starts)]
        chosen = histories_of([entries[row] for row in rows])
        how = {"alpha": self.alpha, "penalties": self.penalties[rows], "solver": solver}
        return own, kernels.implicit(own, self.other, rows, chosen, self.gram, **how)

    def objective(self, own):
        """Return the objective's part of each row, every pair written out."""
        u, v = own.factors.astype(np.float64), self.other.factors.astype(np.float64)
        confidences, preferred = 1 + self.alpha * self.strengths, self.strengths > 0
        return 0.5 * (confidences * (preferred - u @ v.T) ** 2).sum(1) + 0.5 * self.penalties * (u**2).sum(1)


@st.composite
def problems(draw, penalties=(0.02, 5.0)):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_own, n_other, rank = draw(st.integers(1, 40)), draw(st.integers(1, 90)), draw(st.integers(1, 40))
    share = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    strengths = np.where(rng.random((n_own, n_other)) < share, rng.integers(0, 5, (n_own, n_other)), 0).astype(np.float32)
    weights = np.float32(draw(st.floats(*penalties))) * rng.integers(1, 5, n_own).astype(np.float32)
    tables = [Side(rng.normal(0, 0.3, (n, rank)).astype(np.float32), np.zeros(n, np.float32)) for n in (n_own, n_other)]
    return Problem(*tables, strengths, draw(st.sampled_from([0.01, 1.0, 40.0])), weights)


@every_kernel
@given(problems())
@sparing
def test_rows_solve_the_dense_equations(kernels, problem):
    own, _ = problem.run(kernels)
    v = problem.other.factors.astype(np.float64)
    for row, x in enumerate(problem.strengths.astype(np.float64)):
        confidence = np.diag(1 + problem.alpha * x)
        matrix = v.T @ confidence @ v + problem.penalties[row] * np.eye(v.shape[1])
        expected = np.linalg.solve(matrix, v.T @ confidence @ (x > 0))
        moved = abs(problem.own.factors[row]).max()  # a change is solved for: of so much, float32's digits are left
        tolerance = 2e-3 * (1e-3 + abs(expected).max()) + 1e-4 * moved
        np.testing.assert_allclose(own.factors[row], expected, rtol=2e-3, atol=tolerance)


@every_kernel
@given(problems())
@sparing
def test_a_solve_lowers_the_objective_by_what_it_says(kernels, problem):
    own, gains = problem.run(kernels)
    before, after = problem.objective(problem.own), problem.objective(own)
    assert (gains >= 0).all()
    np.testing.assert_allclose(before - after, gains, rtol=2e-3, atol=1e-5 * (1 + before.max()))


@every_other
@pytest.mark.parametrize("rank", [3, 20])
def test_rows_of_any_length_agree_with_the_reference(kernels, rank):
    """None, a few, and as many as a GPU sums in one piece, in two and in three."""
    rng = np.random.default_rng(rank)
    lengths = (0, 1, rank, 1024, 1025, 2100)
    met = [np.sort(rng.choice(max(lengths), n, replace=False)) for n in lengths]
    histories = histories_of([[(int(m), float(rng.integers(0, 5))) for m in others] for others in met])
    own, other = (
        Side(rng.normal(0, 0.3, (n, rank)).astype(np.float32), np.zeros(n, np.float32)) for n in (len(lengths), max(lengths))
    )
    gram, penalties = gram_of(other.factors, np.ones(max(lengths), bool)), np.linspace(0.5, 2, len(lengths), dtype=np.float32)
    results = []
    for one in (kernels, REFERENCE):
        side, rows = copied(own), np.arange(len(lengths), dtype=np.int32)
        gains = one.implicit(side, other, rows, histories, gram, alpha=3.0, penalties=penalties, solver="exact")
        results.append((side.factors, gains))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not results[0][0][0].any()


@every_kernel
@given(problems(), st.integers(1, 7))
@sparing
def test_a_row_does_not_depend_on_those_solved_with_it(kernels, problem, step):
    whole, gains = problem.run(kernels)
    rows = np.arange(len(problem.strengths), dtype=np.int32)[::step]
    part, some = problem.run(kernels, rows)
    assert part.factors[rows].tobytes() == whole.factors[rows].tobytes()
    assert some.tobytes() == gains[::step].tobytes()


@every_kernel
@given(problems(penalties=(0.0, 0.0)))
@sparing
def test_without_a_penalty_the_solution_has_minimum_norm(kernels, problem):
    own, _ = problem.run(kernels)
    v = problem.other.factors.astype(np.float64)
    for row, x in enumerate(problem.strengths.astype(np.float64)):
        roots = np.sqrt(1 + problem.alpha * x)
        best = np.linalg.lstsq(roots[:, None] * v, roots * (x > 0), rcond=1e-6)[0]
        found = own.factors[row].astype(np.float64)
        assert problem.objective(own)[row] <= 0.5 * ((roots * (v @ best - (x > 0))) ** 2).sum() + 1e-4 * (1 + (best**2).sum())
        assert (found**2).sum() <= (best**2).sum() * (1 + 1e-3) + 1e-6


@given(problems(), st.integers(1, 7))
def test_conjugate_gradients_go_to_the_same_rows_each_by_itself(problem, step):
    problem = Problem(problem.own, problem.other, problem.strengths, problem.alpha, np.full_like(problem.penalties, 0.5))
    exact, whole_gains = problem.run(cpu)
    found, gains = problem.run(cpu, solver="cg")
    assert (gains >= 0).all()
    assert gains.sum() >= 0.97 * whole_gains.sum() - 1e-4
    rows = np.arange(len(problem.strengths), dtype=np.int32)[::step]
    part, some = problem.run(cpu, rows, solver="cg")
    assert part.factors[rows].tobytes() == found.factors[rows].tobytes()
    assert some.tobytes() == gains[::step].tobytes()
    for _ in range(6):
        found, _ = problem.run(cpu, own=found, solver="cg")
    np.testing.assert_allclose(found.factors, exact.factors, rtol=5e-3, atol=5e-3 * (1e-3 + abs(exact.factors).max()))


@pytest.mark.parametrize("solver", ["exact", "cg"])
def test_the_number_of_threads_changes_no_bit(monkeypatch, solver):
    rng = np.random.default_rng(5)
    strengths = rng.integers(0, 3, (200, 150)).astype(np.float32)
    tables = [Side(rng.normal(0, 0.3, (n, 24)).astype(np.float32), np.zeros(n, np.float32)) for n in (200, 150)]
    problem = Problem(*tables, strengths, 3.0, np.full(200, 0.5, np.float32))
    monkeypatch.setattr(cpu, "WORTH_A_THREAD", 1)
    results = set()
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(cpu, "threads", threads)
        own, gains = problem.run(cpu, solver=solver)
        results.add((own.factors.tobytes(), gains.tobytes()))
    assert len(results) == 1


@every_kernel
@given(problems(), st.sampled_from([np.nan, np.inf, 1e30]))
@sparing
def test_a_diverged_row_is_healed(kernels, problem, poison):
    expected, _ = problem.run(kernels)
    own = copied(problem.own)
    own.factors[0] = poison
    found, gains = problem.run(kernels, own=own)
    scale = abs(expected.factors).max()
    np.testing.assert_allclose(found.factors[1:], expected.factors[1:], rtol=1e-3, atol=1e-3 * scale + 1e-5)
    if not np.isfinite(poison):
        np.testing.assert_allclose(found.factors[0], expected.factors[0], rtol=1e-3, atol=1e-3 * scale + 1e-5)
        assert gains[0] == np.inf


@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 40))
def test_a_gram_matrix_kept_up_to_date_is_that_of_the_rows_that_count(seed, rank, n_events):
    rng = np.random.default_rng(seed)
    factors, counted = rng.normal(size=(9, rank)).astype(np.float32), rng.random(9) < 0.5
    gram, before = gram_of(factors, counted), int(counted.sum())
    rows, held = rng.integers(0, 9, n_events).astype(np.int32), rng.integers(0, 3, n_events).astype(np.int32)
    n_more = replace_rows(gram, factors, counted, rows, rng.normal(size=(n_events, rank)).astype(np.float32), held)
    assert before + n_more == counted.sum()
    rows = factors[counted].astype(np.float64)
    np.testing.assert_allclose(gram, rows.T @ rows, atol=1e-12 * (1 + n_events))


def test_an_item_is_a_hit_when_fewer_than_ten_sampled_ones_score_as_high():
    n_items = 400
    items = np.linspace(1, 0, n_items, dtype=np.float32)[:, None]  # item 0 is everyone's best
    users = np.ones((1, 1), np.float32)
    tested = np.arange(n_items, dtype=np.int32)
    n = len(tested)
    clicks = Clicks(
        user_rows=np.zeros(n, np.int32),
        item_rows=tested,
        solved=np.zeros((n, 1), np.float32),
        is_solved=np.zeros(n, bool),
        asked=np.ones(n, bool),
        n_known=np.full(n, n_items),
        histories=Histories(np.arange(n + 1), tested, np.ones(n, np.float32)),
    )
    scores, hits = np.zeros(n, np.float32), np.full(n, np.nan, np.float32)
    every = np.ones(n_items, bool)
    rank_clicks(clicks, users, np.ones(1, bool), items, every, 7, scores, hits)
    assert scores.tolist() == items[:, 0].tolist()
    assert hits[:10].all(), "the ten best are found among any"
    assert not hits[100:].any()
    for all_alike in (np.zeros(n_items, bool), every):  # a user, or items, of which nothing is known
        ties = np.full(n, np.nan, np.float32)
        rank_clicks(clicks, 0 * users, np.ones(1, bool), items, all_alike, 7, scores, ties)
        assert not ties.any()
