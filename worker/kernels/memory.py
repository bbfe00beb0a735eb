"""Arrays that grow without being copied: reservations of address space, of which only touched pages cost memory."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import resource
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

HUGE_PAGE = 1 << 21
SHARES = 64
"""Reservations, about, that limited address space is to suffice for."""
MOST_ROWS = np.iinfo(np.int32).max
NORESERVE = 0x4000  # MAP_NORESERVE of Linux; the mmap module names it from Python 3.13 only
POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14; the mmap module does not name it
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def reserve(row_shape: tuple[int, ...], dtype: DTypeLike, *, huge_pages: bool = True) -> NDArray[Any]:
    """Return zeros ``(n, *row_shape)`` with n as large as physical memory could hold, at most 2³¹ − 1.

    A page costs memory from the first time it is written. Huge pages are for what is read here and there; what is read from one
    end to the other grows more evenly without them. Where address space itself is limited (``ulimit -v``, strict overcommit),
    n is a share of that. Raises `MemoryError` when that is not even a megabyte.
    """
    kind = np.dtype(dtype)
    row_bytes = kind.itemsize * math.prod(row_shape)
    n_rows = min(most_bytes() // row_bytes, MOST_ROWS)
    memory = _map(n_rows * row_bytes)
    if huge_pages:
        _advise_huge_pages(memory)
    n_rows = len(memory) // row_bytes
    return np.frombuffer(memory, kind, count=n_rows * math.prod(row_shape)).reshape(n_rows, *row_shape)


def populate(part: NDArray[Any]) -> bool:
    """Have memory behind *part* of a reservation before it is written; its content stays, and others may use it meanwhile.

    The interpreter's lock is not held, and the address space for a huge page's time at once only. Returns whether the system can;
    where it cannot (before Linux 5.14), whoever writes first waits for the memory, as ever.
    """
    start = part.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    stop = part.ctypes.data + part.nbytes
    return all(_madvise(at, min(HUGE_PAGE, stop - at), POPULATE_WRITE) == 0 for at in range(start, stop, HUGE_PAGE))


def physical_memory() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def most_bytes() -> int:
    """Return how large one reservation may be: the machine's memory, or a share of the address space if that is limited."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return physical_memory() if limit == resource.RLIM_INFINITY else min(physical_memory(), limit // SHARES)


def _map(size_bytes: int) -> mmap.mmap:
    """Return private anonymous memory of *size_bytes*; where that cannot be had, of a share, or half of it, a quarter …"""
    while size_bytes >= 1 << 20:
        try:
            return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
        except (OSError, MemoryError):
            size_bytes = min(size_bytes // 2, physical_memory() // SHARES)
    raise MemoryError("no address space left to reserve (is there a `ulimit -v`?)")


def _advise_huge_pages(memory: mmap.mmap) -> None:
    """Ask for huge pages behind the first two megabytes, so that a small table stays small."""
    if len(memory) > HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE, HUGE_PAGE, len(memory) - HUGE_PAGE)
