"""What rows are expected to be before their ratings speak: how far from their means (λ), and which means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, I32, Kernels, Penalty, Scored
from factorstream.worker.kernels.effects import CAUTION, Effects, Pull
from factorstream.worker.kernels.memory import reserve
from factorstream.worker.kernels.slopes import add_slopes
from factorstream.worker.model.model import ITEMS, USERS, Model

RIDGE = 20.0
"""λ of the effects of rows met, of factors in units of the spread, like λ of the factors."""

FIRST, GROWTH = 500, 1 / 16
"""λ are estimated after so many ratings, and again whenever their number has grown by that share and by so many."""
GAIN = 0.5
"""How far log λ moves for a slope of 1: at most, too."""
SLOPE = 0.1
"""Which slope is right: that of a model whose sweeps lag a little behind its ratings."""
DOUBT = 4.0
"""A slope of z standard errors counts ``z² / (z² + DOUBT)``."""
RETURN = 0.02
"""Share of its way back to the start that log λ takes each time: what says nothing for long is forgotten."""
MOST = 4.0
"""Errors and what they are made of count as at most so many spreads."""
RANGE = ((1 / 160, 4.0), (1 / 25, 25.0))
"""Least and most that λ of factors, and of biases, is multiplied by."""


class Estimates(NamedTuple):
    """λ's multipliers, and the sums that the next ones are made of, in units of the spread."""

    log_factors: float = 0.0
    log_biases: float = 0.0
    product_error: float = 0.0
    """Σ d e, of products and errors …"""
    product_square: float = 0.0
    """… Σ d² …"""
    bias_error: float = 0.0
    bias_square: float = 0.0
    """… the same of both biases …"""
    error_square: float = 0.0
    n: float = 0.0
    """… and how many ratings are in them."""
    n_seen: float = 0.0
    due: float = FIRST


class Priors:
    """What is learned of priors (`model.Part`).

    A λ that is right makes predictions that are right in size: the slope of the errors over the products u·v, both taken before
    each rating was learned, is zero. With a positive slope products are too small, and λ too large.
    """

    NAME = "priors"

    def __init__(self, rank: int) -> None:
        """Expect rows near zero."""
        self.n = [0, 0]
        self.effects = _effects(rank), _effects(rank)
        """Of users, of items."""
        self.estimates = Estimates()

    @property
    def multipliers(self) -> tuple[float, float]:
        """What λ of factors, and of biases, is multiplied by where it is not set."""
        return math.exp(self.estimates.log_factors), math.exp(self.estimates.log_biases)

    def on(self, kernels: Kernels) -> tuple[Effects, Effects]:
        """Return the effects of users and of items where *kernels* learn."""
        users, items = self.effects
        self.effects = kernels.hold(users, self.n[USERS]), kernels.hold(items, self.n[ITEMS])
        return self.effects

    def tables(self) -> Mapping[str, NDArray[Any]]:
        """Return all of it (`model.Part`)."""
        for effects in self.effects:
            effects.fetch()
        named = {
            f"{name}.{field}": table[: self.n[side]]
            for side, name in ((USERS, "users"), (ITEMS, "items"))
            for field, table in self.effects[side]._asdict().items()
        }
        return {**named, "estimates": np.array(self.estimates)}

    def restore(self, tables: Mapping[str, NDArray[Any]]) -> None:
        """Become what `tables` returned (`model.Part`)."""
        self.grow(len(tables["users.said"]), len(tables["items.said"]))
        for name, live in self.tables().items():
            live[:] = tables[name]
        for effects, n in zip(self.effects, self.n, strict=True):
            effects.send(slice(0, n))
        self.estimates = Estimates(*tables["estimates"].tolist())

    def grow(self, n_users: int, n_items: int) -> None:
        """Have at least that many rows."""
        self.n = [max(self.n[USERS], n_users), max(self.n[ITEMS], n_items)]

    @property
    def say_anything(self) -> bool:
        """Whether any row's effect is other than zero."""
        for effects in self.effects:
            effects.fetch()
        return any(bool(effects.said[:n].any()) for effects, n in zip(self.effects, self.n, strict=True))

    def say_nothing(self) -> None:
        """Expect rows near zero again."""
        for side, effects in enumerate(self.effects):
            effects.said[: self.n[side]] = effects.told[: self.n[side]] = 0
            effects.send(slice(0, self.n[side]))

    def means(self, side: int, counts: I32) -> F32:
        """Return the prior means of the first rows of *side*, ``(n, K + 1)``, bias last; *counts* ``(n,)``: of their ratings."""
        self.effects[side].fetch()
        return np.asarray(self.effects[side].told[: len(counts)] * (1 / np.sqrt(counts + CAUTION)).astype(np.float32)[:, None])

    def cost(self, spread: float) -> float:
        """Return what the effects themselves add to the objective of exact solves: ``½ Σ ridge |effect|²``."""
        pull, total = pull_of(Penalty(0.0, 0.0, 0.0, False), spread, users=True), 0.0
        for effects, n in zip(self.effects, self.n, strict=True):
            effects.fetch()
            squares = np.square(effects.said[:n], dtype=np.float64).sum(axis=0)
            total += 0.5 * float(pull.factor_ridge * squares[:-1].sum() + pull.bias_ridge * squares[-1])
        return total

    def until_due(self) -> int:
        """Return how many ratings are to be accepted before the next estimate."""
        return max(1, int(self.estimates.due - self.estimates.n_seen))

    def observe(self, scored: Scored, spread: float) -> None:
        """Take errors and what they were made from into the sums, at most `until_due` of them; estimate when due."""
        before, n_seen = self.estimates, self.estimates.n_seen + len(scored.errors)
        sums = np.array(before[2:8])
        add_slopes(scored, spread, MOST, sums)
        self.estimates = Estimates(*before[:2], *sums.tolist())._replace(n_seen=n_seen, due=before.due)
        if n_seen >= before.due:
            self.estimates = self._estimated()

    def forget(self, side: int, row: int, others: NDArray[np.int32]) -> None:
        """Let the rows *others* not have met *row*."""
        for effects in self.effects:
            effects.fetch()
        self.effects[1 - side].told[others] -= self.effects[side].said[row]
        self.effects[1 - side].send(others)

    def _estimated(self) -> Estimates:
        now = self.estimates
        noise = now.error_square / max(now.n, 1.0)
        factors, biases = (
            float(np.clip((1 - RETURN) * log - GAIN * _believed(error, square, noise), math.log(least), math.log(most)))
            for log, error, square, (least, most) in (
                (now.log_factors, now.product_error, now.product_square, RANGE[0]),
                (now.log_biases, now.bias_error, now.bias_square, RANGE[1]),
            )
        )
        return Estimates(factors, biases, n_seen=now.n_seen, due=now.n_seen + max(FIRST, int(now.n_seen * GROWTH)))


def pull_of(penalty: Penalty, spread: float, *, users: bool) -> Pull:
    """Return how strongly one side's rows are held to their means, and what they are told to zero."""
    return Pull(penalty.user if users else penalty.item, penalty.bias, RIDGE * spread, RIDGE)


def priors_of(model: Model) -> Priors | None:
    """Return what the model has learned of priors; None where these are fixed."""
    return cast(Priors | None, model.parts.get(Priors.NAME))


def _believed(error: float, square: float, noise: float) -> float:
    """Return how far a slope is from the right one, bounded, and weighted by how sure that is."""
    if not (square > 0 and noise > 0 and math.isfinite(error) and math.isfinite(square / noise)):
        return 0.0
    slope, z_squared = error / square, error / square * (error / noise)
    return min(max(slope - SLOPE, -1.0), 1.0) * z_squared / (z_squared + DOUBT)


def _effects(rank: int) -> Effects:
    said, told = (cast(NDArray[np.float32], reserve((rank + 1,), np.float32)) for _ in range(2))
    n = min(len(said), len(told))
    return Effects(said[:n], told[:n])
