"""Reservations of address space."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from factorstream.worker.kernels.memory import MOST_ROWS, physical_memory, reserve


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("huge_pages", [True, False])
def test_a_reservation_costs_what_is_written(huge_pages):
    before = resident_bytes()
    table = reserve((64,), np.float32, huge_pages=huge_pages)
    assert len(table) == min(physical_memory() // 256, MOST_ROWS)
    table[:1000], table[-1] = 1, 2
    assert resident_bytes() - before < 8 << 20
    assert table[999, 63] == 1
    assert table[1000, 0] == 0
    assert table[-1, 0] == 2


def test_a_row_may_be_a_record():
    kind = np.dtype([("time", np.int64), ("row", np.int32)], align=True)
    table = reserve((), kind)
    table["row"][7] = 3
    assert table[7]["row"] == 3
    assert table.dtype == kind


LIMITED = """
import resource
import numpy as np
from factorstream.worker.kernels.memory import physical_memory, reserve
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
table = reserve((64,), np.float32)
assert 1000 < len(table) < physical_memory() // 256
table[-1] = 1
"""


def test_where_address_space_is_limited_less_is_reserved():
    subprocess.run([sys.executable, "-c", LIMITED], check=True)


FULL = """
import resource
import numpy as np
from factorstream.worker.model.ratings import Ratings
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
ratings = Ratings()
ratings.grow(10_000, 10_000)
n = 10_000_000
rows = np.zeros(n, np.int32)
try:
    ratings.accept(np.zeros(n, np.uint8), rows, rows, np.zeros(n, np.float32), np.zeros(n, np.int64))
except MemoryError as error:
    assert "ulimit" in str(error)
    raise SystemExit(7)
"""


def test_a_store_that_cannot_grow_says_so_before_it_takes_a_rating():
    assert subprocess.run([sys.executable, "-c", FULL], check=False).returncode == 7
