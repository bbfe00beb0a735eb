"""One row's problem solved exactly: the fold-in of short histories inside SGD, and the careful way for singular ones.

The problem of a row with n ratings, rows ``v`` of the other side and targets ``r = x − intercept − c``:

    minimise  ½ Σ (r − b − u·v)² + ½ λ |u|² + ½ μ b²

Arrays are float32 and flat; a vector of K factors takes ``padded(K)`` places, the rest zero.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.compiled import Int, inlined
from factorstream.worker.kernels.simd import LANES, add_scaled, dot

WEAK = np.float32(1e-3)
"""A pivot that shrinks below this share of its diagonal has lost too many of float32's digits: `solve_carefully` takes over."""

SINGULAR = 1e-12
"""A pivot below this share of the largest diagonal counts as zero in float64: factors are float32, their products no finer."""


class Scratch(NamedTuple):
    """What a fold-in works on; made once for many."""

    vectors: NDArray[np.float32]
    """``(n, padded(K))``: the other side's rows."""
    targets: NDArray[np.float32]
    matrix: NDArray[np.float32]
    diagonal: NDArray[np.float32]
    inverses: NDArray[np.float32]
    """One over each pivot."""
    left: NDArray[np.float32]
    """Right-hand sides of factors (left) and bias (right), while they are eliminated …"""
    right: NDArray[np.float32]
    left_done: NDArray[np.float32]
    """… and after."""
    right_done: NDArray[np.float32]
    multipliers: NDArray[np.float32]
    new_user: NDArray[np.float32]
    """The solutions: K factors, zeros, and the bias at ``padded(K)``."""
    new_item: NDArray[np.float32]


def scratch(longest: int, rank: int) -> Scratch:
    """Make room for histories of up to *longest* ratings."""
    n, vector = _round_up(longest), _round_up(rank)
    size = max(vector, _round_up(min(longest, rank)))
    sizes = (n * vector, n, size * size if longest else 0, *[size] * 7, vector + LANES, vector + LANES)
    return Scratch(*(np.zeros(places, np.float32) for places in sizes))


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
    intercept: Any,
    penalty: Any,
    bias_penalty: Any,
    room: Any,
    new: Any,
) -> Any:
    """Solve the row whose ratings are ``begin:end`` of *others* and *ratings* into *new*.

    *factors* (flat) and *biases* are the other side's. Returns whether the solution is good: finite,
    and λ not too small for float32.
    """
    n, vector = end - begin, padded(rank)
    for j in range(n):
        row = np.int64(others[begin + j])
        copy_row(factors, row * rank, rank, room.vectors, j * vector)
        room.targets[j] = ratings[begin + j] - intercept - biases[row]
    new[: vector + 1] = 0
    if n <= rank:
        good = solve_by_ratings(n, vector, penalty, bias_penalty, room, new)
    else:
        good = solve_by_factors(n, rank, penalty, bias_penalty, room, new)
    return good and all_finite(new, vector)


@inlined
def copy_row(source: Any, source_at: Int, rank: int, target: Any, target_at: Int) -> None:
    """Copy *rank* factors."""
    for k in range(rank):
        target[target_at + k] = source[source_at + k]


@inlined
def solve_by_ratings(n: int, vector: int, penalty: Any, bias_penalty: Any, room: Any, new: Any) -> bool:
    """Solve in the n × n dual ``(V Vᵀ + λ I) α = r − b 1``, ``u = Vᵀ α``, where ``b = λ 1·M⁻¹r / (λ 1·M⁻¹1 + μ)``."""
    width = padded(n)
    for s in range(n):
        for t in range(s, n):
            room.matrix[s * width + t] = dot(room.vectors, s * vector, room.vectors, t * vector, vector)
        finish_row(room, s, n, width, penalty)
        room.left[s] = room.targets[s]
        room.right[s] = 1
    good, both, squared = eliminate(room, n, width)
    if not good:
        return False
    bias = penalty * both / (penalty * squared + bias_penalty)
    substitute_back(room, n, width, bias, room.multipliers)
    for t in range(n):
        add_scaled(new, 0, room.multipliers[t], room.vectors, t * vector, vector)
    new[vector] = bias
    return True


@inlined
def solve_by_factors(n: int, rank: int, penalty: Any, bias_penalty: Any, room: Any, new: Any) -> bool:
    """Solve ``(Vᵀ V + λ I) u + b Vᵀ1 = Vᵀ r`` with the bias as a border, eliminated by its Schur complement."""
    width = padded(rank)
    room.matrix[: rank * width] = 0
    room.left[:width] = 0
    room.right[:width] = 0
    total = np.float32(0)
    for t in range(n):
        target = room.targets[t]
        for k in range(rank):
            first = k & -LANES
            add_scaled(
                room.matrix, k * width + first, room.vectors[t * width + k], room.vectors, t * width + first, width - first
            )
        add_scaled(room.left, 0, target, room.vectors, t * width, width)
        add_scaled(room.right, 0, np.float32(1), room.vectors, t * width, width)
        total += target
    for k in range(rank):
        finish_row(room, k, rank, width, penalty)
    good, both, squared = eliminate(room, rank, width)
    left_over = n + bias_penalty - squared
    if not good or not left_over > WEAK * n:
        return False
    bias = np.float32((total - both) / left_over)
    substitute_back(room, rank, width, bias, new)
    new[width] = bias
    return True


@inlined
def finish_row(room: Any, row: Int, size: int, width: int, penalty: Any) -> None:
    """Add the penalty to the diagonal of the matrix's *row*, and clear what is no part of its upper triangle."""
    room.matrix[row * width : row * width + row] = 0
    room.matrix[row * width + size : row * width + width] = 0
    room.matrix[row * width + row] += penalty
    room.diagonal[row] = room.matrix[row * width + row]


@inlined
def eliminate(room: Any, size: int, width: int) -> Any:
    """Factor ``M = Rᵀ D⁻¹ R`` in the upper triangle, and both right-hand sides with it.

    Returns whether every pivot kept enough digits, and ``left·M⁻¹·right`` and ``right·M⁻¹·right``.
    """
    both, squared = np.float32(0), np.float32(0)
    for k in range(size):
        pivot = room.matrix[k * width + k]
        if not pivot > WEAK * room.diagonal[k]:
            return False, both, squared
        inverse = np.float32(1) / pivot
        left, right = room.left[k], room.right[k]
        room.inverses[k], room.left_done[k], room.right_done[k] = inverse, left, right
        both += left * right * inverse
        squared += right * right * inverse
        first = k & -LANES
        add_scaled(room.left, first, -left * inverse, room.matrix, k * width + first, width - first)
        add_scaled(room.right, first, -right * inverse, room.matrix, k * width + first, width - first)
        for j in range(k + 1, size):
            first = j & -LANES
            scale = -room.matrix[k * width + j] * inverse
            add_scaled(room.matrix, j * width + first, scale, room.matrix, k * width + first, width - first)
    return True, both, squared


@inlined
def substitute_back(room: Any, size: int, width: int, bias: Any, solution: Any) -> None:
    """Solve ``M x = left − bias · right`` from the factors into ``solution[:width]``."""
    solution[:width] = 0
    for k in range(size - 1, -1, -1):
        known = dot(room.matrix, k * width, solution, 0, width)
        solution[k] = (room.left_done[k] - bias * room.right_done[k] - known) * room.inverses[k]


@inlined
def all_finite(new: Any, vector: int) -> bool:
    """Whether a new row and its bias are finite."""
    check = np.float32(0)
    for k in range(vector + 1):
        check += new[k] * np.float32(0)
    return not math.isnan(check)
