"""What a set of kernels is: two functions over plain arrays, the same for `reference`, `cpu` and `gpu`.

Scores are ``s = intercept + b_n + c_m + u_n·v_m``. The objective, one for both functions, over the ratings held:

    Σ ½ (x_nm − s_nm)² + Σ_n ½ λ_n |u_n|² + Σ_m ½ λ_m |v_m|² + Σ_n ½ μ_n b_n² + Σ_m ½ μ_m c_m²

Plain: λ_n = λ_user, λ_m = λ_item, μ = λ_bias. Weighted (ALS-WR, Zhou et al. 2008): each times the number of the row's ratings.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


class Side(NamedTuple):
    """One side's parameters; kernels change them in place. Capacity may exceed the rows in use."""

    factors: F32
    """``(rows, K)``, C-contiguous."""
    biases: F32
    """``(rows,)``."""


class Histories(NamedTuple):
    """Ratings of several rows in one pair of columns: those of entry j are ``starts[j]:starts[j + 1]``.

    Ascending by other row; every rating is a number, every pair there once.
    """

    starts: I64
    """``(n + 1,)``."""
    others: I32
    """Rows of the other side."""
    ratings: F32


class Batch(NamedTuple):
    """Accepted events in the order they are learned."""

    user_rows: I32
    item_rows: I32
    ratings: F32
    """NaN for an unrate: nothing is stepped, but short rows are folded in again without it."""
    user_counts: I32
    """Ratings that the event's user holds just after it."""
    item_counts: I32
    user_histories: Histories
    """All ratings of the event's user just after it, if ``0 < user_counts[j] <= fold_in``; else an empty entry."""
    item_histories: Histories


class Penalty(NamedTuple):
    """λ of the objective."""

    user: float
    item: float
    bias: float
    weighted: bool


class Rates(NamedTuple):
    """Step sizes of SGD: a row with n ratings steps by ``rate / (1 + decay * n)``."""

    factors: float
    biases: float
    decay: float


class Kernels(Protocol):
    """``reference``, ``cpu`` or ``gpu``."""

    name: str

    def sgd(self, users: Side, items: Side, batch: Batch, *, intercept: float, penalty: Penalty, rates: Rates) -> F32:
        """Learn from *batch*, one event after another; return the errors ``x − s`` taken before each event's step.

        Rates may run in any order that no one can tell from this one. For event j with user n and item m, all from the
        values before the event (``b, c, u, v``), and ``e = x − s``:

        - a row with a history in the batch (fold-in) becomes the minimiser of the objective over that row alone, factors and
          bias jointly, against the other side's values before the event;
        - a row without takes a gradient step, proximal when plain, the bias likewise with its own rate and λ:
          weighted ``u ← u + η (e v − λ u)``; plain ``u ← (u + η e v) / (1 + η λ / count)``;
        - the step is bounded: with ``t = η_n |v|² [user steps] + η_m |u|² [item steps] + η_b of each side that steps``
          (rates after decay), e of the steps is multiplied by ``min(1, ½ / t)``: at most half of the error is taken back
          at once, so heavy tails and large factors cannot make the model diverge; the error returned is not bounded;
        - an unrate (x is NaN) only folds in; a row left with no rating stays as it is. Its error is NaN.

        A row that would step by an error that is not finite, or whose new values would not be, stays as it is; the event's
        error is then NaN or ±inf, and the caller counts it. So a diverged row poisons no other, and a fold-in heals it.

        Source: Koren, Bell and Volinsky, IEEE Computer 42(8), 2009; proximal step: Parikh and Boyd 2014, section 4.2.
        """

    def als(
        self,
        own: Side,
        other: Side,
        rows: I32,
        histories: Histories,
        *,
        intercept: float,
        penalty: float,
        bias_penalty: float,
        weighted: bool,
    ) -> F64:
        """Set each of *rows* to the minimiser of the objective over that row, against *other* as it is.

        ``(Σ v vᵀ + λ_n I) u = Σ (x − intercept − c − b) v`` jointly with the bias (Schur border); λ = 0 gives the least-squares
        solution of minimum norm. A row with an empty history becomes zero. A solution that is not finite leaves its row.
        No row is in *rows* twice. One row, one thread: the number of threads never changes bits.

        Returns: ``(len(rows),)``, by how much each row's solve lowered the objective: ``½ Δᵀ A Δ`` ≥ 0, ∞ for a row that was not
        finite, 0 for one that was left.
        """

    def initialize(self, side: Side, first: int, stop: int, *, seed: int, stream: int, deviation: float) -> None:
        """Fill rows ``first .. stop - 1``: factors from a counter hash of (seed, stream, row, k), biases zero.

        splitmix64 and Box–Muller, standard deviation *deviation*: the same on every platform up to rounding of log, sqrt and
        cos. *seed* and *stream* count modulo 2⁶⁴.
        """
