"""Truncated singular value decomposition of a whole history: every pair counts, also one that has no rating.

With ``zero`` the matrix A holds 0 where there is no rating. With ``biases`` it holds ``x − intercept − b − c`` and, again, 0
where there is none: a missing rating is taken to be what mean and biases say. The best approximation of A of rank K is
``U Σ Vᵀ``; users get ``U √Σ``, items ``V √Σ``.

Source: Halko, Martinsson and Tropp, SIAM Review 53(2), 2011, algorithm 4.4, until the passes gain nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.fitting.iterations import NOTHING, Iteration, rmse
from factorstream.worker.kernels.api import F64, I32
from factorstream.worker.kernels.sparse import times
from factorstream.worker.learn.settings import Learning
from factorstream.worker.model.model import Model
from factorstream.worker.model.ratings import Held

Missing = Literal["zero", "biases"]

EXACT_WORK = 3e9
"""Rows × columns × the fewer of both, up to which the decomposition is LAPACK's: about three seconds."""
OVERSAMPLING = 10
"""Directions followed besides the K wanted."""
LEAST_GAIN = 1e-7
"""Share of the matrix's squares that a pass must still add to what is captured."""
BIAS_PASSES = 20


@dataclass(frozen=True, slots=True)
class Sparse:
    """A matrix of which most places are zero."""

    rows: I32
    columns: I32
    values: F64
    shape: tuple[int, int]

    @property
    def squares(self) -> float:
        """Σ of the squares of all places."""
        return float(self.values @ self.values)

    def dense(self) -> F64:
        """Return it with every place written out."""
        full = np.zeros(self.shape)
        full[self.rows, self.columns] = self.values
        return full

    def times(self, right: F64) -> F64:
        """Return ``A @ right``."""
        return times(self.rows, self.columns, self.values, right, self.shape[0])

    def transposed_times(self, right: F64) -> F64:
        """Return ``Aᵀ @ right``."""
        return times(self.columns, self.rows, self.values, right, self.shape[1])


@dataclass(frozen=True, slots=True)
class Triplets:
    """``U diag(σ) Vᵀ``, σ descending; of each column of V the entry largest in size is positive."""

    u: F64
    sigma: F64
    v: F64

    def first(self, rank: int) -> Triplets:
        """Return the first *rank* triplets, fewer where there are not so many."""
        v = self.v[:, :rank]
        signs = np.where(v[np.abs(v).argmax(axis=0), np.arange(v.shape[1])] < 0, -1.0, 1.0)
        return Triplets(self.u[:, :rank] * signs, self.sigma[:rank], v * signs)


def fit_svd(
    model: Model, learning: Learning, holdout: Held = NOTHING, *, missing: Missing | None = None, n_iterations: int, seed: int
) -> Iterator[Iteration]:
    """Give *model*, which is prepared, the best approximation of rank K; yield after each pass.

    Small matrices take one pass, which is exact. The objective is half the sum of squares of what is left of A, over all places.

    Args:
        missing: None: ``zero`` for a matrix without gaps, of which the plain decomposition is wanted, else ``biases``.
    """
    if missing is None:
        missing = "biases" if model.ratings.n_ratings < model.users.n * model.items.n else "zero"
    began = time.perf_counter()
    matrix = matrix_of(model, learning, missing)
    for triplets in decompositions(matrix, model.rank, n_passes=n_iterations, seed=seed):
        take(model, triplets)
        seconds = time.perf_counter() - began
        left = max(0.0, matrix.squares - float(triplets.sigma @ triplets.sigma))
        yield Iteration(0.5 * left, seconds, rmse(model, learning, holdout))
        began = time.perf_counter()


def start_from_svd(model: Model, learning: Learning, *, seed: int) -> None:
    """Let *model*, which is prepared, start from mean, biases and the decomposition of the rest.

    Factors beyond the matrix's own rank keep the start they have: descent could not leave zero.
    """
    begun = model.users.factors.copy(), model.items.factors.copy()
    for triplets in decompositions(matrix_of(model, learning, "biases"), model.rank, n_passes=4, seed=seed):
        take(model, triplets)
    n = int(np.count_nonzero(triplets.sigma > 1e-9 * triplets.sigma.max(initial=1e-300)))
    for rows, factors in zip((model.users, model.items), begun, strict=True):
        rows.factors[:, n:] = factors[:, n:]


def matrix_of(model: Model, learning: Learning, missing: Missing) -> Sparse:
    """Return A, and set the intercept and the biases of *model* to what A leaves to them."""
    users, items, ratings, _ = model.ratings.entries()
    values = ratings.astype(np.float64)
    model.users.biases[:], model.items.biases[:] = 0.0, 0.0
    if missing == "zero":
        model.level.intercept = 0.0
    else:
        penalty = learning.penalty(model.level)
        values -= model.level.intercept
        b, c = _biases(users, items, values, model, penalty.bias, weighted=penalty.weighted)
        model.users.biases[:], model.items.biases[:] = b, c
        values -= model.users.biases[users].astype(np.float64) + model.items.biases[items]
    return Sparse(users, items, values, (model.users.n, model.items.n))


def _biases(
    users: I32, items: I32, values: F64, model: Model, penalty: float, *, weighted: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the biases that, without factors, explain *values* best under their λ."""
    counts = [side.astype(np.float64) for side in (model.ratings.user_counts, model.ratings.item_counts)]
    n_users, n_items = (np.maximum(n + penalty * (n if weighted else 1.0), 1e-9) for n in counts)
    b, c = np.zeros(len(n_users)), np.zeros(len(n_items))
    for _ in range(BIAS_PASSES):
        b = np.bincount(users, values - c[items], len(b)) / n_users
        c = np.bincount(items, values - b[users], len(c)) / n_items
    return b, c


def take(model: Model, triplets: Triplets) -> None:
    """Set the factors of *model* to ``U √Σ`` and ``V √Σ``, zero where there are fewer triplets than factors."""
    root = np.sqrt(triplets.sigma)
    for rows, vectors in ((model.users, triplets.u), (model.items, triplets.v)):
        rows.factors[:] = 0.0
        rows.factors[:, : len(root)] = vectors * root


def decompositions(matrix: Sparse, rank: int, *, n_passes: int, seed: int, exact_work: float = EXACT_WORK) -> Iterator[Triplets]:
    """Yield the first *rank* triplets: exactly and once for a small matrix, else better and better until nothing is gained."""
    if matrix.shape[0] * matrix.shape[1] * min(matrix.shape) <= exact_work:
        u, sigma, vt = np.linalg.svd(matrix.dense(), full_matrices=False)
        yield Triplets(u, sigma, vt.T).first(rank)
        return
    yield from _randomized(matrix, rank, n_passes, seed)


def _randomized(matrix: Sparse, rank: int, n_passes: int, seed: int) -> Iterator[Triplets]:
    width = min(rank + OVERSAMPLING, *matrix.shape)
    q = _orthonormal(matrix.times(np.random.default_rng(seed).standard_normal((matrix.shape[1], width))))
    captured = 0.0
    for _ in range(n_passes):
        w, r = np.linalg.qr(matrix.transposed_times(q))  # A ≈ q rᵀ wᵀ
        left, sigma, right = np.linalg.svd(r.T)
        triplets = Triplets(q @ left, sigma, w @ right.T).first(rank)
        yield triplets
        before, captured = captured, float(triplets.sigma @ triplets.sigma)
        if captured - before <= LEAST_GAIN * matrix.squares:
            return
        q = _orthonormal(matrix.times(w))


def _orthonormal(columns: F64) -> F64:
    return np.linalg.qr(columns)[0]
