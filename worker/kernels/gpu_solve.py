"""Rows on the device, shared out among programs by their length, and the few that need float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from factorstream.worker.kernels import gpu_als
from factorstream.worker.kernels.api import F64, I32, I64, Histories, Objective, Side
from factorstream.worker.kernels.careful import solve_carefully
from factorstream.worker.kernels.gpu_tables import DeviceHistories, Full, Tables, Tensor, empty, histories_on_device, sent, zeros

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
    """The others."""


class KeptHistories(Histories):
    """Histories that are on the device too."""

    work: Rows | None
    """None before they were first needed."""


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
    one = KeptHistories(*histories)
    one.work = None
    return one


def _rows_of(histories: Histories) -> Rows:
    counts = np.diff(histories.starts)
    long, short = np.flatnonzero(counts > PIECE), np.flatnonzero((counts > 0) & (counts <= PIECE))
    return Rows(histories_on_device(histories), histories.starts, counts, short[np.argsort(-counts[short], kind="stable")], long)


def solve(
    own: Tables, other: Tables, rank: int, rows: I32, work: Rows, intercept: float, objective: Objective, of_users: bool
) -> F64:
    """Solve all *rows*; return by how much each lowered the objective. Raises `Full` before anything is changed."""
    penalty = objective.penalty
    numbers = Numbers(rank, float(intercept), float(penalty.on(users=of_users)[0]), float(penalty.bias), bool(penalty.weighted))
    there, gains, weak = sent(rows, np.int32), empty((len(rows),)).zero_(), zeros((len(rows),))
    if numbers.penalty > 0:
        _solve_fast(own, other, there, work, numbers, gains, weak)
    else:
        weak[:] = 1
    careful = np.flatnonzero(weak.cpu().numpy() | (work.counts == 0))
    total = gains.cpu().numpy().astype(np.float64)
    for entry in careful.tolist():
        total[entry] = _solve_carefully(own, other, int(rows[entry]), entry, work, numbers)
    return total


@np.errstate(all="ignore")
def _solve_fast(own: Tables, other: Tables, rows: Tensor, work: Rows, numbers: Numbers, gains: Tensor, weak: Tensor) -> None:
    """Solve rows that hold something in float32; mark those that need more in *weak*."""
    rank, intercept, penalty, bias_penalty, weighted = numbers
    width = own.factors.shape[1]
    how: dict[str, Any] = {"WIDTH": width, "num_warps": warps(width)}
    short, sums = sent(work.short, np.int32), _room_for_sums(work, width)
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
    for entries, pieces in _blocks(work, len(sums)):
        firsts = np.cumsum(pieces) - pieces
        piece_entries = np.repeat(entries, pieces)
        begins = work.starts[piece_entries] + (np.arange(len(piece_entries)) - np.repeat(firsts, pieces)) * PIECE
        places = sent(piece_entries, np.int32), sent(begins, np.int64)
        gpu_als.sum_pieces[(len(piece_entries),)](
            *own, *other, rows, *places, *work.histories, sums, intercept, PIECE=PIECE, PRECISION=PRECISION, **how
        )
        places = sent(entries, np.int32), sent(firsts, np.int32)
        gpu_als.solve_long_rows[(len(entries),)](
            *own,
            rows,
            *places,
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


def _blocks(work: Rows, most: int) -> Iterator[tuple[I64, I64]]:
    """Yield long entries, and the number of pieces of each, in parts of at most *most* pieces."""
    entries, pieces = work.long, _pieces(work.counts[work.long])
    while len(entries):
        n = int(np.searchsorted(np.cumsum(pieces), most, side="right"))
        yield entries[:n], pieces[:n]
        entries, pieces = entries[n:], pieces[n:]


def _pieces(counts: I64) -> I64:
    return -(-counts // PIECE)


def _solve_carefully(own: Tables, other: Tables, row: int, entry: int, work: Rows, numbers: Numbers) -> float:
    """Solve one row on the host, in float64."""
    part = slice(*work.starts[entry : entry + 2].tolist())
    others, ratings = work.histories.others[part].long(), work.histories.ratings[part].cpu().numpy()
    n = len(ratings)
    mine = Side(own.factors[row : row + 1, : numbers.rank].cpu().numpy().copy(), own.biases[row : row + 1].cpu().numpy().copy())
    met = Side(other.factors[others, : numbers.rank].cpu().numpy(), other.biases[others].cpu().numpy())
    history = Histories(np.array([0, n]), np.arange(n, dtype=np.int32), ratings)
    no_mean = np.zeros(numbers.rank + 1, np.float32)
    gain = solve_carefully(mine, met, 0, history, no_mean, numbers.intercept, *numbers.of(n))
    own.factors[row, : numbers.rank] = sent(mine.factors[0], np.float32)
    own.biases[row : row + 1] = sent(mine.biases, np.float32)
    return gain
