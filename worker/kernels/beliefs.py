"""Rows as Gaussian posteriors: what kernels keep of each beside its mean, and the functions that learn it.

Scores and sides are those of `api`; the loss is squared. The posterior is taken to be a product of one Gaussian for each row.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, F64, I32, Batch, Histories, Side


class Beliefs(NamedTuple):
    """What a side's rows know beside their means, for the Gaussian posterior of each; kernels change it in place.

    A row's parameters are ``w = [u, b]``, ``D = K + 1`` numbers; the other side's rows are seen as ``x = [v, 1]``.
    """

    equations: F32
    """``(rows, equations_width(K))``, of the row's own ratings, one after another:

    - ``Σ E[x xᵀ]``, the upper triangle row by row, D (D + 1) / 2;
    - ``Σ E[x (rating − center − c)]``, D;
    - the sum of the effects of the rows met, D;
    - *center*: the intercept that was taken out of the ratings, 1.
    """
    outlook: F32
    """``(rows, outlook_width(K))``, what the other side reads, one after another:

    - variances of the K factors, K covariances of these with the bias, the variance of the bias;
    - effects: what meeting this row adds to the prior mean of a row of the other side, D.
    """

    def fetch(self) -> None:
        """Bring the arrays up to date; they are, but where a device holds the rows (`Filters.hold`)."""

    def send(self, rows: slice | NDArray[Any]) -> None:
        """Tell whoever holds the rows that *rows* of the arrays were changed here."""


def equations_width(rank: int) -> int:
    """Return how many numbers a row of `Beliefs.equations` has."""
    size = rank + 1
    return size * (size + 1) // 2 + 2 * size + 1


def outlook_width(rank: int) -> int:
    """Return how many numbers a row of `Beliefs.outlook` has."""
    return 3 * rank + 2


class Prior(NamedTuple):
    """Gaussian prior of one side's rows.

    That of a row with n ratings has the mean ``met / √(n + MEETINGS) + [0, level + slope ln(1 + n)]``.
    """

    factors: float
    """Variance of each factor."""
    bias: float
    """Variance of the bias."""
    level: float
    slope: float


MEETINGS = 3.0
"""Ratings that a row is taken to hold beside its own where the effects of those it met are averaged."""


class Foreseen(NamedTuple):
    """What was expected of each event of a batch, just before it was learned."""

    errors: F32
    """``x − s``; NaN for an unrate."""
    user_biases: F32
    item_biases: F32
    products: F32
    """``u·v``."""
    variances: F32
    """``E[(x − s)²]``: noise, and the variance of the score under both rows' posteriors."""


class Smoothed(NamedTuple):
    """What solving rows told, one entry a row, ``(n,)``."""

    gains: F64
    """By how much the solve lowered the objective: noise times ``½ Δᵀ A Δ``; ∞ for a row that was not finite."""
    misfits: F64
    """``Σ E[(rating − s)²]`` over the row's ratings, under both sides' posteriors."""
    factor_surprises: F64
    """``Σ_k E[(u_k − prior mean)²]``."""
    bias_surprises: F64
    """``E[(b − prior mean)²]``."""
    bias_targets: F64
    """What the row's ratings alone say of its bias, less what is expected from the rows met."""
    bias_weights: F64
    """The inverse of the variance of that as an estimate of the level; 0 where they say nothing."""


class Filters(Protocol):
    """``reference_filter``, ``cpu_filter`` or ``gpu_filter``."""

    name: str

    def hold(self, beliefs: Beliefs, n: int) -> Beliefs:
        """Return *beliefs*, of which rows below *n* are in use, where these kernels learn (as `api.Kernels.hold`)."""

    def filter_batch(
        self,
        users: Side,
        items: Side,
        user_beliefs: Beliefs,
        item_beliefs: Beliefs,
        batch: Batch,
        *,
        intercept: float,
        noise: float,
        user_prior: Prior,
        item_prior: Prior,
    ) -> Foreseen:
        """Learn from *batch*, one event after another; return what was expected of each.

        Assumed-density filtering. For event j with user n and item m, both from the values before the event:

        - a row's *equations* gain ``E[x xᵀ]`` and ``E[x (rating − intercept − c)]`` under the other row's posterior, of which the
          variances and the factors' covariances with the bias count; then it is solved: with ``P`` the prior's precision and
          ``A = Σ E[x xᵀ] / noise + P``, its mean becomes ``A⁻¹ (Σ E[x y] / noise + P · prior mean)``, its variances ``A⁻¹``'s;
        - a row with a history in the batch is solved from that instead: its rating replaced one, or was taken back;
        - a row's first rating has its start added to the prior mean, so that equal rows become different ones;
        - a row that holds nothing (its count is 0) becomes its prior; an unrate without a history changes nothing else.
          Its error is NaN.

        The score's variance is ``Var b + Var c + Σ_k (v² Var u + u² Var v + Var u Var v + 2 v Cov(u, b) + 2 u Cov(v, c))``.
        A row whose new values would not be finite stays as it is; the event's error is then NaN.

        Source: Opper, "A Bayesian approach to on-line learning", 1998; Stern, Herbrich and Graepel, "Matchbox", WWW 2009.
        """

    def smooth(
        self,
        own: Side,
        other: Side,
        own_beliefs: Beliefs,
        other_beliefs: Beliefs,
        rows: I32,
        histories: Histories,
        *,
        intercept: float,
        noise: float,
        prior: Prior,
    ) -> Smoothed:
        """Solve each of *rows* from its history against *other* as it is (variational ALS), equations and effects met included.

        A row with an empty history becomes its prior. No row is in *rows* twice. One row, one thread.

        Source: Lim and Teh, "Variational Bayesian approach to movie rating prediction", KDD Cup 2007.
        """

    def explain(
        self,
        own_beliefs: Beliefs,
        other: Side,
        other_beliefs: Beliefs,
        rows: I32,
        histories: Histories,
        other_counts: I32,
        *,
        factor_ridge: float,
        bias_ridge: float,
        prior: Prior,
    ) -> None:
        """Re-estimate the effects of each of *rows* on the rows that it met, one after another, and tell those.

        With ``t = 1 / √(n + MEETINGS)`` of a row met, which holds n ratings, effects are the ridge regression of ``mean − level −
        slope ln(1 + n)`` on ``t Σ effects``; this takes one coordinate step for each of *rows*. *prior* is that of the rows met.
        """
