"""What every group promises: each partition is read by exactly one rank."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorstream.worker.adapters.group import MemoryGroup, Solo


@pytest.mark.parametrize("group", [[Solo()], *([MemoryGroup(rank, size) for rank in range(size)] for size in (1, 2, 5))])
@given(st.sets(st.integers(0, 50)))
def test_ranks_share_partitions_without_gap_or_overlap(group, partitions):
    shares = [member.share(list(partitions)) for member in group]
    assert sorted(partition for share in shares for partition in share) == sorted(partitions)
    assert all(share == sorted(share) for share in shares)
    assert [member.rank for member in group] == list(range(group[0].size))


@given(st.integers(1, 5), st.integers(0, 30))
def test_no_share_moves_when_a_partition_is_added(size, n_partitions):
    for rank in range(size):
        before = MemoryGroup(rank, size).share(range(n_partitions))
        assert MemoryGroup(rank, size).share(range(n_partitions + 1))[: len(before)] == before
