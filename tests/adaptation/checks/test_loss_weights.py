"""Weights that a loss reads by other ways than its arguments are named by a warning."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn

from metarl.adaptation import MAML, GradientLearner
from metarl.tasks import Sine


class Scaled(nn.Module):
    """The squared error, weighed by a learned uncertainty."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, outputs, targets):
        return (outputs - targets).square() * torch.exp(-self.scale) + self.scale

    def compute(self, outputs, targets):
        return self(outputs, targets)


HELD = [Scaled()]


def errors(outputs, targets, scaled):
    return scaled(outputs, targets)


def warned(generator, net=None, **options):
    """Collects a batch of tasks, and returns the messages of the warnings."""
    net = nn.Linear(1, 1) if net is None else net
    learner = GradientLearner(MAML(net, inner_lr=0.01, **options))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learner.collect(Sine().sample(3, generator), generator, 0)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("argument", ["loss", "outer_loss"])
@pytest.mark.parametrize(
    "loss",
    [
        Scaled().compute,
        partial(errors, scaled=Scaled()),
        lambda outputs, targets: HELD[0](outputs, targets),
    ],
)
def test_weights_that_nothing_trains(loss, argument, generator):
    (message,) = warned(generator, **{argument: loss})
    assert f"`{argument}` computes with weights that are not trained, of the shape [1]" in message


def test_the_start_in_place_of_the_weights_of_a_task(generator):
    net = nn.Linear(1, 1)

    def decayed(outputs, targets):
        return (outputs - targets).square().mean((1, 2)) + net.weight.square().sum()

    (message,) = warned(generator, net, loss=decayed)
    assert "`loss` reads weight of the network itself" in message and "`params`" in message
    assert not warned(generator, net, outer_loss=decayed)
    assert not warned(generator, net, loss=decayed, frozen=["weight"])


def test_losses_that_are_trained_or_stay_do_not_warn(generator):
    fixed = Scaled().requires_grad_(False)
    assert not warned(generator, loss=Scaled())
    assert not warned(generator, loss=fixed.compute)
    assert not warned(generator, outer_loss=Scaled())
