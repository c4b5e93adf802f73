"""Networks of the user that are written for many tasks: what is refused before training."""

import pytest
import torch
from torch import nn

from metarl.adaptation import GradientLearner
from metarl.errors import SettingsError
from metarl.models import MLP, Model
from metarl.tasks import Sine
from tests.gradient_learners import MAML


class Line(Model):
    """y = w x + b, by a function of itself, parameters and inputs."""

    def __init__(self, function, normalises_batches=True):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.scale = nn.Parameter(torch.ones(1, 1))
        self.function = function
        self.normalises_batches = normalises_batches
        self.calls = 0

    def forward(self, params, inputs, statistics=None):
        self.calls += 1
        return self.function(self, params, inputs)

    def initial(self, generator, num_tasks=None):
        raise NotImplementedError


def line(params, inputs):
    return torch.baddbmm(params["layer.bias"].unsqueeze(1), inputs, params["layer.weight"].mT)


def right(net, params, inputs):
    return params["scale"] * line(params, inputs)


def of_a_dict(net, params, inputs):
    return {"values": right(net, params, inputs), "norm": params["scale"].square().sum((1, 2))}


def centred_over_tasks(net, params, inputs):
    return right(net, params, inputs - inputs.mean((0, 1)))


def parameters_of_the_first_task(net, params, inputs):
    return right(net, {n: p[:1].expand_as(p) for n, p in params.items()}, inputs)


def own_scale(net, params, inputs):
    return net.scale * line(params, inputs)


def own_layer(net, params, inputs):
    return net.layer(inputs)


def noisy(net, params, inputs):
    return right(net, params, inputs) + torch.randn(1)


def counting(net, params, inputs):
    return right(net, params, inputs) + net.calls


def centred(net, params, inputs):
    return right(net, params, inputs - inputs.mean(1, keepdim=True))


def losses(net, generator, **options):
    learner = MAML(net, 0.01, **options)
    return learner(learner.collect(Sine().sample(3, generator), generator, 0)).losses


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (centred_over_tasks, "Line mixes tasks: the outputs of a task changed"),
        (parameters_of_the_first_task, "Line mixes tasks"),
        (own_scale, r"its own 'scale', which no task adapts. Take params\['scale'\]"),
        (own_layer, r"its own 'layer.weight'"),
        (noisy, "Line gives other outputs for the same inputs"),
        (counting, "Line gives other outputs for the same inputs"),
    ],
)
def test_wrong_networks_are_refused_for_training_and_adaptation(function, message, generator):
    with pytest.raises(SettingsError, match=message):
        losses(Line(function), generator)
    support = Sine().sample(3, generator).support
    with pytest.raises(SettingsError, match=message):
        next(MAML(Line(function), 0.01).adapt(support, 1, generator))


def test_a_network_that_normalises_batches_says_so(generator):
    losses(Line(centred), generator)
    with pytest.raises(SettingsError, match="its `normalises_batches` is False"):
        losses(Line(centred, normalises_batches=False), generator)


def test_right_networks_pass(generator):
    for normalises in (True, False):
        losses(Line(right, normalises), generator)
        learner = MAML(
            Line(of_a_dict, normalises), 0.01, metric="loss",
            loss=lambda o, t: (o["values"] - t).square().mean((1, 2)) + o["norm"],
        )  # fmt: skip
        learner.collect(Sine().sample(3, generator), generator, 0)


def test_parameters_that_do_not_adapt_may_be_read_from_the_network(generator):
    losses(Line(own_scale), generator, frozen=["scale"])
    net = Line(own_scale)
    net.scale.requires_grad_(False)
    losses(net, generator)


def test_networks_of_metarl_run_no_more_often(generator, monkeypatch):
    net = MLP((1, 8, 1), generator)
    calls = []
    forward = MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    learner = GradientLearner(MAML(net, 0.01).adaptation)
    learner.collect(Sine().sample(3, generator), generator, 0)
    assert len(calls) == 2  # the losses of the support set and of the queries
