"""Rows on the device, shared out among programs by their length, and the few that need float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from factorstream.worker.kernels import gpu_als, gpu_implicit, gpu_rows, losses
from factorstream.worker.kernels.api import F32, F64, I32, I64, Histories, Objective
from factorstream.worker.kernels.gpu_losses import edges_of
from factorstream.worker.kernels.gpu_tables import (
    DeviceHistories,
    Full,
    Tables,
    Tensor,
    empty,
    full_when_short,
    histories_on_device,
    sent,
    zeros,
)

PRECISION = "ieee"
"""How matrices are multiplied: ``ieee`` is float32; ``tf32x3`` uses tensor cores, each product within 2⁻²⁰ of float32's."""
PIECE = 1024
"""Ratings of one row that one program sums."""
MOST_PIECES = 1 << 15
"""Pieces summed at once: half a gigabyte at K = 64."""


class Rows(NamedTuple):
    """Histories, and how their rows are shared out."""

    histories: DeviceHistories
    starts: I64
    """On the host."""
    counts: I64
    short: I64
    """Entries that one program sums, the longest first."""
    long: I64
    """Those with more."""
    empty: I64


class KeptHistories(Histories):
    """Histories that are on the device too, once they were needed there; what `_replace` makes of them is not yet."""

    work: Rows | None = None


class Block(NamedTuple):
    """Long rows whose pieces are summed at once, on the device."""

    entries: Tensor
    firsts: Tensor
    """Where the sums of each one's pieces begin."""
    piece_entries: Tensor
    piece_begins: Tensor
    """Each piece's first rating."""


class Numbers(NamedTuple):
    """What is the same for all rows of a call."""

    rank: int
    intercept: float
    penalty: float
    bias_penalty: float
    weighted: bool

    def of(self, count: int) -> tuple[float, float]:
        """Return λ and μ of a row that holds *count* ratings."""
        weight = float(count) if self.weighted else 1.0
        return weight * self.penalty, weight * self.bias_penalty


def rows_of(histories: Histories) -> Rows:
    """Send *histories*, and share out their rows. Raises `Full`."""
    if not isinstance(histories, KeptHistories):
        return _rows_of(histories)
    if histories.work is None:
        histories.work = _rows_of(histories)
    return histories.work


def kept(histories: Histories) -> KeptHistories:
    """Return *histories*, to be sent to the device once."""
    return KeptHistories(*histories)


def _rows_of(histories: Histories) -> Rows:
    counts = np.diff(histories.starts)
    long, short, none = (np.flatnonzero(those) for those in (counts > PIECE, (counts > 0) & (counts <= PIECE), counts == 0))
    short = short[np.argsort(-counts[short], kind="stable")]
    return Rows(histories_on_device(histories), histories.starts, counts, short, long, none)


def picked(histories: Histories, entries: I64) -> Histories:
    """Return *entries* of *histories* as histories of their own."""
    counts = np.diff(histories.starts)[entries]
    starts = np.append(0, np.cumsum(counts))
    places = np.repeat(histories.starts[entries] - starts[:-1], counts) + np.arange(starts[-1])
    return Histories(starts, histories.others[places], histories.ratings[places])


def solve(
    own: Tables, other: Tables, rank: int, rows: I32, work: Rows, intercept: float, objective: Objective, of_users: bool
) -> tuple[F64, I64]:
    """Solve *rows* for least squares; return by how much each lowered the objective, and the entries that are left to the host.

    Left are those that float32 cannot solve, and all without λ. Raises `Full` before anything is changed.
    """
    penalty = objective.penalty
    numbers = Numbers(rank, float(intercept), float(penalty.on(users=of_users)[0]), float(penalty.bias), bool(penalty.weighted))
    if numbers.penalty <= 0:
        return np.zeros(len(rows)), np.arange(len(rows))
    there, gains, weak = sent(rows, np.int32), empty((len(rows),)).zero_(), zeros((len(rows),))
    none = sent(rows[work.empty], np.int64)
    fallen = _penalties_of(own, none, numbers)
    _solve_fast(own, other, there, work, numbers, gains, weak)
    for table in own:
        table.index_fill_(0, none, 0.0)
    total = gains.cpu().numpy().astype(np.float64)
    total[work.empty] = fallen.cpu().numpy()
    return total, np.flatnonzero(weak.cpu().numpy())


def _penalties_of(own: Tables, rows: Tensor, numbers: Numbers) -> Tensor:
    """Return what the objective is of *rows* that hold nothing; ∞ where they are not finite. Raises `Full`."""
    penalty, bias_penalty = numbers.of(0)
    with full_when_short():
        factors, biases = own.factors[rows].double(), own.biases[rows].double()
        total = 0.5 * (penalty * factors.square().sum(1) + bias_penalty * biases.square())
        return torch.where(total.isfinite(), total, torch.inf)


@np.errstate(all="ignore")
def _solve_fast(own: Tables, other: Tables, rows: Tensor, work: Rows, numbers: Numbers, gains: Tensor, weak: Tensor) -> None:
    """Solve rows that hold something in float32; mark others in *weak*. Raises `Full` before anything is changed."""
    rank, intercept, penalty, bias_penalty, weighted = numbers
    width = own.factors.shape[1]
    how: dict[str, Any] = {"WIDTH": width, "num_warps": warps(width)}
    short, sums = sent(work.short, np.int32), _room_for_sums(work, width)
    blocks = list(_blocks(work, len(sums)))
    if len(short):
        gpu_als.solve_rows[(len(short),)](
            *own,
            *other,
            rows,
            short,
            *work.histories,
            gains,
            weak,
            rank,
            intercept,
            penalty,
            bias_penalty,
            WEIGHTED=weighted,
            PRECISION=PRECISION,
            **how,
        )
    for block in blocks:
        gpu_als.sum_pieces[(len(block.piece_entries),)](
            *own,
            *other,
            rows,
            block.piece_entries,
            block.piece_begins,
            *work.histories,
            sums,
            intercept,
            PIECE=PIECE,
            PRECISION=PRECISION,
            **how,
        )
        gpu_als.solve_long_rows[(len(block.entries),)](
            *own,
            rows,
            block.entries,
            block.firsts,
            work.histories.starts,
            sums,
            gains,
            weak,
            rank,
            penalty,
            bias_penalty,
            WEIGHTED=weighted,
            PIECE=PIECE,
            **how,
        )


@np.errstate(all="ignore")
def solve_any(
    own: Tables, other: Tables, rank: int, rows: I32, work: Rows, intercept: float, objective: Objective, of_users: bool
) -> tuple[F64, I64]:
    """Solve *rows* for any objective; return by how much each lowered it, and the entries that are left to the host.

    Left are those that float32 cannot solve, and all without λ, which is to mean minimum norm. Raises `Full` before anything is
    changed.
    """
    (ridge, lasso), bias = objective.penalty.on(users=of_users), objective.penalty.bias
    smooth = lasso == 0 and not objective.nonnegative
    if smooth and ridge == 0:
        return np.zeros(len(rows)), np.arange(len(rows))
    width, loss = own.factors.shape[1], objective.loss
    longest_first = np.concatenate([work.long[np.argsort(-work.counts[work.long], kind="stable")], work.short, work.empty])
    gains, weak = empty((len(rows),), torch.float64).zero_(), zeros((len(rows),))
    gpu_rows.newton[(len(rows),)](
        *own,
        *other,
        sent(rows, np.int32),
        sent(longest_first, np.int32),
        *work.histories,
        sent(edges_of(loss), np.float64),
        gains,
        weak,
        rank,
        float(len(loss.cuts)),
        float(intercept),
        float(ridge),
        float(lasso),
        float(bias),
        WEIGHTED=bool(objective.penalty.weighted),
        BIASED=bool(objective.biased),
        SMOOTH=smooth,
        NONNEGATIVE=bool(objective.nonnegative),
        LOSS=losses.KINDS[loss.name],
        WIDTH=width,
        PRECISION=PRECISION,
        num_warps=width // 8,  # twice as many as for least squares: float64 takes twice the registers
    )
    return gains.cpu().numpy(), np.flatnonzero(weak.cpu().numpy())


@np.errstate(all="ignore")
def solve_pairs(
    own: Tables, other: Tables, rank: int, rows: I32, work: Rows, gram: F64, alpha: float, penalties: F32
) -> tuple[F64, I64]:
    """Solve *rows* over all pairs; return by how much each lowered the objective, and the entries that are left to the host.

    Raises `Full` before anything is changed.
    """
    width = own.factors.shape[1]
    padded = np.zeros((width, width), np.float32)
    padded[:rank, :rank] = gram
    there, gains, weak = sent(rows, np.int32), empty((len(rows),)).zero_(), zeros((len(rows),))
    columns = sent(padded, np.float32), sent(penalties, np.float32), gains, weak
    single, sums = sent(np.append(work.short, work.empty), np.int32), _room_for_sums(work, width)
    blocks = list(_blocks(work, len(sums)))
    how: dict[str, Any] = {"WIDTH": width, "num_warps": warps(width)}
    if len(single):
        gpu_implicit.solve_pairs[(len(single),)](
            *own,
            other.factors,
            there,
            single,
            *work.histories,
            *columns,
            rank,
            float(alpha),
            PRECISION=PRECISION,
            **how,
        )
    for block in blocks:
        gpu_implicit.sum_pair_pieces[(len(block.piece_entries),)](
            *own,
            other.factors,
            there,
            block.piece_entries,
            block.piece_begins,
            *work.histories,
            sums,
            float(alpha),
            PIECE=PIECE,
            PRECISION=PRECISION,
            **how,
        )
        gpu_implicit.solve_long_pairs[(len(block.entries),)](
            *own, there, block.entries, block.firsts, work.histories.starts, sums, *columns, rank, PIECE=PIECE, **how
        )
    return gains.cpu().numpy().astype(np.float64), np.flatnonzero(weak.cpu().numpy())


def warps(width: int) -> int:
    """Return how many warps share a row's matrix of *width* rows: 32 numbers a thread, or 64."""
    return max(1, min(8, width * width // 1024))


def _room_for_sums(work: Rows, width: int) -> Tensor:
    """Return memory for the sums of as many pieces as are made at once, at least those of the longest row. Raises `Full`."""
    pieces = _pieces(work.counts[work.long])
    n = min(int(pieces.sum()), max(MOST_PIECES, int(pieces.max(initial=0))))
    while True:
        try:
            return empty((n, width + 3, width))
        except Full:
            if n <= pieces.max(initial=0):
                raise
            n = max(n // 2, int(pieces.max()))


def _blocks(work: Rows, most: int) -> Iterator[Block]:
    """Yield long rows in blocks of at most *most* pieces."""
    entries, pieces = work.long, _pieces(work.counts[work.long])
    while len(entries):
        n = int(np.searchsorted(np.cumsum(pieces), most, side="right"))
        yield _block(work, entries[:n], pieces[:n])
        entries, pieces = entries[n:], pieces[n:]


def _block(work: Rows, entries: I64, pieces: I64) -> Block:
    firsts, piece_entries = np.cumsum(pieces) - pieces, np.repeat(entries, pieces)
    begins = work.starts[piece_entries] + (np.arange(len(piece_entries)) - np.repeat(firsts, pieces)) * PIECE
    return Block(sent(entries, np.int32), sent(firsts, np.int32), sent(piece_entries, np.int32), sent(begins, np.int64))


def _pieces(counts: I64) -> I64:
    return -(-counts // PIECE)
