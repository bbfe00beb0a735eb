"""The journal's entries."""

import numpy as np

from factorstream.worker.model.journal import ENTRY, concatenated


def test_parts_become_one_in_their_order():
    entries = np.zeros(7, ENTRY)
    entries["user"], entries["time"] = np.arange(7), np.arange(7) * 1000
    parts = [entries[:3], entries[3:3], entries[3:]]
    assert concatenated(parts).tobytes() == entries.tobytes()
    assert concatenated(parts).dtype == ENTRY
    assert len(concatenated([])) == 0
