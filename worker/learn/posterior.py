"""The learner whose rows are Gaussian posteriors: assumed-density filtering, and variational ALS as its sweep.

Noise and priors are estimated again at the end of each sweep from sums made while its rows were solved (empirical Bayes).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels import tallies
from factorstream.worker.kernels.api import F32, F64, Histories, Kernels, Scored
from factorstream.worker.kernels.beliefs import Beliefs, Filters, Prior, Smoothed, equations_width, outlook_width
from factorstream.worker.kernels.memory import reserve
from factorstream.worker.learn.settings import Learning
from factorstream.worker.learn.sgd import batch_of
from factorstream.worker.learn.tested import Tested
from factorstream.worker.model.level import Level
from factorstream.worker.model.model import ITEMS, USERS, Model
from factorstream.worker.model.ratings import Accepted

REWORK = 1024
"""Rows with at most so many ratings are solved at once when one of these is replaced or taken back; others wait for the sweep."""

MOST_VISITS = 1_000_000
"""Ratings of such rows that are visited at once when one row is forgotten."""

DEVIATION = 0.3
"""Of an item's first factors, in √spread."""
NOISE, FACTORS, BIASES = 0.6, (0.12, 0.08), (0.2, 0.25)
"""Variances that estimates start from: of noise and biases in spread², of users' and items' factors in spread."""
NOISE_BOUNDS = (0.01, 2.0)
RANGE = 16.0
"""Prior variances stay within so many times what they start from, and within its inverse."""
NOISE_RATINGS, FACTOR_ROWS, BIAS_ROWS = 100.0, 400.0, 10.0
"""As so many ratings, or rows, what estimates start from counts in them."""
RIDGE = 20.0
"""Of the effects of rows met, per spread (factors) and spread² (biases)."""


SURPRISE_RATINGS, SURPRISE_BOUNDS, MOST_SURPRISE = 1000.0, (0.5, 4.0), 25.0
"""Of the factor by which variances of predictions are corrected: what 1 counts in it, its bounds, and the most of one error."""


PRODUCT_RATINGS, SURE, LAG, MOST_SPREADS = 1000.0, 9.0, 0.05, 4.0
"""Of the slope of errors over products: ratings before it is looked at, the squared standard errors that say nothing, what sweeps
that lag behind the ratings leave of it, and what one error or product counts as at most."""


class Estimates(NamedTuple):
    """Noise and priors, in units of the spread; one entry a side."""

    noise: float
    surprise: float
    """Squares of errors, relative to what their posteriors expected: these are too sure of themselves, as all mean fields are."""
    factors: F64
    biases: F64
    levels: F64
    slopes: F64

    @classmethod
    def first(cls) -> Estimates:
        """Return what holds before any sweep."""
        return cls(NOISE, 1.0, np.array(FACTORS), np.array(BIASES), np.zeros(2), np.zeros(2))

    def prior(self, side: int, level: Level) -> Prior:
        """Return the prior of *side* in units of the ratings."""
        unit = level.spread
        return Prior(
            float(self.factors[side]) * unit,
            float(self.biases[side]) * unit**2,
            float(self.levels[side]) * unit,
            float(self.slopes[side]) * unit,
        )


ROWS, RATINGS, MISFIT, FACTOR_SURPRISE, BIAS_SURPRISE, W, WN, WNN, WT, WNT = range(10)
"""Sums of a side's sweep (`tallies.add_rows`)."""


class Remembered:
    """What the rule keeps beside factors: rows' equations and outlooks, estimates, and the sweep's sums (`model.Part`)."""

    NAME = "posterior"

    def __init__(self, rank: int) -> None:
        self.n = [0, 0]
        """Rows in use, of users and of items."""
        self.beliefs = _beliefs(rank), _beliefs(rank)
        self.estimates = Estimates.first()
        self.sums: F64 = np.zeros((2, 10))
        self.surprises: F64 = np.zeros(2)
        """Sum and number of squares of errors, relative to what was expected, since the last sweep."""
        self.products: F64 = np.zeros(4)
        """Sums of errors and products (`tallies.add_products`), since the slope was looked at last."""

    def grow(self, side: int, n: int, prior: Prior) -> None:
        """Have at least *n* rows of *side*; new ones are as uncertain as *prior*."""
        first, rank = self.n[side], self.beliefs[side].outlook.shape[1] // 3
        if n > first:
            new = self.beliefs[side].outlook[first:n]
            new[:, :rank], new[:, 2 * rank] = prior.factors, prior.bias
            self.beliefs[side].send(slice(first, n))
            self.n[side] = n

    def on(self, filters: Filters) -> tuple[Beliefs, Beliefs]:
        """Return what is believed of users and of items where *filters* learn."""
        users, items = self.beliefs
        self.beliefs = filters.hold(users, self.n[USERS]), filters.hold(items, self.n[ITEMS])
        return self.beliefs

    def fetch(self) -> tuple[Beliefs, Beliefs]:
        """Return it up to date; to be read."""
        for beliefs in self.beliefs:
            beliefs.fetch()
        return self.beliefs

    def tables(self) -> Mapping[str, NDArray[Any]]:
        """Return all of it; views of the rows, copies of the numbers."""
        users, items = self.fetch()
        noise, surprise, *others = self.estimates
        return {
            "users.equations": users.equations[: self.n[USERS]],
            "users.outlook": users.outlook[: self.n[USERS]],
            "items.equations": items.equations[: self.n[ITEMS]],
            "items.outlook": items.outlook[: self.n[ITEMS]],
            "estimates": np.append([noise, surprise], np.concatenate(others)),
            "sums": self.sums,
            "surprises": self.surprises,
            "products": self.products,
        }

    def restore(self, tables: Mapping[str, NDArray[Any]]) -> None:
        """Become what `tables` once returned."""
        for side, (name, beliefs) in enumerate(zip(("users", "items"), self.fetch(), strict=True)):
            equations, outlook = tables[f"{name}.equations"], tables[f"{name}.outlook"]
            self.n[side] = len(outlook)
            beliefs.equations[: len(equations)], beliefs.outlook[: len(outlook)] = equations, outlook
            beliefs.send(slice(0, len(outlook)))
        noise, surprise, *others = tables["estimates"].tolist()
        self.estimates = Estimates(noise, surprise, *np.array(others).reshape(4, 2))
        for name, sums in (("sums", self.sums), ("surprises", self.surprises), ("products", self.products)):
            sums[:] = tables[name]


def _beliefs(rank: int) -> Beliefs:
    equations = reserve((equations_width(rank),), np.float32)
    outlook = reserve((outlook_width(rank),), np.float32)
    n = min(len(equations), len(outlook))
    return Beliefs(equations[:n], outlook[:n])


class Posterior:
    """O(K³) a rating, for squared loss (`learn.rule.Rule`)."""

    fold_in = (0, 0)
    rework = REWORK

    def __init__(self, kernels: Kernels, filters: Filters, learning: Learning) -> None:
        self._kernels, self._filters = kernels, filters
        self._learning = learning

    def take_over(self, model: Model) -> None:
        """What is believed of a row follows from its ratings as soon as it is solved."""

    def until_due(self, model: Model) -> int | None:
        """A batch may end anywhere."""
        return None

    def step(self, model: Model, accepted: Accepted) -> Tested:
        """Let each rating narrow both of its rows."""
        part, level = remembered(model), model.level
        self._grow(model, USERS, int(accepted.user_rows.max()) + 1)
        self._grow(model, ITEMS, int(accepted.item_rows.max()) + 1)
        foreseen = self._filters.filter_batch(
            model.users.on(self._kernels),
            model.items.on(self._kernels),
            *part.on(self._filters),
            batch_of(accepted),
            intercept=level.intercept,
            noise=part.estimates.noise * level.spread**2,
            user_prior=part.estimates.prior(USERS, level),
            item_prior=part.estimates.prior(ITEMS, level),
        )
        scored = Scored(foreseen.errors, foreseen.user_biases, foreseen.item_biases, foreseen.products)
        tallies.add_surprises(foreseen.errors, foreseen.variances, MOST_SURPRISE, part.surprises)
        tallies.add_products(foreseen.errors, foreseen.products, level.spread, MOST_SPREADS, part.products)
        variances = foreseen.variances * np.float32(part.estimates.surprise)
        return Tested(accepted.ratings, foreseen.errors, scored, variances=variances)

    def solve(self, model: Model, side: int, rows: NDArray[np.int32], *, afresh: bool = False) -> F64:
        """Solve *rows* from all that they hold, and find out what meeting them says of those they met; always exactly.

        What a sweep solves goes into the sums that noise and priors are estimated from.
        """
        told, histories = self._solved(model, side, rows)
        if not afresh:
            tallies.add_rows(np.array(told), histories.starts, model.level.spread, remembered(model).sums[side])
        return told.gains

    def _solved(self, model: Model, side: int, rows: NDArray[np.int32]) -> tuple[Smoothed, Histories]:
        """Solve *rows*; return what that told, and what they hold."""
        self._grow(model, side, int(rows.max(initial=-1)) + 1)
        part, level = remembered(model), model.level
        own, other = (model.users, model.items) if side == USERS else (model.items, model.users)
        ratings = model.ratings
        histories = self._kernels.keep(ratings.histories_of_users(rows) if side == USERS else ratings.histories_of_items(rows))
        beliefs = part.on(self._filters)
        told = self._filters.smooth(
            own.on(self._kernels),
            other.on(self._kernels),
            beliefs[side],
            beliefs[1 - side],
            rows,
            histories,
            intercept=level.intercept,
            noise=part.estimates.noise * level.spread**2,
            prior=part.estimates.prior(side, level),
        )
        self._filters.explain(
            beliefs[side],
            other.side,
            beliefs[1 - side],
            rows,
            histories,
            ratings.item_counts if side == USERS else ratings.user_counts,
            factor_ridge=RIDGE / level.spread,
            bias_ridge=RIDGE / level.spread**2,
            prior=part.estimates.prior(1 - side, level),
        )
        return told, histories

    def forget(self, model: Model, side: int, row: int, others: NDArray[np.int32]) -> None:
        """Take the ratings out of what *others* know, too, as far as these hold at most `REWORK` and a turn bears it."""
        counts = model.ratings.item_counts[others] if side == USERS else model.ratings.user_counts[others]
        short = counts <= REWORK
        bearable = np.cumsum(counts[short], dtype=np.int64) <= MOST_VISITS
        self._solved(model, 1 - side, others[short][bearable])

    def end_sweep(self, model: Model) -> None:
        """Estimate noise and priors from the sweep's sums."""
        part = remembered(model)
        part.estimates = estimated(part.estimates, part.sums, part.surprises, growth(part.products), model.rank)
        part.sums[:], part.surprises[:] = 0, 0
        if part.products[0] >= PRODUCT_RATINGS:
            part.products[:] = 0

    def readout(self, model: Model, side: int, rows: NDArray[np.int64]) -> tuple[F32, F32]:
        """Return the rows' means."""
        own = model.users if side == USERS else model.items
        return own.factors[rows], own.biases[rows]

    def _grow(self, model: Model, side: int, n: int) -> None:
        """Have rows of *side* at their prior: users' factors begin at zero, items' near it, so that they differ."""
        part, level = remembered(model), model.level
        own, deviation = (model.users, 0.0) if side == USERS else (model.items, DEVIATION * float(level.spread**0.5))
        first, prior = own.n, part.estimates.prior(side, level)
        if n > first:
            own.grow(n, self._kernels, deviation)
            own.biases[first:] = prior.level
            own.side.send(slice(first, n))
        part.grow(side, n, prior)


def remembered(model: Model) -> Remembered:
    """Return the rule's part of *model*."""
    part = model.parts[Remembered.NAME]
    assert isinstance(part, Remembered)
    return part


def variances(model: Model, side: int, rows: NDArray[np.int64]) -> tuple[F32, F32]:
    """Return those of *rows*: of the factors ``(n, K)`` and of the bias ``(n,)``; of rows that are not there, the prior's."""
    part, rank, prior = remembered(model), model.rank, remembered(model).estimates.prior(side, model.level)
    known = rows < part.n[side]
    outlook = part.fetch()[side].outlook[rows[known]]
    factors, biases = np.full((len(rows), rank), prior.factors, np.float32), np.full(len(rows), prior.bias, np.float32)
    factors[known], biases[known] = outlook[:, :rank], outlook[:, 2 * rank]
    return factors, biases


def growth(products: F64) -> float:
    """Return what both variances of factors are to be multiplied by, 1 to 2.

    Errors that still go along with the products say that these are too small. Once factors are near zero nothing else does: what
    is estimated from them says that zero is where they belong.
    """
    n, along, squares, errors = (float(total) for total in products)
    doubt, sure = SURE * errors * squares, n * along**2
    if n < PRODUCT_RATINGS or along <= LAG * squares or doubt >= sure or not squares:
        return 1.0
    return 1.0 + min((along / squares - LAG) * (1.0 - doubt / sure), 1.0)


def estimated(before: Estimates, sums: F64, surprises: F64, grown: float, rank: int) -> Estimates:
    """Return the estimates that a sweep's *sums*, ``(2, 10)``, lead to, each tempered by what it started from.

    Variances of factors are *grown* times that.
    """
    surprise = (surprises[0] + SURPRISE_RATINGS) / (surprises[1] + SURPRISE_RATINGS)
    noise = (sums[ITEMS, MISFIT] + NOISE_RATINGS * NOISE) / (sums[ITEMS, RATINGS] + NOISE_RATINGS)
    factors, biases = before.factors.copy(), before.biases.copy()
    levels, slopes = np.zeros(2), np.zeros(2)
    for side in (USERS, ITEMS):
        factors[side] = _variance(sums[side, FACTOR_SURPRISE] / rank, sums[side, ROWS], FACTORS[side], FACTOR_ROWS, grown)
        biases[side] = _variance(sums[side, BIAS_SURPRISE], sums[side, ROWS], BIASES[side], BIAS_ROWS)
        w, wn, wnn, wt, wnt = sums[side, W:] + np.array([1.0, 0.0, 1.0, 0.0, 0.0])
        slopes[side] = (w * wnt - wn * wt) / (w * wnn - wn * wn)
        levels[side] = (wt - wn * slopes[side]) / w
    noise, surprise = np.clip(noise, *NOISE_BOUNDS), np.clip(surprise, *SURPRISE_BOUNDS)
    return Estimates(float(noise), float(surprise), factors, biases, levels, slopes)


def _variance(surprise: float, n: float, start: float, n_start: float, grown: float = 1.0) -> float:
    """Return the mean of *n* squares that sum to *surprise* and *n_start* times *start*, times *grown*, bounded."""
    return float(np.clip(grown * (surprise + n_start * start) / (n + n_start), start / RANGE, start * RANGE))
