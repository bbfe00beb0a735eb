"""Memory that checkpoints are copied into."""

import resource
import threading

import numpy as np
import pytest

from factorstream.worker.kernels.memory import populate, reserve
from factorstream.worker.shadows import AHEAD, FEW_ROWS, PIECE_BYTES, Shadows

RANK = 64
N_ROWS = 4 * FEW_ROWS


def n_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def settled():
    """Wait until no thread is finding memory any more."""
    for thread in threading.enumerate():
        if thread.name == "shadows":
            thread.join()


def table(n_rows):
    return np.arange(n_rows * RANK, dtype=np.float32).reshape(n_rows, RANK)


def test_a_copy_is_the_tables_and_keeps_its_memory():
    shadows, live = Shadows(), table(100)
    first = shadows.copy({"users.factors": live})["users.factors"]
    assert np.array_equal(first, live)
    live += 1
    second = shadows.copy({"users.factors": live[:50]})["users.factors"]
    assert np.array_equal(second, live[:50])
    assert np.shares_memory(first, second)


@pytest.mark.parametrize("n_rows", [0, 1, 7, PIECE_BYTES // 4, 3 * PIECE_BYTES // 4 + 1])
def test_tables_of_any_length_are_copied_whole(n_rows):
    shadows, random = Shadows(), np.random.default_rng(n_rows)
    tables = {
        "biases": random.standard_normal(n_rows).astype(np.float32),
        "wide": random.integers(0, 9, (n_rows // 8, 3, 11)).astype(np.int16),
        "none": np.empty(0, np.int64),
    }
    for _ in range(3):
        copies = shadows.copy(tables)
        assert list(copies) == list(tables)
        assert all(np.array_equal(copies[name], live) and copies[name].dtype == live.dtype for name, live in tables.items())
        tables["biases"] += 1


def test_what_the_other_thread_cannot_copy_is_an_error():
    here, begun = threading.current_thread(), threading.Event()

    class HalfReadable(np.ndarray):
        """The test's own thread can copy it, once the other one has failed to."""

        def __array_function__(self, *_):
            if threading.current_thread() is here:
                assert begun.wait(10)
            else:
                begun.set()
                raise OSError("the other half is gone")

    live = np.zeros(3 * PIECE_BYTES, np.uint8).view(HalfReadable)
    with pytest.raises(OSError, match="gone"):
        Shadows().copy({"seen": live})


def test_memory_is_there_before_a_copy_of_grown_tables_and_of_an_eighth_more():
    shadows, live = Shadows(), table(N_ROWS + N_ROWS // AHEAD)
    shadows.follow(N_ROWS, 1, lambda: {"users.factors": live[:N_ROWS]})
    settled()
    before = n_faults()
    copy = shadows.copy({"users.factors": live})["users.factors"]
    faults = n_faults() - before
    assert np.array_equal(copy, live)
    assert faults < 200 or not populate(reserve((), np.uint8)[:1])  # of some thousand pages


def test_small_tables_stay_small():
    def tables():
        raise AssertionError("nothing has grown")

    Shadows().follow(FEW_ROWS, FEW_ROWS, tables)


def test_tables_are_looked_at_again_only_when_they_have_outgrown_their_memory():
    shadows, looked = Shadows(), []

    def grow_to(n_rows):
        shadows.follow(n_rows, 1, lambda: looked.append(n_rows) or {})
        settled()

    for n_rows in range(FEW_ROWS, 2 * FEW_ROWS + 1):
        grow_to(n_rows)
    assert len(looked) == 6


def test_finding_memory_changes_nothing_in_it():
    part = reserve((RANK,), np.float32)[:N_ROWS]
    part[: N_ROWS // 2] = 3
    populate(part)
    assert (part[: N_ROWS // 2] == 3).all()
    assert not part[N_ROWS // 2 :].any()
