"""Training on several processes: the same numbers as on one."""

import pytest
import torch

from tests.training.rank_cases import QUICK, run_ranks, train


def trees_close(value, expected, **tolerance):
    """Compares nested tensors and numbers."""
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(value, expected, **tolerance)
    elif isinstance(expected, dict):
        assert value.keys() == expected.keys()
        for key in expected:
            trees_close(value[key], expected[key], **tolerance)
    elif isinstance(expected, list | tuple):
        assert len(value) == len(expected)
        for v, e in zip(value, expected, strict=True):
            trees_close(v, e, **tolerance)
    else:
        assert value == expected


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, run_ranks(2, folder, *QUICK)


@pytest.mark.parametrize("case", QUICK)
def test_two_ranks_give_the_numbers_of_one(case, two_ranks, tmp_path):
    folder, (first, second) = two_ranks
    trees_close(second[case], first[case], rtol=0, atol=0)
    trees_close(first[case], train(case, tmp_path), rtol=2e-4, atol=2e-5)
    (checkpoint, last) = sorted(p.name for p in (folder / case / "checkpoints").iterdir())[-2:]
    assert (checkpoint, last) == ("step_000002", "step_000003")
