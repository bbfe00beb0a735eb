"""Laws of `Kernels.calibrate`, for every set of kernels that this machine runs."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.kernels import available_kernels, terms
from factorstream.worker.kernels.api import Scored
from factorstream.worker.kernels.terms import Memory
from tests.kernels.problems import batch_of, slice_of

REFERENCE = available_kernels()[0]
every_kernel = pytest.mark.parametrize("kernels", available_kernels(), ids=lambda kernels: kernels.name)
every_other = pytest.mark.parametrize("kernels", available_kernels()[1:], ids=lambda kernels: kernels.name)
N_USERS, N_ITEMS = 4, 5


def memory():
    return Memory(
        np.zeros((N_USERS, terms.USER_COLUMNS), np.float32),
        np.zeros(N_USERS, np.int64),
        np.zeros((N_ITEMS, terms.ITEM_COLUMNS), np.float32),
        np.zeros(N_ITEMS, np.int64),
        terms.first_weights(),
        np.diag(terms.first_variances()),
        np.array([terms.FIRST_NOISE]),
        np.zeros(1, np.int64),
    )


def stream(seed, n, *, scale=1.0, unrates=0.1):
    """Return what a kernel would have predicted of *n* events, the events, and their times; now and then one comes late."""
    with np.errstate(all="ignore"):
        return _stream(np.random.default_rng(seed), n, scale, unrates)


def _stream(rng, n, scale, unrates):
    rows = rng.integers(0, N_USERS, n), rng.integers(0, N_ITEMS, n)
    ratings = np.where(rng.random(n) < unrates, np.nan, scale * rng.normal(0, 1, n))
    batch = batch_of(list(zip(*(column.tolist() for column in (*rows, ratings)), strict=True)), 0)
    parts = scale * rng.normal(0, 0.5, (3, n)).astype(np.float32)
    scored = Scored((batch.ratings - parts.sum(axis=0)).astype(np.float32), *parts)
    times = np.cumsum(rng.choice([0, 200, 5_000, 3_000_000, -1_000], n)).astype(np.int64) + 1_600_000_000_000
    return scored, batch, times


def calibrated(kernels, at, scored, batch, times, spread=1.0):
    return kernels.calibrate(at, scored, batch, times, spread=spread)


@every_other
@given(st.integers(0, 2**32), st.integers(0, 80), st.sampled_from([1.0, 20.0]))
def test_kernels_agree_with_the_reference(kernels, seed, n, spread):
    found, expected = memory(), memory()
    events = stream(seed, n, scale=spread)
    errors, expected_errors = (calibrated(k, m, *events, spread) for k, m in ((kernels, found), (REFERENCE, expected)))
    np.testing.assert_allclose(errors, expected_errors, rtol=1e-4, atol=1e-4 * spread)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * spread)


@every_kernel
@given(st.integers(0, 2**32), st.lists(st.integers(0, 60), max_size=5))
def test_a_batch_means_the_same_however_it_is_cut(kernels, seed, cuts):
    scored, batch, times = stream(seed, 60)
    whole, cut = memory(), memory()
    expected = calibrated(kernels, whole, scored, batch, times)
    found = [
        calibrated(kernels, cut, Scored(*(c[a:b] for c in scored)), slice_of(batch, a, b), times[a:b])
        for a, b in itertools.pairwise(sorted({0, 60, *cuts}))
    ]
    assert np.concatenate(found).tobytes() == expected.tobytes()
    assert all(one.tobytes() == other.tobytes() for one, other in zip(whole, cut, strict=True))


@every_kernel
def test_what_has_learned_nothing_changes_nothing(kernels):
    scored, batch, times = stream(3, 1, unrates=0.0)
    np.testing.assert_allclose(calibrated(kernels, memory(), scored, batch, times), scored.errors, rtol=1e-6)


@every_kernel
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38, 1e12])
def test_absurd_numbers_are_not_remembered_for_good(kernels, poison):
    """A fortnight of sense later, errors are what they would have been."""
    poisoned, clean = memory(), memory()
    before, after = stream(4, 200), stream(5, 2000)
    for at in (poisoned, clean):
        calibrated(kernels, at, *before)
    calibrated(kernels, poisoned, *(stream(6, 20, scale=poison)))
    late = after[2] + 10**10
    found, expected = (calibrated(kernels, at, *after[:2], late) for at in (poisoned, clean))
    assert all(np.isfinite(table).all() for table in poisoned)
    rated = ~np.isnan(expected)
    found, expected = (float(np.sqrt(np.mean(errors[rated][-1000:] ** 2))) for errors in (found, expected))
    assert found == pytest.approx(expected, rel=0.03)


@every_kernel
@given(st.integers(0, 2**32), st.sampled_from([1e-3, 7.0, 1e4]))
def test_the_unit_of_the_ratings_does_not_matter(kernels, seed, scale):
    errors = [calibrated(kernels, memory(), *stream(seed, 60, scale=unit), spread=unit) / unit for unit in (1.0, scale)]
    np.testing.assert_allclose(*errors, rtol=1e-3, atol=1e-3)


@every_kernel
def test_a_session_a_scale_and_a_level_are_found(kernels):
    """Users have moods of an hour or so, products are twice too small, all is half a point too high."""
    rng = np.random.default_rng(7)
    n = 6000
    moods = np.repeat(rng.normal(0, 0.7, (n // 20, N_USERS)), 20, axis=0)
    events = [(int(u), int(m), 0.0) for u, m in zip(rng.integers(0, N_USERS, n), rng.integers(0, N_ITEMS, n), strict=True)]
    batch = batch_of(events, 0)
    d = rng.normal(0, 0.5, n).astype(np.float32)
    ratings = 2 * d - 0.5 + moods[np.arange(n), batch.user_rows] + rng.normal(0, 0.3, n)
    zeros = np.zeros(n, np.float32)
    scored = Scored((ratings - d).astype(np.float32), zeros, zeros, d)
    times = (np.arange(n) // 20 * 86_400_000 + np.arange(n) % 20 * 10_000).astype(np.int64)
    errors = calibrated(kernels, memory(), scored, batch._replace(ratings=ratings.astype(np.float32)), times)
    plain, corrected = (float(np.sqrt(np.mean(e[n // 2 :] ** 2))) for e in (scored.errors, errors))
    assert plain > 0.95
    assert corrected < 0.6
