"""Losses: what they are by scipy's distributions, and their derivatives by finite differences."""

import numpy as np
import pytest

from factorstream.worker.kernels import losses
from tests.kernels.objectives import LOSSES, NAMES, loss_of

every_loss = pytest.mark.parametrize("name", NAMES)
SCORES = np.linspace(-6, 6, 49)


def drawn(name):
    """Return pairs of ratings and scores, and the cut points around each."""
    loss, draw = LOSSES[name]
    x = draw(np.random.default_rng(0), len(SCORES)).astype(np.float64)
    return loss, losses.KINDS[name], x, np.array([losses.around(y, loss.lowest, loss.step, loss.cuts) for y in x]).T


@every_loss
def test_a_loss_is_minus_the_logarithm_of_a_likelihood(name):
    loss, kind, x, bounds = drawn(name)
    np.testing.assert_allclose(losses.value(kind, x, SCORES, *bounds), loss_of(loss, x, SCORES), rtol=1e-9, atol=1e-9)


@every_loss
def test_slope_and_curvature_are_the_derivatives(name):
    _, kind, x, bounds = drawn(name)
    step = 1e-5
    for function, derivative in ((losses.value, losses.slope), (losses.slope, losses.curvature)):
        difference = function(kind, x, SCORES + step, *bounds) - function(kind, x, SCORES - step, *bounds)
        np.testing.assert_allclose(derivative(kind, x, SCORES, *bounds), difference / (2 * step), rtol=1e-5, atol=1e-7)


@every_loss
def test_no_curvature_on_the_way_to_the_minimum_is_steeper_than_said(name):
    _, kind, x, bounds = drawn(name)
    downhill = losses.slope(kind, x, SCORES, *bounds)
    most = losses.steepest(kind, x, SCORES)
    for share in np.linspace(0, 20, 200):
        s = SCORES - share * np.sign(downhill)
        before_minimum = losses.slope(kind, x, s, *bounds) * downhill >= 0
        assert (losses.curvature(kind, x, s, *bounds) <= most * (1 + 1e-12))[before_minimum].all()


@every_loss
def test_far_scores_cost_finite_numbers(name):
    _, kind, x, bounds = drawn(name)
    for s in (-1e6, -800.0, -40.0, 40.0, 800.0, 1e6):
        for function in (losses.value, losses.slope, losses.curvature):
            assert np.isfinite(function(kind, x, np.full(len(x), s), *bounds)).all()
        assert (losses.curvature(kind, x, np.full(len(x), s), *bounds) >= 0).all()
