"""What a set of kernels is: two functions over plain arrays, the same for `reference`, `cpu` and `gpu`.

Scores are ``s = intercept + b_n + c_m + u_n·v_m``. The objective, one for both functions, over the ratings held:

    Σ ℓ(x_nm, s_nm) + Σ_n ½ λ_n |u_n|² + Σ_m ½ λ_m |v_m|² + Σ_n ½ μ_n b_n² + Σ_m ½ μ_m c_m² + Σ_n κ_n |u_n|₁ + Σ_m κ_m |v_m|₁

Plain: λ_n = λ_user, λ_m = λ_item, μ = λ_bias, κ likewise. Weighted (ALS-WR, Zhou et al. 2008): each times the number of the row's
ratings. ℓ is one of `losses`; squared: ½ (x − s)². Non-negative: subject to u, v ≥ 0. Without biases: b = c = 0.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.effects import Effects, Pull
from factorstream.worker.kernels.terms import Memory

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

    def fetch(self) -> None:
        """Bring the arrays up to date; they are, but where a device holds the rows (`Kernels.hold`)."""

    def send(self, rows: slice | NDArray[Any]) -> None:
        """Tell whoever holds the rows that *rows* of the arrays were changed here."""


class Histories(NamedTuple):
    """Ratings of several rows in one pair of columns: those of entry j are ``starts[j]:starts[j + 1]``.

    Ascending by other row; every rating is a number, every pair there once.
    """

    starts: I64
    """``(n + 1,)``."""
    others: I32
    """Rows of the other side."""
    ratings: F32


NO_MEANS = np.empty((0, 0), np.float32)


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
    user_means: F32 = NO_MEANS
    """``(B, K + 1)``: the prior mean of the event's user just after it, factors and bias; no rows: all are zero."""
    item_means: F32 = NO_MEANS


LossName = Literal["squared", "logistic", "poisson", "ordinal"]
OptimizerName = Literal["sgd", "momentum", "adagrad", "rmsprop", "adam"]
Solver = Literal["auto", "exact", "cg"]
"""How rows are solved for least squares."""
NO_CUTS = np.empty(0, np.float64)


class Loss(NamedTuple):
    """ℓ(x, s); what each name means is in `losses`."""

    name: LossName = "squared"
    lowest: float = 0.0
    """Ordinal: the lowest category; the others follow at distances of ``step``."""
    step: float = 1.0
    cuts: F64 = NO_CUTS
    """Ordinal: the points between the categories on the axis of scores, ascending; one fewer than there are categories."""


class Penalty(NamedTuple):
    """λ and κ of the objective."""

    user: float
    item: float
    bias: float
    weighted: bool
    l1_user: float = 0.0
    l1_item: float = 0.0

    def on(self, *, users: bool) -> tuple[float, float]:
        """Return λ and κ of the factors of one side."""
        return (self.user, self.l1_user) if users else (self.item, self.l1_item)


class Objective(NamedTuple):
    """What is minimised."""

    penalty: Penalty
    loss: Loss = Loss()
    nonnegative: bool = False
    """Whether factors must not be negative; they are not when a kernel begins. Needs ``biased = False``."""
    biased: bool = True
    """Whether rows have biases; without, these are zero and stay so."""

    @property
    def is_least_squares(self) -> bool:
        """Whether a row's minimiser is the solution of linear equations, with a bias."""
        return (
            self.loss.name == "squared" and not (self.nonnegative or self.penalty.l1_user or self.penalty.l1_item) and self.biased
        )


class Rates(NamedTuple):
    """Step sizes of SGD: a row with n ratings steps by ``rate / (1 + decay * n) / n ** power``."""

    factors: float
    biases: float
    decay: float
    power: float = 0.0


class Moments(NamedTuple):
    """What an optimizer remembers of one side's rows; kernels change it in place. Of a kind that it does not need: no rows."""

    first: F32
    """``(rows, K + 1)``: of each factor, and of the bias, the velocity of momentum or the mean gradient of Adam."""
    second: F32
    """``(rows, K + 1)``: the sum, or running mean, of squared gradients."""
    steps: I32
    """``(rows,)``: Adam's t, a row's own."""


NO_MOMENTS = Moments(np.empty((0, 1), np.float32), np.empty((0, 1), np.float32), np.empty(0, np.int32))


class Optimizer(NamedTuple):
    """How a gradient becomes a step; a row's state changes only when the row steps."""

    name: OptimizerName = "sgd"
    beta1: float = 0.9
    """μ of momentum, β₁ of Adam."""
    beta2: float = 0.999
    """α of RMSprop, β₂ of Adam."""
    epsilon: float = 1e-8
    users: Moments = NO_MOMENTS
    items: Moments = NO_MOMENTS


SGD = Optimizer()
"""Plain steps."""


class Scored(NamedTuple):
    """What each event of a batch was predicted from, just before it was learned."""

    errors: F32
    """``x − s``."""
    user_biases: F32
    item_biases: F32
    products: F32
    """``u·v``."""


Held = TypeVar("Held", Batch, Histories)
Rows = TypeVar("Rows", Side, Effects)


class Kernels(Protocol):
    """``reference``, ``cpu`` or ``gpu``."""

    name: str

    def hold(self, side: Rows, n: int) -> Rows:
        """Return *side*, or its effects, rows below *n* in use, where these kernels learn; the arrays stay the same.

        Kernels take any side. One that they hold costs them no copies; its arrays are up to date only after `Side.fetch`, and
        what is changed in them is to be told by `Side.send`.
        """

    def keep(self, held: Held) -> Held:
        """Return *held* in the form in which these kernels use it again and again most quickly; the columns stay the same."""

    def sgd(
        self,
        users: Side,
        items: Side,
        batch: Batch,
        *,
        intercept: float,
        objective: Objective,
        rates: Rates,
        optimizer: Optimizer = SGD,
    ) -> Scored:
        """Learn from *batch*, one event after another; return what was predicted before each event's step.

        With prior means (least squares, plain λ, plain steps only), λ pulls each row towards its mean in the place of zero.

        Rates may run in any order that no one can tell from this one. For event j with user n and item m, all from the
        values before the event (``b, c, u, v``), and ``g = ∂ℓ/∂s`` (squared: ``−e``, where ``e = x − s``):

        - a row with a history in the batch (fold-in) becomes the minimiser of the objective over that row alone, factors and
          bias jointly, against the other side's values before the event; its optimizer's state stays;
        - a row without steps, the bias likewise with its own rate and λ. Weighted: ``u ← u − η (g v + λ u)``. Plain, proximal:
          ``u ← (u − η g v) / (1 + η λ / count)``. With κ, before that division: ``u ← sign(u) max(|u| − η κ, 0)``, κ over count
          when plain. Non-negative: ``u ← max(u, 0)`` last;
        - an optimizer (`Optimizer`; torch's definitions) puts its own direction in the gradient's place and its own rate for
          each number in the place of η, in all of these;
        - the step is bounded: with ``t = η_n |v|² [user steps] + η_m |u|² [item steps] + η_b of each side that steps``
          (rates after the schedule; momentum's over 1 − μ) and ``h = losses.steepest``, an upper bound of ℓ″ on the way to ℓ's
          minimum (squared: 1), g is multiplied by ``min(1, ½ / (t h))``: at most half of the error is taken back at once, so
          heavy tails and large factors cannot make the model diverge; the error returned is not bounded. Not with adagrad,
          rmsprop and adam, whose steps have bounds of their own;
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
        objective: Objective,
        of_users: bool,
        means: F32 = NO_MEANS,
        solver: Solver = "auto",
    ) -> F64:
        """Set each of *rows* to the minimiser of the objective over that row, against *other* as it is.

        Squared, no κ, no constraint: ``(Σ v vᵀ + λ_n I) u = Σ (x − intercept − c − b) v`` jointly with the bias (Schur border);
        λ = 0 gives the least-squares solution of minimum norm (with prior means: nearest to them). Else: proximal Newton steps,
        each with a line search, so that none raises the row's objective; within a step coordinate descent where there is κ or the
        constraint (exact zeros).
        A row with an empty history becomes zero, or its prior mean. A solution that is not finite leaves its row.
        No row is in *rows* twice. One row, one thread: the number of threads never changes bits.

        Args:
            of_users: Whether *own* is the users' side: whose λ and κ count.
            means: ``(len(rows), K + 1)``, least squares only: the rows' prior means, factors and bias, to which λ pulls each row
                in the place of zero. No rows: all are zero.
            solver: ``exact``; ``cg``: for least squares, conjugate gradients from the row as it is where that is cheaper, until
                they gain little more, so the same minimisers over several sweeps, sooner; ``auto``: the one that is faster at
                this rank. A set of kernels may be exact always.

        Returns: ``(len(rows),)``, by how much each row's solve lowered the objective, ≥ 0 (least squares: ``½ Δᵀ A Δ``), ∞ for a
        row that was not finite, 0 for one that was left.

        Source: Lee, Sun and Saunders, SIAM J. Optim. 24(3), 2014 (proximal Newton); Friedman, Hastie and Tibshirani 2010.
        """

    def implicit(
        self,
        own: Side,
        other: Side,
        rows: I32,
        histories: Histories,
        gram: F64,
        *,
        alpha: float,
        penalties: F32,
        solver: Solver = "auto",
    ) -> F64:
        """Set each of *rows* to the minimiser, over that row, of the objective over *all* pairs, against *other* as it is.

        With preferences p = 1 where a rating x > 0 is held and 0 elsewhere, scores s = u·v, without biases and intercept:

            ½ Σ_nm (1 + α x_nm) (p_nm − s_nm)² + ½ Σ_n λ_n |u_n|² + ½ Σ_m λ_m |v_m|²

        ``(VᵀV + Σ α x v vᵀ + λ I) u = Σ (1 + α x) v``, the sums over the row's ratings above 0; λ = 0 gives the solution of
        minimum norm. A row with an empty history becomes zero. A solution that is not finite leaves its row. No row is in
        *rows* twice. One row, one thread: the number of threads never changes bits.

        Args:
            histories: Ratings are at least 0.
            gram: ``VᵀV``, ``(K, K)``: over the rows of *other* that count.
            penalties: λ of each of *rows*, ``(len(rows),)``.
            solver: As in `als`; conjugate gradients only where all of *rows* have one λ.

        Returns: ``(len(rows),)``, by how much each row's solve lowered the objective, ≥ 0 (``½ Δᵀ A Δ``), ∞ for a row that was
        not finite, 0 for one that was left.

        Source: Hu, Koren and Volinsky, ICDM 2008.
        """

    def calibrate(self, memory: Memory, scored: Scored, batch: Batch, timestamps_ms: I64, *, spread: float) -> F32:
        """Correct each score by what *memory* has learned, and learn from its rating, one event after another.

        The calibrated score is ``intercept + spread · w·g``, with terms g of the score's parts, of the rows' counts and of the
        residuals of former ratings (`terms`). The weights are found by recursive least squares, as a random walk:
        ``P ← P + Q``, ``k = P g / (σ² + gᵀ P g)``, ``w ← w + k e``, ``P ← P − k gᵀ P``; e is bounded. An event whose score or
        rating is no number keeps its error and teaches nothing.

        Returns: ``x −`` the calibrated score.

        Source: Haykin, Adaptive Filter Theory, chapter on recursive least squares.
        """

    def meet(self, users: Effects, items: Effects, batch: Batch, changes: NDArray[np.int8]) -> tuple[F32, F32]:
        """Tell rows of whom they meet (change 1) or have met no longer (−1), one event after another (`effects`).

        Returns: Prior means of users and items just after each event, both ``(B, K + 1)``.
        """

    def recall(self, own: Effects, other: Effects, rows: I32, histories: Histories) -> F32:
        """Sum anew, in the order of their histories, what *rows* were told; return their prior means, ``(len(rows), K + 1)``."""

    def attribute(
        self, own: Effects, other: Effects, side: Side, rows: I32, histories: Histories, counts: I32, pull: Pull
    ) -> None:
        """Find the effect of each of *rows* on the rows it met, one after another, each by the others' as they are.

        ``½ λ Σ_n |u_n − s_n Σ_m y_m|² + ½ ridge |y_m|²`` is minimised over y_m, with ``s_n = 1/√(count_n + κ)``: block coordinate
        descent on a ridge regression. *side* and *counts* are the parameters and the numbers of ratings of the rows met.
        An effect that would not be finite stays as it is; that of a row that met none is zero.
        """

    def initialize(self, side: Side, first: int, stop: int, *, seed: int, stream: int, deviation: float) -> None:
        """Fill rows ``first .. stop - 1``: factors from a counter hash of (seed, stream, row, k), biases zero.

        splitmix64 and Box–Muller, standard deviation *deviation*: the same on every platform up to rounding of log, sqrt and
        cos. *seed* and *stream* count modulo 2⁶⁴.
        """
