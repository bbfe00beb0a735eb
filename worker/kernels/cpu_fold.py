"""One row's problem solved exactly: the fold-in of short histories inside SGD.

The problem of a row with n ratings, rows ``v`` of the other side and targets ``r = x − intercept − c``:

    minimise  ½ Σ (r − b − u·v)² + ½ λ |u|² + ½ μ b²

Arrays are float32 and flat; a vector of K factors takes ``padded(K)`` places, the rest zero.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.compiled import LANES, Int, inlined
from factorstream.worker.kernels.simd import (
    add_border,
    add_scaled,
    add_scaled_vector,
    add_tile,
    all_finite,
    clear,
    copy_padded,
    dot,
    transpose_tile,
)

WEAK = np.float32(1e-3)
"""A pivot that shrinks below this share of its diagonal has lost too many of float32's digits: float64 has to do it."""

FEW = 16
"""Up to so many ratings their products are made pair by pair; a tile costs the same however full it is, with AVX2 twice that."""

ONE = np.float32(1)


class Scratch(NamedTuple):
    """What a fold-in works on; made once for many."""

    vectors: NDArray[np.float32]
    """``(n, padded(K))``: the other side's rows."""
    targets: NDArray[np.float32]
    turned: NDArray[np.float32]
    """The same, transposed."""
    matrix: NDArray[np.float32]
    lower: NDArray[np.float32]
    """L, below its diagonal of ones."""
    borders: NDArray[np.float32]
    """``(2, padded(K))``: Vᵀ r and Vᵀ 1."""
    diagonal: NDArray[np.float32]
    left: NDArray[np.float32]
    """Right-hand sides of factors (left) and bias (right), while they are eliminated …"""
    right: NDArray[np.float32]
    left_done: NDArray[np.float32]
    """… and after, by D."""
    right_done: NDArray[np.float32]
    multipliers: NDArray[np.float32]
    new_user: NDArray[np.float32]
    """The solutions: K factors, zeros, and the bias at ``padded(K)``."""
    new_item: NDArray[np.float32]


def scratch(longest: int, rank: int) -> Scratch:
    """Make room for histories of up to *longest* ratings."""
    n, vector = _round_up(longest), _round_up(rank)
    square = max(vector, _round_up(min(longest, rank))) ** 2 if longest else 0
    column = max(vector, n)
    sizes = (n * vector, n, n * vector, square, square, 2 * vector, *[column] * 6, vector + LANES, vector + LANES)
    whole = np.zeros(sum(sizes), np.float32)  # one array is made sooner than fourteen
    return Scratch(*(whole[end - places : end] for places, end in zip(sizes, itertools.accumulate(sizes), strict=True)))


def _round_up(n: int) -> int:
    return -(-n // LANES) * LANES


@inlined
def padded(n: int) -> int:
    """Return *n* rounded up to a multiple of `LANES`."""
    return (n + LANES - 1) & -LANES


@inlined
def fold_in(
    factors: Any,
    biases: Any,
    rank: int,
    others: Any,
    ratings: Any,
    begin: Int,
    end: Int,
    means: Any,
    mean_at: Int,
    intercept: Any,
    penalty: Any,
    bias_penalty: Any,
    room: Any,
    new: Any,
) -> Any:
    """Solve the row whose ratings are ``begin:end`` of *others* and *ratings* into *new*.

    *factors* and *biases* are the other side's. The prior mean begins at *mean_at* of *means*, or is zero where these are none.
    Returns whether the solution is good: finite, and λ not too small for float32.
    """
    n, vector = end - begin, padded(rank)
    for j in range(n):
        row = np.int64(others[begin + j])
        copy_padded(factors, row * rank, rank, room.vectors, j * vector)
        room.targets[j] = ratings[begin + j] - intercept - biases[row]
        if means.shape[0] > 0:
            room.targets[j] -= means[mean_at + rank] + dot(means, mean_at, room.vectors, j * vector, rank)
    clear(new, 0, vector + 1)
    if n <= rank:
        good = solve_by_ratings(n, vector, penalty, bias_penalty, room, new)
    else:
        good = solve_by_factors(n, rank, penalty, bias_penalty, room, new)
    if means.shape[0] > 0:
        add_scaled(new, 0, ONE, means, mean_at, rank)
        new[vector] += means[mean_at + rank]
    return good and all_finite(new, 0, vector + 1)


@inlined
def solve_by_ratings(n: int, vector: int, penalty: Any, bias_penalty: Any, room: Any, new: Any) -> bool:
    """Solve in the n × n dual ``(V Vᵀ + λ I) α = r − b 1``, ``u = Vᵀ α``, where ``b = λ 1·M⁻¹r / (λ 1·M⁻¹1 + μ)``."""
    width = padded(n)
    clear(room.matrix, 0, n * width)
    if n > FEW:
        multiply_tiles(n, width, vector, room)
    else:
        multiply_pairs(n, width, vector, room)
    for s in range(n):
        room.matrix[s * width + s] += penalty
        room.left[s] = room.targets[s]
        room.right[s] = 1
    good, both, squared = eliminate(room, n, width)
    if not good:
        return False
    bias = penalty * both / (penalty * squared + bias_penalty)
    substitute_back(room, n, bias, width, room.multipliers)
    for t in range(n):
        add_scaled(new, 0, room.multipliers[t], room.vectors, t * vector, vector)
    new[vector] = bias
    return True


@inlined
def multiply_pairs(n: int, width: int, vector: int, room: Any) -> None:
    """Set the upper triangle of ``V Vᵀ``, one product after another."""
    for s in range(n):
        for t in range(s, n):
            room.matrix[s * width + t] = dot(room.vectors, s * vector, room.vectors, t * vector, vector)


@inlined
def multiply_tiles(n: int, width: int, vector: int, room: Any) -> None:
    """Set ``V Vᵀ`` and zeros around it, tile by tile, from V transposed."""
    clear(room.vectors, n * vector, (width - n) * vector)
    clear(room.matrix, n * width, (width - n) * width)
    for t in range(0, n, LANES):
        for k in range(0, vector, LANES):
            transpose_tile(room.vectors, t * vector + k, vector, room.turned, k * width + t, width)
    for i in range(0, n, LANES):
        for j in range(i, n, LANES):
            add_tile(room.turned, vector, width, i, j, room.matrix, 0)


@inlined
def solve_by_factors(n: int, rank: int, penalty: Any, bias_penalty: Any, room: Any, new: Any) -> bool:
    """Solve ``(Vᵀ V + λ I) u + b Vᵀ1 = Vᵀ r`` with the bias as a border, eliminated by its Schur complement."""
    width = padded(rank)
    clear(room.matrix, 0, width * width)
    clear(room.borders, 0, 2 * width)
    for i in range(0, width, LANES):
        for j in range(i, width, LANES):
            add_tile(room.vectors, n, width, i, j, room.matrix, 0)
        add_border(room.vectors, room.targets, n, width, i, room.borders, 0)
    for k in range(rank):
        room.matrix[k * width + k] += penalty
        room.left[k] = room.borders[k]
        room.right[k] = room.borders[width + k]
    total = np.float32(0)
    for t in range(n):
        total += room.targets[t]
    good, both, squared = eliminate(room, rank, width)
    left_over = n + bias_penalty - squared
    if not good or not left_over > WEAK * n:
        return False
    bias = np.float32((total - both) / left_over)
    substitute_back(room, rank, bias, width, new)
    new[width] = bias
    return True


@inlined
def eliminate(room: Any, size: int, width: int) -> Any:
    """Factor ``M = L D Lᵀ``, and both right-hand sides with it; only the upper triangle of M is read.

    Returns whether every pivot kept enough digits, and ``left·M⁻¹·right`` and ``right·M⁻¹·right``.
    """
    both, squared = np.float32(0), np.float32(0)
    for k in range(size):
        room.diagonal[k] = room.matrix[k * width + k]
    for k in range(size):
        pivot = room.matrix[k * width + k]
        if not pivot > WEAK * room.diagonal[k]:
            return False, both, squared
        inverse = ONE / pivot
        left, right = room.left[k], room.right[k]
        room.left_done[k], room.right_done[k] = left * inverse, right * inverse
        both += left * right * inverse
        squared += right * right * inverse
        first = k & -LANES
        take_row(room.left, first, left * inverse, room.matrix, k * width + first, width - first)
        take_row(room.right, first, right * inverse, room.matrix, k * width + first, width - first)
        for j in range(k + 1, size):
            first = j & -LANES
            scale = room.matrix[k * width + j] * inverse
            room.lower[j * width + k] = scale
            take_row(room.matrix, j * width + first, scale, room.matrix, k * width + first, width - first)
    return True, both, squared


@inlined
def take_row(y: Any, y_at: Int, scale: Any, x: Any, x_at: Int, n: int) -> None:
    """``y[y_at:y_at + n] -= scale * x[x_at:x_at + n]``, n > 0 a multiple of `LANES`."""
    if n == LANES:
        add_scaled_vector(y, y_at, -scale, x, x_at)
    else:
        add_scaled(y, y_at, -scale, x, x_at, n)


@inlined
def substitute_back(room: Any, size: int, bias: Any, width: int, solution: Any) -> None:
    """Solve ``M x = left − bias · right`` from the factors into ``solution[:size]``."""
    rest = room.left_done
    add_scaled(rest, 0, -bias, room.right_done, 0, width)
    for k in range(size - 1, -1, -1):
        solution[k] = rest[k]
        add_scaled(rest, 0, -rest[k], room.lower, k * width, padded(k))  # spoils what is done
