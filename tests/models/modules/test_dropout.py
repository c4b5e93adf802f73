"""Dropout in modules: its random numbers, and the same masks in every way of running."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarl.adaptation import MAML, GradientLearner, Reptile
from metarl.learners import Prototypical
from metarl.models import from_module, task_params
from metarl.models.modules.noise import dropout, pass_seeds, uniform
from metarl.trees import cut_tasks
from tests.models.modules.test_model import TASKS, draw_tasks


def test_uniform_numbers_are_uniform_and_independent(generator):
    seeds = torch.randint(2**62, (50,), generator=generator)
    numbers = uniform(seeds, 0, 2000)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.005)
    assert numbers.var().item() == pytest.approx(1 / 12, abs=0.002)
    histogram = torch.histc(numbers, 10, 0, 1) / numbers.numel()
    torch.testing.assert_close(histogram, torch.full((10,), 0.1), atol=0.004, rtol=0)
    for other in (uniform(seeds, 1, 2000), uniform(pass_seeds(seeds, 1), 0, 2000)):
        correlation = torch.corrcoef(torch.stack((numbers.flatten(), other.flatten())))[0, 1]
        assert abs(correlation) < 0.02
    neighbours = torch.corrcoef(torch.stack((numbers[:, 1:].flatten(), numbers[:, :-1].flatten())))
    assert abs(neighbours[0, 1]) < 0.02


def test_dropout_keeps_the_mean_and_whole_channels(generator):
    seeds = torch.randint(2**62, (4,), generator=generator)
    ones = torch.ones(4, 50, 8, 3, 3)
    kept = dropout(ones, seeds, 0, 0.25, channels_only=False, lead=1)
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    channels = dropout(ones, seeds, 0, 0.25, channels_only=True, lead=1)
    assert torch.equal(channels, channels[..., :1, :1].expand_as(channels))
    assert channels.mean().item() == pytest.approx(1, abs=0.05)


def dropping(traceable):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)
            self.drop = nn.Dropout(0.4)

        def forward(self, x):
            hidden = self.drop(torch.tanh(self.first(x)))
            if not traceable and len(x) < 0:
                return hidden
            return self.second(F.dropout(hidden, 0.2, self.training))

    torch.manual_seed(0)
    return Net()


def test_both_ways_draw_the_same_masks(generator):
    outputs = []
    x = torch.randn(TASKS, 5, 3, generator=generator)
    noise = torch.randint(2**62, (TASKS,), generator=generator)
    for traceable in (True, False):
        model = from_module(dropping(traceable))
        outputs.append(model(task_params(model, TASKS), x, noise=noise))
    torch.testing.assert_close(*outputs)
    model = from_module(dropping(True))
    without = model(task_params(model, TASKS), x)
    assert (outputs[0] - without).abs().max() > 0.1
    torch.testing.assert_close(without, model.net.eval()(x))


def test_chunks_and_replays_see_the_same_masks(generator):
    learner = GradientLearner(MAML(dropping(True), inner_lr=0.1, steps=2))
    inputs = learner.collect(draw_tasks(generator), generator, 0)
    losses = learner(inputs).losses
    assert torch.equal(losses, learner(inputs).losses)
    second = list(cut_tasks(inputs, 1))[1]
    torch.testing.assert_close(learner(second).losses, losses[1:2])
    other = learner(learner.collect(inputs.tasks, generator, 0)).losses
    assert (other - losses).abs().min() > 1e-4
    learner.eval()
    assert learner.collect(inputs.tasks, generator, 0).noise is None


class CallsDropout(nn.Module):
    """Drops units by a function; no layer says so."""

    def __init__(self, attends: bool):
        super().__init__()
        self.first, self.second, self.attends = nn.Linear(3, 8), nn.Linear(8, 3), attends

    def forward(self, x):
        hidden = self.first(x)
        if not self.attends:
            return self.second(F.dropout(hidden, training=self.training))
        x = hidden.unflatten(1, (2, 4))
        rate = 0.5 if self.training else 0.0
        return self.second(F.scaled_dot_product_attention(x, x, x, dropout_p=rate).flatten(1))


@pytest.mark.parametrize("attends", [False, True])
@pytest.mark.parametrize("make", [lambda net: GradientLearner(MAML(net)), Prototypical])
def test_dropout_by_a_function_is_active_in_training(make, attends, generator):
    learner = make(CallsDropout(attends))
    tasks = draw_tasks(generator)
    losses = [learner(learner.collect(tasks, generator, 0)).losses for _ in range(2)]
    assert (losses[0] - losses[1]).abs().min() > 1e-5
    learner.eval()
    assert learner.collect(tasks, generator, 0).noise is None


def test_frozen_layers_are_trained_with_dropout(generator):
    """Reptile trains what does not adapt by the query loss."""
    net = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 2))
    learner = GradientLearner(Reptile(net, inner_lr=1e-9, frozen=[net[0]]))
    tasks = draw_tasks(generator)
    first, second = (learner.collect(tasks, generator, 0) for _ in range(2))
    assert not torch.allclose(learner(first).losses, learner(second).losses)
    torch.testing.assert_close(learner(first).losses, learner(first).losses)
