"""Arrays in the layouts that loops are compiled for."""

import numpy as np
import pytest
from numba import typeof

from factorstream.worker.kernels.layout import strided

RECORD = np.dtype([("start", np.int64), ("count", np.int32)])


def field_of(n):
    records = np.zeros(n, RECORD)
    records["count"] = np.arange(n)
    return records["count"]


@pytest.mark.parametrize("n", [0, 1, 2, 9])
@pytest.mark.parametrize("values", [field_of, np.arange, lambda n: np.arange(n, dtype=np.int32)], ids=["field", "int64", "int32"])
def test_counts_of_any_layout_have_one_type_in_compiled_code(values, n):
    assert np.array_equal(strided(values(n))[:n], np.arange(n))
    assert typeof(strided(values(n))) == typeof(strided(field_of(100)))


def test_a_field_of_many_records_is_not_copied():
    counts = field_of(9)
    assert strided(counts) is counts
