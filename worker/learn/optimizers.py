"""What optimizers remember of each row, as a part of the model: checkpoints take it along, replays make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, I32, NO_MOMENTS, SGD, Kernels, Moments, Optimizer, OptimizerName
from factorstream.worker.kernels.memory import reserve
from factorstream.worker.learn.settings import Learning
from factorstream.worker.model.model import USERS, Model

FIRST: tuple[OptimizerName, ...] = ("momentum", "adam")
"""Optimizers with a velocity or a mean gradient …"""
SECOND: tuple[OptimizerName, ...] = ("adagrad", "rmsprop", "adam")
"""… and those with squares of gradients."""


class RowMoments:
    """The state of both sides' rows; a new row's is zero (`model.Part`)."""

    def __init__(self, name: OptimizerName, rank: int) -> None:
        self._sides = {side: _reserved(name, rank) for side in ("users", "items")}
        self._n = {"users": 0, "items": 0}

    def on(self, kernels: Kernels, n_users: int, n_items: int) -> tuple[Moments, Moments]:
        """Return the state of users and items, of which there are so many now, where *kernels* learn."""
        self._n = {"users": n_users, "items": n_items}
        self._sides = {side: kernels.hold(moments, self._n[side]) for side, moments in self._sides.items()}
        return self._sides["users"], self._sides["items"]

    def forget(self, side: int, row: int) -> None:
        """Let *row* of *side* be as one that never stepped."""
        moments = self._sides["users" if side == USERS else "items"]
        for table in moments:
            if len(table):
                table[row] = 0
        moments.send(slice(row, row + 1))

    def tables(self) -> Mapping[str, NDArray[Any]]:
        """Return the state of the rows that there are."""
        for moments in self._sides.values():
            moments.fetch()
        return {
            f"{side}.{name}": table[: self._n[side]]
            for side, moments in self._sides.items()
            for name, table in moments._asdict().items()
            if len(table)
        }

    def restore(self, tables: Mapping[str, NDArray[Any]]) -> None:
        """Take what `tables` once returned."""
        for side, moments in self._sides.items():
            for name, live in moments._asdict().items():
                if f"{side}.{name}" in tables:
                    held = tables[f"{side}.{name}"]
                    live[: len(held)] = held
                    self._n[side] = len(held)
            moments.send(slice(0, self._n[side]))


def part_name(optimizer: OptimizerName) -> str:
    """Return what the state of *optimizer* is called among a model's parts: that of another one says nothing to it."""
    return f"optimizer-{optimizer}"


def optimizer_of(learning: Learning, model: Model, kernels: Kernels) -> Optimizer:
    """Return the optimizer that *learning* asks for, with its state in *model*, whose rows are there, where *kernels* learn."""
    if learning.optimizer == "sgd":
        return SGD
    moments = cast(RowMoments, model.parts[part_name(learning.optimizer)]).on(kernels, model.users.n, model.items.n)
    return Optimizer(learning.optimizer, learning.beta1, learning.beta2, users=moments[0], items=moments[1])


def forget(learning: Learning, model: Model, side: int, row: int) -> None:
    """Remember nothing of *row* of *side*."""
    if learning.optimizer != "sgd":
        cast(RowMoments, model.parts[part_name(learning.optimizer)]).forget(side, row)


def _reserved(name: OptimizerName, rank: int) -> Moments:
    def table() -> F32:
        return cast(F32, reserve((rank + 1,), np.float32))

    return Moments(
        table() if name in FIRST else NO_MOMENTS.first,
        table() if name in SECOND else NO_MOMENTS.second,
        cast(I32, reserve((), np.int32)) if name == "adam" else NO_MOMENTS.steps,
    )
