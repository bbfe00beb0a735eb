"""Every objective and optimizer there is, found by their names, with ratings that suit them; what they mean, by scipy."""

from __future__ import annotations

import itertools
import typing

import numpy as np
from scipy import stats
from scipy.special import expit

from factorstream.worker.kernels.api import Loss, LossName, Moments, Objective, Optimizer, OptimizerName, Penalty, Side
from tests.kernels.problems import side

CUTS = np.array([-1.5, -0.4, 0.3, 1.8])
LOSSES = {
    "squared": (Loss(), lambda rng, n: rng.normal(3, 1, n)),
    "logistic": (Loss("logistic"), lambda rng, n: rng.integers(0, 2, n)),
    "poisson": (Loss("poisson"), lambda rng, n: rng.poisson(3, n)),
    "ordinal": (Loss("ordinal", 1.0, 0.5, CUTS), lambda rng, n: 1 + rng.integers(0, 5, n) / 2),
}
NAMES = typing.get_args(LossName)
OPTIMIZERS = typing.get_args(OptimizerName)


def objectives():
    """Return every loss with and without L1, the constraint, and weights."""
    return [
        Objective(Penalty(0.3, 0.2, 0.1, weighted, lasso, lasso / 2), LOSSES[name][0], nonnegative, not nonnegative)
        for name, lasso, nonnegative, weighted in itertools.product(NAMES, (0.0, 0.3), (False, True), (False, True))
    ]


def label(objective):
    penalty = objective.penalty
    said = {"l1": penalty.l1_user > 0, "nonnegative": objective.nonnegative, "weighted": penalty.weighted}
    return "-".join([objective.loss.name, *(name for name, is_so in said.items() if is_so)])


def ratings_for(objective, rng, n):
    return LOSSES[objective.loss.name][1](rng, n).astype(np.float32)


def side_for(objective, rng, rows, rank):
    """Return a side that *objective* allows."""
    free = side(rng, rows, rank)
    return free if objective.biased else Side(np.abs(free.factors), np.zeros(rows, np.float32))


def optimizer_for(name, n_users, n_items, rank):
    def moments(rows):
        return Moments(np.zeros((rows, rank + 1), "f4"), np.zeros((rows, rank + 1), "f4"), np.zeros(rows, "i4"))

    return Optimizer(name, 0.9, 0.99, 1e-8, moments(n_users), moments(n_items))


def loss_of(loss, x, s):
    """Return −log P(x | s), but for what does not depend on s; scipy's distributions."""
    if loss.name == "squared":
        return -stats.norm.logpdf(x, s) + stats.norm.logpdf(0)
    if loss.name == "logistic":
        return -stats.bernoulli.logpmf(x, expit(s))
    if loss.name == "poisson":
        return -stats.poisson.logpmf(x, np.exp(s)) + stats.poisson.logpmf(x, 1) + 1
    level = np.round((np.asarray(x) - loss.lowest) / loss.step).astype(int)
    edges = np.concatenate([[-np.inf], loss.cuts, [np.inf]])
    return -np.log(expit(edges[level + 1] - s) - expit(edges[level] - s))


def total(objective, users, items, ratings, intercept):
    """Return the objective in float64; *ratings* are (user, item, x)."""
    p, b, q, c = (np.asarray(table, np.float64) for table in (*users, *items))
    n, m, x = (np.array(column) for column in zip(*ratings, strict=True))
    scores = intercept + b[n] + c[m] + np.einsum("jk,jk->j", p[n], q[m])
    penalty = objective.penalty
    value = float(np.sum(loss_of(objective.loss, np.asarray(x, np.float64), scores)))
    for factors, biases, rows, of_users in ((p, b, n, True), (q, c, m, False)):
        ridge, lasso = penalty.on(users=of_users)
        weights = np.bincount(rows, minlength=len(biases)) if penalty.weighted else np.ones(len(biases))
        value += weights @ (0.5 * ridge * (factors**2).sum(1) + lasso * np.abs(factors).sum(1) + 0.5 * penalty.bias * biases**2)
    return value
