"""Confidence-weighted least squares over all pairs in Triton: a row's matrix begins as the other side's Gram matrix.

As in `gpu_als`, a row is solved for its change, so that a sweep refines what the last one left:
``(VᵀV + Σ α x v vᵀ + λ I) Δu = h`` with ``h = Σ (1 + α x − α x s) v − (VᵀV + λ I) u``, s and u being the row's as it is.
"""

from factorstream.worker.kernels import gpu_als
from factorstream.worker.kernels.gpu_als import TILE, old_row, put
from factorstream.worker.kernels.gpu_language import inner, jit, tl, total

WEAK = tl.constexpr(1e-5)
"""A pivot that shrinks below this share of its diagonal has lost too many of float32's digits: float64 has to do it."""


@inner
def add_pairs(u, other, others, ratings, begin, end, alpha, WIDTH: tl.constexpr, PRECISION: tl.constexpr):
    """Return ``Σ α x v vᵀ`` and ``Σ (1 + α x − α x s) v`` over those of the ratings ``begin:end`` that are above 0."""
    k = tl.arange(0, WIDTH)
    matrix, h = tl.zeros([WIDTH, WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    for first in range(begin, end, TILE):
        t = first + tl.arange(0, TILE)
        inside = t < end
        rows = tl.load(others + t, mask=inside, other=0).to(tl.int64)
        v = tl.load(other + rows[:, None] * WIDTH + k[None, :], mask=inside[:, None], other=0.0)
        x = tl.load(ratings + t, mask=inside, other=0.0)
        weights = alpha * x
        targets = tl.where(x > 0, 1.0 + weights - weights * total(v * u[None, :], 1), 0.0)
        matrix = tl.dot(tl.trans(v * weights[:, None]), v, matrix, input_precision=PRECISION)
        h += total(v * targets[:, None], 0)
    return matrix, h


@inner
def finish(own, own_biases, row, u, b, fine, matrix, h, gram, penalties, entry, count, gains, weak, rank, WIDTH: tl.constexpr):
    """Solve a row from its pairs' sums, and write it; a row without any becomes zero."""
    k = tl.arange(0, WIDTH)
    everything = tl.load(gram + k[:, None] * WIDTH + k[None, :])
    penalty = tl.load(penalties + entry)
    h -= total(everything * u[None, :], 1)
    # no biases: their border is a 1 beside zeros
    none, one = tl.zeros([WIDTH], tl.float32), 1.0 + 0.0 * penalty
    new, _, gain, strong = gpu_als.solve(matrix + everything, h, none, 0.0, one, u, b, rank, penalty, 0.0, WEAK, WIDTH)
    new = tl.where(count > 0, new, 0.0)
    put(own, own_biases, row, new, b, gain, fine, strong & (penalty > 0), gains, weak, entry, WIDTH)


@jit
def solve_pairs(
    own,
    own_biases,
    other,
    rows,
    entries,
    starts,
    others,
    ratings,
    gram,
    penalties,
    gains,
    weak,
    rank,
    alpha,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Solve rows from all their ratings, one a program."""
    entry = tl.load(entries + tl.program_id(0)).to(tl.int64)
    row = tl.load(rows + entry).to(tl.int64)
    begin, end = tl.load(starts + entry), tl.load(starts + entry + 1)
    u, b, fine = old_row(own, own_biases, row, WIDTH)
    matrix, h = add_pairs(u, other, others, ratings, begin, end, alpha, WIDTH, PRECISION)
    finish(own, own_biases, row, u, b, fine, matrix, h, gram, penalties, entry, end - begin, gains, weak, rank, WIDTH)


@jit
def sum_pair_pieces(
    own,
    own_biases,
    other,
    rows,
    piece_entries,
    piece_begins,
    starts,
    others,
    ratings,
    sums,
    alpha,
    PIECE: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sum the matrices of long rows, one piece a program, into *sums* (`gpu_als.sum_pieces`)."""
    piece = tl.program_id(0).to(tl.int64)
    entry, begin = tl.load(piece_entries + piece).to(tl.int64), tl.load(piece_begins + piece)
    row, end = tl.load(rows + entry).to(tl.int64), tl.minimum(begin + PIECE, tl.load(starts + entry + 1))
    u, _, _ = old_row(own, own_biases, row, WIDTH)
    matrix, h = add_pairs(u, other, others, ratings, begin, end, alpha, WIDTH, PRECISION)
    k = tl.arange(0, WIDTH)
    target = sums + piece * ((WIDTH + 3) * WIDTH)
    tl.store(target + k[:, None] * WIDTH + k[None, :], matrix)
    tl.store(target + WIDTH * WIDTH + k, h)


@jit
def solve_long_pairs(
    own,
    own_biases,
    rows,
    entries,
    firsts,
    starts,
    sums,
    gram,
    penalties,
    gains,
    weak,
    rank,
    PIECE: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Solve rows from the sums of their pieces, in order; the first piece of each is at *firsts*."""
    entry = tl.load(entries + tl.program_id(0)).to(tl.int64)
    row = tl.load(rows + entry).to(tl.int64)
    count = tl.load(starts + entry + 1) - tl.load(starts + entry)
    u, b, fine = old_row(own, own_biases, row, WIDTH)
    k = tl.arange(0, WIDTH)
    matrix, h = tl.zeros([WIDTH, WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    first = tl.load(firsts + tl.program_id(0)).to(tl.int64)
    for piece in range(first, first + (count + PIECE - 1) // PIECE):
        source = sums + piece * ((WIDTH + 3) * WIDTH)
        matrix += tl.load(source + k[:, None] * WIDTH + k[None, :])
        h += tl.load(source + WIDTH * WIDTH + k)
    finish(own, own_biases, row, u, b, fine, matrix, h, gram, penalties, entry, count, gains, weak, rank, WIDTH)
