"""One side's parameters: factors and biases of every row, growing without being copied."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.api import F32, Kernels, Side
from factorstream.worker.kernels.memory import reserve


class Factors:
    """Rows ``0 .. n - 1`` of one side. The tables are reservations of address space: `n` rows are in use."""

    def __init__(self, rank: int, *, seed: int, stream: int) -> None:
        self.n = 0
        self.rank = rank
        self._seed, self._stream = seed, stream
        factors = cast(F32, reserve((rank,), np.float32))
        biases = cast(F32, reserve((), np.float32))
        n_rows = min(len(factors), len(biases))
        self.side = Side(factors[:n_rows], biases[:n_rows])
        """The whole reservation; a device may hold newer values (`on`)."""

    @property
    def factors(self) -> F32:
        """``(n, K)``, a view. Who writes to it once kernels learn `on` it tells `side.send`."""
        self.side.fetch()
        return self.side.factors[: self.n]

    @property
    def biases(self) -> F32:
        """``(n,)``, a view."""
        self.side.fetch()
        return self.side.biases[: self.n]

    def on(self, kernels: Kernels) -> Side:
        """Return the whole reservation where *kernels* learn."""
        self.side = kernels.hold(self.side, self.n)
        return self.side

    @property
    def on_host(self) -> Side:
        """The whole reservation, up to date; to be read."""
        self.side.fetch()
        return Side(*self.side)

    def grow(self, n: int, kernels: Kernels, deviation: float, *, nonnegative: bool = False) -> None:
        """Have at least *n* rows; new ones start from the counter hash, without their signs where *nonnegative*."""
        if n > self.n:
            kernels.initialize(self.side, self.n, n, seed=self._seed, stream=self._stream, deviation=deviation)
            if nonnegative:
                self.side.fetch()
                np.abs(self.side.factors[self.n : n], out=self.side.factors[self.n : n])
                self.side.send(slice(self.n, n))
            self.n = n

    def restart(self, rows: NDArray[np.int32], kernels: Kernels, deviation: float) -> None:
        """Give *rows* the factors they began with."""
        for row in rows.tolist():
            kernels.initialize(self.side, row, row + 1, seed=self._seed, stream=self._stream, deviation=deviation)

    def restore(self, factors: F32, biases: F32) -> None:
        """Take the rows of a checkpoint: ``(n, K)`` and ``(n,)``; copies."""
        self.n = len(biases)
        self.factors[:], self.biases[:] = factors, biases
        self.side.send(slice(0, self.n))

    def finite(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of *rows* hold numbers only."""
        return np.isfinite(self.factors[rows]).all(axis=1) & np.isfinite(self.biases[rows])
