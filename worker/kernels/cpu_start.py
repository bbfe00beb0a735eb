"""A row's first factors, compiled: a counter hash, so that they depend on nothing but seed, stream and row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from factorstream.worker.kernels.compiled import bare, inlined

GOLDEN, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
LOW = np.uint64(0xFFFFFFFF)


@inlined
def splitmix64(counter: Any) -> Any:
    """Return 64 random bits for *counter* (`reference.splitmix64`)."""
    bits = counter + GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * SECOND
    return bits ^ (bits >> np.uint64(31))


@bare
def fill(factors: Any, rank: int, first: int, stop: int, seed: Any, stream: Any, deviation: float) -> None:
    """Fill rows *first* to *stop* of the flat *factors* with normal numbers, two from each 64 bits (Box and Muller 1958)."""
    if deviation == 0:
        factors[first * rank : stop * rank] = 0
        return
    start = splitmix64(splitmix64(seed) ^ stream)
    for row in range(first, stop):
        key = splitmix64(start ^ np.uint64(row))
        for k in range(0, rank, 2):
            bits = splitmix64(key + np.uint64(k // 2))
            uniform = (np.float64(bits >> np.uint64(32)) + 1.0) / 2.0**32
            radius = deviation * math.sqrt(-2.0 * math.log(uniform))
            angle = 2.0 * math.pi * np.float64(bits & LOW) / 2.0**32
            factors[row * rank + k] = radius * math.cos(angle)
            if k + 1 < rank:
                factors[row * rank + k + 1] = radius * math.sin(angle)
