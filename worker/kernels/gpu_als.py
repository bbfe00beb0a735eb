"""Alternating least squares in Triton: a row's matrix is summed and solved by one program, in registers from first to last.

A row is solved for its change: ``A Δu + g Δb = h``, ``g·Δu + (n + μ) Δb = ρ`` with ``A = Σ v vᵀ + λ I``, ``g = Σ v``, and h, ρ
the residuals of the row as it is, so that a sweep refines what the last one left. Rows longer than a piece are summed a piece a
program, and solved by another. Pieces are cut by the row's own length alone: its bits depend on no other row.
"""

from factorstream.worker.kernels.gpu_language import finite, inner, jit, least, most, tl, total

TILE = tl.constexpr(32)
"""Ratings whose products are summed by one matrix product."""
WEAK = tl.constexpr(1e-3)
"""A pivot that shrinks below this share of its diagonal has lost too many of float32's digits: float64 has to do it."""
CANCELLED = tl.constexpr(64.0)
"""A change so many times larger than the row it leads to has cost float32 too many digits."""


@inner
def old_row(own, own_biases, row, WIDTH: tl.constexpr):
    """Return a row and its bias as they are, and whether they were finite; zeros where they were not."""
    k = tl.arange(0, WIDTH)
    u, b = tl.load(own + row * WIDTH + k), tl.load(own_biases + row)
    fine = (least(finite(u).to(tl.int32), 0) > 0) & finite(b)
    return tl.where(fine, u, 0.0), tl.where(fine, b, 0.0), fine


@inner
def add_ratings(u, b, other, other_biases, others, ratings, begin, end, intercept, WIDTH: tl.constexpr, PRECISION: tl.constexpr):
    """Return ``Σ v vᵀ``, ``Σ r v``, ``Σ v`` and ``Σ r`` over the ratings ``begin:end``; r are the residuals of row (u, b)."""
    k = tl.arange(0, WIDTH)
    matrix = tl.zeros([WIDTH, WIDTH], tl.float32)
    h, g, rest = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32), tl.zeros([TILE], tl.float32)
    for first in range(begin, end, TILE):
        t = first + tl.arange(0, TILE)
        inside = t < end
        rows = tl.load(others + t, mask=inside, other=0).to(tl.int64)
        v = tl.load(other + rows[:, None] * WIDTH + k[None, :], mask=inside[:, None], other=0.0)
        known = intercept + b + tl.load(other_biases + rows, mask=inside, other=0.0) + total(v * u[None, :], 1)
        residuals = tl.where(inside, tl.load(ratings + t, mask=inside, other=0.0) - known, 0.0)
        matrix = tl.dot(tl.trans(v), v, matrix, input_precision=PRECISION)
        h += total(v * residuals[:, None], 0)
        g += total(v, 0)
        rest += residuals
    return matrix, h, g, total(rest, 0)


@inner
def solve(matrix, h, g, rest, n, u, b, rank, penalty, bias_penalty, weak, WIDTH: tl.constexpr):
    """Return the row's minimiser and its bias, by how much the objective falls, and whether float32 was good enough.

    It was not where a pivot shrank below the share *weak* of its diagonal.
    """
    k = tl.arange(0, WIDTH)
    column, row = k[:, None], k[None, :]
    matrix += tl.where(column == row, tl.where(column < rank, penalty, 1.0), 0.0)
    diagonal = total(tl.where(column == row, matrix, 0.0), 1)
    left, right, rest = h - penalty * u, g, rest - bias_penalty * b
    both, squared, gain, strong = rest * 0.0, rest * 0.0, rest * 0.0, n >= 0
    for s in range(rank):
        pivot_row = total(tl.where(column == s, matrix, 0.0), 0)
        pivot_column = total(tl.where(row == s, matrix, 0.0), 1)
        here = k == s
        pivot = total(tl.where(here, pivot_column, 0.0), 0)
        left_here, right_here = total(tl.where(here, left, 0.0), 0), total(tl.where(here, right, 0.0), 0)
        strong = strong & (pivot > weak * total(tl.where(here, diagonal, 0.0), 0))
        both += left_here * right_here / pivot
        squared += right_here * right_here / pivot
        gain += left_here * left_here / pivot
        scale = tl.where(here, 0.0, pivot_column / pivot)
        matrix -= scale[:, None] * pivot_row[None, :]
        left -= scale * left_here
        right -= scale * right_here
    pivots = total(tl.where(column == row, matrix, 0.0), 1)
    border = n + bias_penalty - squared
    change_b = (rest - both) / border
    change = (left - change_b * right) / pivots
    new, new_b = u + change, b + change_b
    largest = tl.maximum(most(tl.abs(new), 0), tl.abs(new_b))
    changed = tl.maximum(most(tl.abs(change), 0), tl.abs(change_b))
    strong = strong & (border > weak * n) & (changed <= CANCELLED * largest) & finite(largest) & finite(changed)
    strong = strong & (least(finite(new).to(tl.int32), 0) > 0)
    return new, new_b, 0.5 * (gain + (rest - both) * change_b), strong


@inner
def put(own, own_biases, row, new, new_b, gain, fine, strong, gains, weak, entry, WIDTH: tl.constexpr):
    """Write a row that was solved well and what that gained, or mark it."""
    k = tl.arange(0, WIDTH)
    tl.store(own + row * WIDTH + k, new, mask=k < tl.where(strong, WIDTH, 0))
    tl.store(own_biases + row, new_b, mask=strong)
    tl.store(gains + entry, tl.where(fine, gain, float("inf")), mask=strong)
    tl.store(weak + entry, tl.where(strong, 0, 1))


@jit
def solve_rows(
    own,
    own_biases,
    other,
    other_biases,
    rows,
    entries,
    starts,
    others,
    ratings,
    gains,
    weak,
    rank,
    intercept,
    penalty,
    bias_penalty,
    WEIGHTED: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Solve rows from all their ratings, one a program."""
    entry = tl.load(entries + tl.program_id(0)).to(tl.int64)
    row = tl.load(rows + entry).to(tl.int64)
    begin, end = tl.load(starts + entry), tl.load(starts + entry + 1)
    n = (end - begin).to(tl.float32)
    weight = n if WEIGHTED else 1.0
    u, b, fine = old_row(own, own_biases, row, WIDTH)
    matrix, h, g, rest = add_ratings(u, b, other, other_biases, others, ratings, begin, end, intercept, WIDTH, PRECISION)
    new, new_b, gain, strong = solve(matrix, h, g, rest, n, u, b, rank, weight * penalty, weight * bias_penalty, WEAK, WIDTH)
    put(own, own_biases, row, new, new_b, gain, fine, strong, gains, weak, entry, WIDTH)


@jit
def sum_pieces(
    own,
    own_biases,
    other,
    other_biases,
    rows,
    piece_entries,
    piece_begins,
    starts,
    others,
    ratings,
    sums,
    intercept,
    PIECE: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sum the matrices of long rows, one piece a program, into *sums* ``(pieces, WIDTH + 3, WIDTH)``."""
    piece = tl.program_id(0).to(tl.int64)
    entry, begin = tl.load(piece_entries + piece).to(tl.int64), tl.load(piece_begins + piece)
    row, end = tl.load(rows + entry).to(tl.int64), tl.minimum(begin + PIECE, tl.load(starts + entry + 1))
    u, b, _ = old_row(own, own_biases, row, WIDTH)
    matrix, h, g, rest = add_ratings(u, b, other, other_biases, others, ratings, begin, end, intercept, WIDTH, PRECISION)
    k = tl.arange(0, WIDTH)
    target = sums + piece * ((WIDTH + 3) * WIDTH)
    tl.store(target + k[:, None] * WIDTH + k[None, :], matrix)
    tl.store(target + WIDTH * WIDTH + k, h)
    tl.store(target + (WIDTH + 1) * WIDTH + k, g)
    tl.store(target + (WIDTH + 2) * WIDTH, rest)


@jit
def solve_long_rows(
    own,
    own_biases,
    rows,
    entries,
    firsts,
    starts,
    sums,
    gains,
    weak,
    rank,
    penalty,
    bias_penalty,
    WEIGHTED: tl.constexpr,
    PIECE: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Solve rows from the sums of their pieces, in order; the first piece of each is at *firsts*."""
    entry = tl.load(entries + tl.program_id(0)).to(tl.int64)
    row = tl.load(rows + entry).to(tl.int64)
    count = tl.load(starts + entry + 1) - tl.load(starts + entry)
    u, b, fine = old_row(own, own_biases, row, WIDTH)
    k = tl.arange(0, WIDTH)
    matrix = tl.zeros([WIDTH, WIDTH], tl.float32)
    h, g, rest = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32), b * 0.0
    first = tl.load(firsts + tl.program_id(0)).to(tl.int64)
    for piece in range(first, first + (count + PIECE - 1) // PIECE):
        source = sums + piece * ((WIDTH + 3) * WIDTH)
        matrix += tl.load(source + k[:, None] * WIDTH + k[None, :])
        h += tl.load(source + WIDTH * WIDTH + k)
        g += tl.load(source + (WIDTH + 1) * WIDTH + k)
        rest += tl.load(source + (WIDTH + 2) * WIDTH)
    n = count.to(tl.float32)
    weight = n if WEIGHTED else 1.0
    new, new_b, gain, strong = solve(matrix, h, g, rest, n, u, b, rank, weight * penalty, weight * bias_penalty, WEAK, WIDTH)
    put(own, own_biases, row, new, new_b, gain, fine, strong, gains, weak, entry, WIDTH)
