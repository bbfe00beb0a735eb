"""Laws of `Kernels.initialize`."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.kernels import available_kernels, reference
from factorstream.worker.kernels.api import Side
from tests.kernels.problems import sparing

every_kernel = pytest.mark.parametrize("kernels", available_kernels(), ids=lambda kernels: kernels.name)


def table(rows, rank):
    return Side(np.full((rows, rank), np.nan, np.float32), np.full(rows, np.nan, np.float32))


def filled(kernels, rows, rank, *, seed=1, stream=0, deviation=0.1):
    side = table(rows, rank)
    kernels.initialize(side, 0, rows, seed=seed, stream=stream, deviation=deviation)
    return side


def test_the_hash_is_splitmix64():
    assert reference.splitmix64(0) == 0xE220A8397B1DCDAF
    assert reference.splitmix64(2**64 - 1) == reference.splitmix64(-1)


@every_kernel
@given(st.integers(-(2**70), 2**70), st.integers(0, 3), st.integers(1, 20))
@sparing
def test_kernels_agree_with_the_reference(kernels, seed, stream, rank):
    found = filled(kernels, 5, rank, seed=seed, stream=stream)
    expected = filled(reference, 5, rank, seed=seed, stream=stream)
    np.testing.assert_allclose(found.factors, expected.factors, rtol=1e-6)
    assert not found.biases.any()


@every_kernel
@given(st.lists(st.integers(0, 30), max_size=4))
@sparing
def test_a_row_is_the_same_however_rows_were_added(kernels, cuts):
    whole, side = filled(kernels, 30, 7), table(30, 7)
    places = sorted({0, 30, *cuts})
    for first, stop in itertools.pairwise(places):
        kernels.initialize(side, first, stop, seed=1, stream=0, deviation=0.1)
    assert side.factors.tobytes() == whole.factors.tobytes()


@every_kernel
def test_rows_outside_are_left_alone(kernels):
    side = table(10, 3)
    kernels.initialize(side, 4, 6, seed=1, stream=0, deviation=0.1)
    assert np.isnan(side.factors[[0, 3, 6, 9]]).all()
    assert np.isfinite(side.factors[4:6]).all()


@every_kernel
def test_factors_are_normal_and_independent(kernels):
    sides = [filled(kernels, 5000, 6, seed=seed, stream=stream).factors for seed, stream in ((1, 0), (1, 1), (2, 0))]
    for factors in sides:
        assert abs(factors.mean()) < 0.003
        assert factors.std() == pytest.approx(0.1, rel=0.03)
        assert (np.abs(factors) < 0.1).mean() == pytest.approx(0.683, abs=0.02)
    columns = np.concatenate(sides, axis=1)
    assert np.abs(np.corrcoef(columns.T) - np.eye(18)).max() < 0.07
