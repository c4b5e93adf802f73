"""Processes that have just started meet in a store that holds the words of earlier ones."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from metarl.rank_meeting import meet

COUNT = 3


def test_each_start_has_one_name_that_no_earlier_one_had():
    store, names = dist.HashStore(), []
    with ThreadPoolExecutor(COUNT) as pool:
        for _ in range(4):
            found = set(pool.map(lambda rank: meet(store, rank, COUNT, 20), range(COUNT)))
            assert len(found) == 1
            names += found
    assert len(set(names)) == 4


def test_a_process_that_died_while_meeting_misleads_no_later_one():
    store = dist.HashStore()
    with pytest.raises(TimeoutError, match="rank 1, 2 has not come"):
        meet(store, 0, COUNT, 0.1)
    for rank in (1, 2):
        with pytest.raises(TimeoutError, match="rank 0 has not come"):
            meet(store, rank, COUNT, 0.1)
    with ThreadPoolExecutor(COUNT) as pool:
        assert len(set(pool.map(lambda rank: meet(store, rank, COUNT, 20), range(COUNT)))) == 1
