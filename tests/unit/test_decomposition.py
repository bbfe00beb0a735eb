"""The decomposition of a whole matrix: numpy's, exactly on small ones and by random projections on large ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorstream.worker import fitting, kernels
from factorstream.worker.config import load
from factorstream.worker.fitting import decomposition
from factorstream.worker.fitting.decomposition import Sparse
from factorstream.worker.local import generated
from factorstream.worker.model.model import Model
from factorstream.worker.wiring import learning_of

CPU = kernels.select("cpu")
LEARNING = learning_of(load(None, [], {}))


def prepared(matrix, rank):
    """Return a model of the places of *matrix* that are not NaN."""
    users, items = (rows.astype(np.int32) for rows in np.nonzero(~np.isnan(matrix)))
    held = fitting.last_writes(
        users, items, matrix[users, items].astype(np.float32), np.zeros(len(users), np.int64),
        n_users=matrix.shape[0], n_items=matrix.shape[1],
    )  # fmt: skip
    model = Model(rank, seed=1)
    fitting.prepare(model, held, CPU, LEARNING)
    return model


def scores(model):
    products = model.users.factors.astype(np.float64) @ model.items.factors.T.astype(np.float64)
    return model.level.intercept + model.users.biases[:, None] + model.items.biases[None, :] + products


def best(matrix, rank):
    u, sigma, vt = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * sigma[:rank] @ vt[:rank]


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32))
def test_a_complete_matrix_gets_numpys_best_approximation(n_users, n_items, rank, seed):
    matrix = np.random.default_rng(seed).normal(size=(n_users, n_items)).astype(np.float32).astype(np.float64)
    model = prepared(matrix, rank)
    [step] = fitting.fit_svd(model, LEARNING, n_iterations=9, seed=0)
    expected = best(matrix, rank)
    assert scores(model) == pytest.approx(expected, abs=1e-5)
    assert step.objective == pytest.approx(0.5 * ((matrix - expected) ** 2).sum(), abs=1e-9)


def test_missing_ratings_are_zero_or_what_mean_and_biases_say():
    random = np.random.default_rng(1)
    matrix = np.where(random.random((20, 15)) < 0.4, random.integers(1, 6, (20, 15)), np.nan)
    model = prepared(matrix, 3)
    list(fitting.fit_svd(model, LEARNING, missing="zero", n_iterations=1, seed=0))
    assert scores(model) == pytest.approx(best(np.nan_to_num(matrix), 3), abs=1e-5)
    model = prepared(matrix, 3)
    list(fitting.fit_svd(model, LEARNING, n_iterations=1, seed=0))
    level = model.level.intercept + model.users.biases[:, None] + model.items.biases[None, :]
    filled = np.where(np.isnan(matrix), level, matrix)
    assert scores(model) == pytest.approx(level + best(filled - level, 3), abs=1e-5)
    b = np.nansum(matrix - model.level.intercept - model.items.biases, axis=1) / ((~np.isnan(matrix)).sum(axis=1) + 2.5)
    assert model.users.biases == pytest.approx(b, abs=1e-3)


@pytest.mark.parametrize("shape", [(300, 200), (60, 400)])
def test_random_projections_find_what_lapack_finds(shape):
    random = np.random.default_rng(0)
    rows, columns = np.nonzero(random.random(shape) < 0.1)
    matrix = Sparse(rows.astype(np.int32), columns.astype(np.int32), random.normal(size=len(rows)) + 1.0, shape)
    *_, found = decomposition.decompositions(matrix, 6, n_passes=500, seed=4, exact_work=0)
    [exact] = decomposition.decompositions(matrix, 6, n_passes=1, seed=0)
    assert found.sigma @ found.sigma == pytest.approx(exact.sigma @ exact.sigma, rel=1e-4)
    assert found.sigma[0] == pytest.approx(exact.sigma[0], rel=1e-9)
    assert np.abs(found.u.T @ found.u - np.eye(6)).max() < 1e-9
    assert np.abs(found.v[:, 0] - exact.v[:, 0]).max() < 1e-6
    again = list(decomposition.decompositions(matrix, 6, n_passes=500, seed=4, exact_work=0))
    assert (again[-1].u == found.u).all()
    captured = [np.sum(step.sigma**2) for step in again]
    assert (np.diff(captured) >= -1e-9 * captured[-1]).all()


def test_descent_that_starts_from_the_decomposition_begins_lower():
    learning = learning_of(load(None, ["als.lambda_user=1", "als.lambda_item=1"], {}))
    drawn = generated.ratings(4_000, 200, 100, seed=3)
    columns = (drawn.users, drawn.items, drawn.ratings, drawn.timestamps_ms)
    objectives = []
    for begins_from_svd in (False, True):
        model = Model(8, seed=1)
        fitting.prepare(model, fitting.last_writes(*columns, n_users=200, n_items=100), CPU, learning)
        if begins_from_svd:
            fitting.start_from_svd(model, learning, seed=0)
        objectives.append([step.objective for step in fitting.fit(model, CPU, learning, method="als", n_iterations=30, seed=0)])
    assert objectives[1][0] < objectives[0][0]
    assert objectives[1][-1] == pytest.approx(objectives[0][-1], rel=0.02)


def test_a_rank_above_the_matrixs_own_still_has_somewhere_to_descend():
    model = prepared(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, np.nan]]), 4)
    fitting.start_from_svd(model, LEARNING, seed=0)
    assert (np.abs(model.users.factors).max(axis=0) > 0).all()
