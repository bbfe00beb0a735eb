"""A row's first factors, compiled: a counter hash, so that they depend on nothing but seed, stream and row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from factorstream.worker.kernels.compiled import bare, inlined, natural

GOLDEN, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
LOW = np.uint64(0xFFFFFFFF)
HALF_ROOT, LN_2 = np.int64(0x3FE6A09E667F3BCD), math.log(2.0)
"""The bits of √½: fractions lie between it and √2."""


@inlined
def splitmix64(counter: Any) -> Any:
    """Return 64 random bits for *counter* (`reference.splitmix64`)."""
    bits = counter + GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * SECOND
    return bits ^ (bits >> np.uint64(31))


@inlined
def natural_log(number: Any) -> Any:
    """Return the logarithm of a positive, normal *number* within 1e-14 of itself.

    That of a power of two, and of a fraction f the series of 2 artanh((f − 1) / (f + 1)).
    """
    bits = np.float64(number).view(np.int64)
    exponent = (bits - HALF_ROOT) >> np.int64(52)
    fraction = np.int64(bits - (exponent << np.int64(52))).view(np.float64)
    s = (fraction - 1.0) / (fraction + 1.0)
    q, total = s * s, 1.0 / 17.0
    for n in (15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0):
        total = total * q + 1.0 / n
    return np.float64(exponent) * LN_2 + 2.0 * s * total


@inlined
def cosine_and_sine(turns: Any) -> Any:
    """Return both of the angle of 0 to 1 *turns* within 1e-14: Taylor's series around the nearest quarter."""
    quarter = np.int64(4.0 * turns + 0.5)
    y = 2.0 * math.pi * (turns - 0.25 * np.float64(quarter))
    q = y * y
    cosine, sine = 1.0, 1.0
    for n in (14.0, 12.0, 10.0, 8.0, 6.0, 4.0, 2.0):
        cosine = 1.0 - cosine * q / (n * (n - 1.0))
        sine = 1.0 - sine * q / (n * (n + 1.0))
    sine *= y
    if quarter & 1:
        cosine, sine = -sine, cosine
    sign = -1.0 if quarter & 2 else 1.0
    return sign * cosine, sign * sine


@bare
def fill(factors: Any, rank: int, first: int, stop: int, seed: Any, stream: Any, deviation: float) -> None:
    """Fill rows *first* to *stop* of the flat *factors* with normal numbers, two from each 64 bits (Box and Muller 1958).

    Sums and products alone, so that the compiler takes several pairs at once: a library's functions take one.
    """
    if deviation == 0:
        factors[first * rank : stop * rank] = 0
        return
    start = splitmix64(splitmix64(seed) ^ stream)
    for row in range(first, stop):
        key = splitmix64(start ^ np.uint64(row))
        at = natural(row * rank)
        for pair in range(rank >> 1):
            one, other = normal_pair(splitmix64(key + np.uint64(pair)), deviation)
            factors[at + 2 * natural(pair)] = one
            factors[at + 2 * natural(pair) + 1] = other
        if rank & 1:
            factors[at + rank - 1] = normal_pair(splitmix64(key + np.uint64(rank >> 1)), deviation)[0]


@inlined
def normal_pair(bits: Any, deviation: float) -> Any:
    """Return two independent normal numbers."""
    uniform = (np.float64(np.int64(bits >> np.uint64(32))) + 1.0) / 2.0**32
    radius = deviation * math.sqrt(-2.0 * natural_log(uniform))
    cosine, sine = cosine_and_sine(np.float64(np.int64(bits & LOW)) / 2.0**32)
    return np.float32(radius * cosine), np.float32(radius * sine)
