"""Prior means from the rows met, in Triton: sums that go row by row, and effects that are found one after another.

Tables of effects are found by their first number and the distance of rows: a side's `Effects`, or columns of its `Beliefs`. A row
of them is K numbers of the factors, and behind them that of the bias.
"""

from factorstream.worker.kernels.gpu_language import finite, inner, jit, least, tl, total

CAUTION = tl.constexpr(3.0)
"""`effects.CAUTION`, and `beliefs.MEETINGS`."""
CHAIN_TILE, CHAIN_WARPS = tl.constexpr(64), tl.constexpr(4)
"""Ratings that the one program which goes through rows takes at once, and its warps."""


@inner
def share_of(count):
    """Return how much of each effect goes into the mean of a row that has met *count*."""
    return 1.0 / tl.sqrt(tl.maximum(count, 0).to(tl.float32) + CAUTION)


@jit
def meet_rows(said, told, rows, others, row_counts, changes, events, starts, means, rank, WIDTH: tl.constexpr):
    """Tell rows of whom they meet, one row a program, event after event; fill the means just after each ``(n_events, K + 1)``.

    *rows*, *others*, *row_counts* and *changes* are by event; those of row i are ``events[starts[i]:starts[i + 1]]``, in order.
    """
    k = tl.arange(0, WIDTH)
    inside = k < rank
    begin, end = tl.load(starts + tl.program_id(0)), tl.load(starts + tl.program_id(0) + 1)
    if begin < end:
        at = told + tl.load(rows + tl.load(events + begin)).to(tl.int64) * (rank + 1)
        sums, bias_sum = tl.load(at + k, mask=inside, other=0.0), tl.load(at + rank)
        for place in range(begin, end):
            j = tl.load(events + place).to(tl.int64)
            met, change = tl.load(others + j).to(tl.int64) * (rank + 1), tl.load(changes + j).to(tl.float32)
            sums += change * tl.load(said + met + k, mask=inside, other=0.0)
            bias_sum += change * tl.load(said + met + rank)
            share = share_of(tl.load(row_counts + j))
            tl.store(means + j * (rank + 1) + k, share * sums, mask=inside)
            tl.store(means + j * (rank + 1) + rank, share * bias_sum)
        tl.store(at + k, sums, mask=inside)
        tl.store(at + rank, bias_sum)


@jit
def recall_rows(said, told, rows, starts, others, means, rank, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """Sum anew what rows were told, one a program, and fill their means."""
    k = tl.arange(0, WIDTH)
    inside = k < rank
    entry = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(starts + entry), tl.load(starts + entry + 1)
    sums, bias_sums = tl.zeros([WIDTH], tl.float32), tl.zeros([TILE], tl.float32)
    for first in range(begin, end, TILE):
        t = first + tl.arange(0, TILE)
        met = said + tl.load(others + t, mask=t < end, other=0).to(tl.int64) * (rank + 1)
        sums += total(tl.load(met[:, None] + k[None, :], mask=(t < end)[:, None] & inside[None, :], other=0.0), 0)
        bias_sums += tl.load(met + rank, mask=t < end, other=0.0)
    bias_sum = total(bias_sums, 0)
    share = share_of(end - begin)
    at = told + tl.load(rows + entry).to(tl.int64) * (rank + 1)
    tl.store(at + k, sums, mask=inside)
    tl.store(at + rank, bias_sum)
    tl.store(means + entry * (rank + 1) + k, share * sums, mask=inside)
    tl.store(means + entry * (rank + 1) + rank, share * bias_sum)


@jit
def attribute_rows(
    said,
    said_stride,
    told,
    told_stride,
    factors,
    biases,
    rows,
    starts,
    others,
    counts,
    n_rows,
    rank,
    level,
    slope,
    factor_weight,
    bias_weight,
    factor_ridge,
    bias_ridge,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Find the effect of each of *rows* on the rows it met, one after another, by one program; *counts* are of the rows met."""
    k = tl.arange(0, WIDTH)
    inside = k < rank
    for entry in range(n_rows):
        begin, end = tl.load(starts + entry), tl.load(starts + entry + 1)
        left, bias_left = tl.zeros([WIDTH], tl.float32), tl.zeros([TILE], tl.float32)
        squares = tl.zeros([TILE], tl.float32)
        for first in range(begin, end, TILE):
            t = first + tl.arange(0, TILE)
            met = tl.load(others + t, mask=t < end, other=0).to(tl.int64)
            count = tl.load(counts + t, mask=t < end, other=0)
            share = tl.where(t < end, share_of(count), 0.0)
            sums = told + met * told_stride
            both = (t < end)[:, None] & inside[None, :]
            away = tl.load(factors + met[:, None] * WIDTH + k[None, :], mask=both, other=0.0)
            away -= share[:, None] * tl.load(sums[:, None] + k[None, :], mask=both, other=0.0)
            left += total(share[:, None] * away, 0)
            bias_away = tl.load(biases + met, mask=t < end, other=0.0) - level - slope * tl.log(1.0 + count.to(tl.float32))
            bias_left += share * (bias_away - share * tl.load(sums + rank, mask=t < end, other=0.0))
            squares += share * share
        square = total(squares, 0)
        at = said + tl.load(rows + entry).to(tl.int64) * said_stride
        effects, bias_effect = tl.load(at + k, mask=inside, other=0.0), tl.load(at + rank)
        change = (factor_weight * left - factor_ridge * effects) / (factor_weight * square + factor_ridge)
        bias_change = bias_weight * total(bias_left, 0) - bias_ridge * bias_effect
        bias_change = bias_change / (bias_weight * square + bias_ridge)
        fine = (least((finite(change) | (k >= rank)).to(tl.int32), 0) > 0) & finite(bias_change)
        met_none = begin == end
        new = tl.where(met_none, 0.0, tl.where(fine, effects + change, effects))
        tl.store(at + k, new, mask=inside)
        tl.store(at + rank, tl.where(met_none, 0.0, tl.where(fine, bias_effect + bias_change, bias_effect)))
        stop = tl.where(fine, end, begin)
        for first in range(begin, stop, TILE):
            t = first + tl.arange(0, TILE)
            sums = told + tl.load(others + t, mask=t < stop, other=0).to(tl.int64) * told_stride
            places, both = sums[:, None] + k[None, :], (t < stop)[:, None] & inside[None, :]
            tl.store(places, tl.load(places, mask=both, other=0.0) + change[None, :], mask=both)
            tl.store(sums + rank, tl.load(sums + rank, mask=t < stop, other=0.0) + bias_change, mask=t < stop)
        tl.debug_barrier()
