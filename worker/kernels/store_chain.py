"""The chains of the rating store: a row's newest pairs, collected and sorted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorstream.worker.kernels.compiled import Int, bare, inlined
from factorstream.worker.kernels.store import USERS, Store, key_of

FEW_KEYS = 48
"""Keys up to this number are sorted by insertion."""


@inlined
def collect(store: Store, side: Int, entry: Int, n: Int) -> Int:
    """Append the chain that begins at *entry* to the first *n* of `keys`; return how many there are then."""
    while entry:
        pair = store.log[entry]
        store.keys[n] = key_of(pair.item if side == USERS else pair.user, entry)
        n += 1
        entry = pair.next_of_user if side == USERS else pair.next_of_item
    return n


@inlined
def chain_length(store: Store, side: Int, entry: Int) -> Int:
    """Return how many entries the chain from *entry* has."""
    n = 0
    while entry:
        entry = store.log[entry].next_of_user if side == USERS else store.log[entry].next_of_item
        n += 1
    return n


@inlined
def put_in_order(store: Store, n: Int) -> None:
    """Sort the first *n* of `keys` by row, which are seldom more than one."""
    if n > 1:
        sort(store.keys, store.spare, store.ends, n)


@bare
def sort(keys: NDArray[np.uint64], spare: NDArray[np.uint64], ends: NDArray[np.int64], n: Int) -> None:
    """Sort the first *n* of *keys* by their upper 32 bits."""
    if n <= FEW_KEYS:
        insertion_sort(keys, n)
        return
    largest = np.uint64(0)
    for k in range(n):
        largest = max(largest, keys[k])
    shift = np.uint64(32)
    while shift < np.uint64(64) and (largest >> shift) != 0:
        scatter(keys, spare, n, shift, ends)
        shift += np.uint64(8)
        scatter(spare, keys, n, shift, ends)
        shift += np.uint64(8)


@bare
def insertion_sort(keys: NDArray[np.uint64], n: Int) -> None:
    """Sort the first *n* of *keys*, which are few."""
    for k in range(1, n):
        key, at = keys[k], k
        while at > 0 and keys[at - 1] > key:
            keys[at] = keys[at - 1]
            at -= 1
        keys[at] = key


@bare
def scatter(keys: NDArray[np.uint64], sorted_keys: NDArray[np.uint64], n: Int, shift: np.uint64, ends: NDArray[np.int64]) -> None:
    """Write the first *n* of *keys* to *sorted_keys*, stably by the eight bits at *shift*, with scratch *ends* ``(257,)``."""
    ends[:] = 0
    for k in range(n):
        ends[((keys[k] >> shift) & np.uint64(255)) + np.uint64(1)] += 1
    for digit in range(256):
        ends[digit + 1] += ends[digit]
    for k in range(n):
        digit = (keys[k] >> shift) & np.uint64(255)
        sorted_keys[ends[digit]] = keys[k]
        ends[digit] += 1
