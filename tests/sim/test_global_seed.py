"""Global generators are seeded in a block and put back afterwards."""

import random

import numpy as np
import pytest
import torch

from metarl.sim.global_seed import global_seed


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_global_generators_are_seeded_and_put_back():
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = draws()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    with global_seed(5):
        first = draws()
    with pytest.raises(ZeroDivisionError), global_seed(5 + 2**40):
        raise ZeroDivisionError
    with global_seed(5):
        assert draws() == first
    assert draws() == expected
