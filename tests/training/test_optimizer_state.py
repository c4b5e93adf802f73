"""Optimisers of the user's that keep something outside of their state."""

import warnings

import pytest
import torch
from torch import nn

from metarl.adaptation import MAML, GradientLearner
from metarl.tasks import Sine
from metarl.training import TrainingSettings
from metarl.training.meta_step import MetaStep


class Accumulating(torch.optim.SGD):
    """Steps with the sum of two gradients; the first one waits in an attribute."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.sums = {}

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            self.sums[p] = self.sums.get(p, 0) + p.grad


class Counting(torch.optim.SGD):
    """Counts its steps in an attribute."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.steps = 0

    def step(self, closure=None):
        self.steps += 1


class Wrapping(torch.optim.SGD):
    """Holds another optimiser."""

    def __init__(self, params):
        params = list(params)
        super().__init__(params, lr=0.1)
        self.inner = torch.optim.Adam(params)


class Stored(Counting):
    """Stores the count."""

    def state_dict(self):
        return {**super().state_dict(), "steps": self.steps}


class InState(torch.optim.Adam):
    """Keeps an average in its state, and a constant as attribute."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.decay = 0.9

    def step(self, closure=None):
        super().step()
        for p in self.param_groups[0]["params"]:
            self.state[p]["average"] = p.detach().clone()


def state_after_a_step(kind):
    torch.manual_seed(0)
    learner = GradientLearner(MAML(nn.Linear(1, 1)))
    step = MetaStep(learner, TrainingSettings(), lambda named: kind(p for _, p in named))
    generator = torch.Generator().manual_seed(0)
    step.state_dict()
    step(learner.collect(Sine().sample(2, generator), generator, 0), 0)
    return step


@pytest.mark.parametrize(
    ("kind", "name"), [(Accumulating, "sums"), (Counting, "steps"), (Wrapping, "inner")]
)
@pytest.mark.filterwarnings("ignore")
def test_what_checkpoints_lack_is_named(kind, name):
    step = state_after_a_step(kind)
    step._unsaved._is_known = False  # the first checkpoint has warned already
    with pytest.warns(RuntimeWarning, match=f"{kind.__name__} keeps '{name}' as attributes"):
        step.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step.state_dict()


@pytest.mark.parametrize("kind", [Stored, InState, torch.optim.Adam, torch.optim.ASGD])
def test_what_checkpoints_hold_does_not_warn(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state_after_a_step(kind).state_dict()
