"""Problems whose trajectories can all be enumerated, in float64."""

import pytest
import torch

from metarl.rl.exact import TabularProblem


@pytest.fixture
def problem(generator):
    """Three MDPs of 3 states, 2 actions and 4 steps: 1296 trajectories each."""
    return TabularProblem.random(generator, num_tasks=3)


@pytest.fixture
def discounted(generator):
    return TabularProblem.random(generator, num_tasks=3, discount=0.8)


@pytest.fixture
def table(generator):
    """A softmax policy for each of them."""
    return {"logits": torch.randn(3, 3, 2, generator=generator, dtype=torch.double)}
