"""The network of policies on images, vectors and both, with derivatives of both orders."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import nn

from metarl.errors import SettingsError
from metarl.models.base import Model, task_params
from metarl.models.mlp import MLP
from metarl.rl.policies import CategoricalPolicy, GaussianPolicy, policy_for
from metarl.rl.policy_network import PolicyNetwork, layer_norm, network_for
from metarl.sim.spaces import flat_observations

CAMERA = spaces.Box(0, 255, (10, 8, 2), np.uint8)
BOTH = flat_observations(
    spaces.Dict(camera=CAMERA, gear=spaces.Discrete(3), joints=spaces.Box(-1, 1, (2,), np.float32))
)
TASKS, COUNT = 3, 4


@pytest.fixture
def network(generator):
    return PolicyNetwork(BOTH, 2, generator, (7,), "tanh", layer_norm=True, cnn=(3, 4)).double()


@pytest.fixture
def params(network, generator):
    drawn = network.initial(generator, TASKS)
    return {
        n: (p + 0.1 * torch.randn(p.shape, generator=generator)).double() for n, p in drawn.items()
    }


@pytest.fixture
def observations(generator):
    return torch.rand(TASKS, COUNT, BOTH.shape[0], generator=generator, dtype=torch.double)


def plain(params, rows, task):
    """The network of one task in plain torch."""
    p = {n: v[task] for n, v in params.items()}
    image = rows[:, :160].view(-1, 10, 8, 2).permute(0, 3, 1, 2)
    for j in range(2):
        weight, bias = (p[f"convolutions.0.{j}.{kind}"] for kind in ("weight", "bias"))
        image = F.conv2d(image, weight, bias, stride=2, padding=1).relu()
    hidden = torch.cat((rows[:, 160:], image.flatten(1)), 1)
    hidden = F.linear(hidden, p["layers.0.weight"], p["layers.0.bias"])
    hidden = F.layer_norm(hidden, (7,), p["norms.0.weight"], p["norms.0.bias"])
    return F.linear(hidden.tanh(), p["layers.1.weight"], p["layers.1.bias"])


def test_each_task_has_its_network(network, params, observations):
    outputs = network(params, observations)
    for task in range(TASKS):
        torch.testing.assert_close(outputs[task], plain(params, observations[task], task))


def test_first_and_second_derivatives_are_those_of_plain_torch(network, params, observations):
    names = list(params)
    leaves = [params[n].requires_grad_() for n in names]

    def second(outputs):
        """The gradient of the squared norm of the gradient of each task."""
        grads = torch.autograd.grad(outputs.square().sum(), leaves, create_graph=True)
        return grads, torch.autograd.grad(
            torch.stack([g.square().sum() for g in grads]).sum(), leaves
        )

    own = second(network(params, observations))
    rows = torch.stack([plain(params, observations[t], t) for t in range(TASKS)])
    torch.testing.assert_close(own, second(rows))


def test_its_parameters_are_those_of_the_module(network, generator):
    drawn = network.initial(generator)
    named = {n: p.shape for n, p in network.named_parameters()}
    assert {n: p.shape for n, p in drawn.items()} == named
    outputs = network(task_params(network, 2), torch.rand(2, 5, BOTH.shape[0]).double())
    torch.testing.assert_close(outputs[0].shape, torch.Size([5, 2]))


def test_layer_norm_is_torchs(generator):
    hidden, weight, bias = (torch.randn(s, generator=generator) for s in ((2, 5, 6), (6,), (6,)))
    found = layer_norm(hidden, weight.expand(2, 1, 6), bias.expand(2, 1, 6))
    torch.testing.assert_close(found, F.layer_norm(hidden, (6,), weight, bias))


def test_vectors_without_layer_norm_have_the_usual_network(generator):
    space = flat_observations(spaces.MultiDiscrete([3, 4]))
    network = network_for(space, 2, generator, (5,), "relu", False, (8,))
    assert isinstance(network, MLP)
    assert network.sizes == (7, 5, 2)


def test_widths_that_cannot_be_are_refused(generator):
    for wrong, message in (
        ({"hidden": (0,)}, r"`hidden\[0\]` of at least 1, got 0"),
        ({"hidden": 32}, r"`hidden` to be the widths of layers, such as \(64, 64\), got 32"),
        ({"cnn": (4, 8.0)}, r"an integer `cnn\[1\]` of at least 1, got 8\.0"),
        ({"cnn": ()}, "at least one convolution"),
    ):
        with pytest.raises(SettingsError, match=message):
            PolicyNetwork(BOTH, 2, generator, **wrong)
        if "hidden" in wrong:
            for network in (GaussianPolicy, CategoricalPolicy):
                with pytest.raises(SettingsError, match=message):
                    network(3, 2, generator, **wrong)


class Centred(nn.Module):
    """A network that subtracts the mean of the batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x - x.mean(0, keepdim=True))


def test_networks_that_mix_observations_are_refused():
    torch.manual_seed(0)
    space = spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(2)

    def normalised(norm):
        return nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 2))

    for net in (Centred(), normalised(nn.BatchNorm1d(4))):
        with pytest.raises(SettingsError, match="each observation by itself"):
            policy_for(space, torch.Generator(), network=net)
    for net in (normalised(nn.BatchNorm1d(4).eval()), normalised(nn.LayerNorm(4))):
        policy_for(space, torch.Generator(), network=net)


class Written(Model):
    """A network for many tasks, which uses its parameters as a function says."""

    normalises_batches = False

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(3, 2), function

    def forward(self, params, inputs, statistics=None):
        return self.function(self, params["layer.weight"], inputs)

    def initial(self, generator, num_tasks=None):
        raise NotImplementedError


def own_layer(net, weight, x):
    return net.layer(x)


def first_task(net, weight, x):
    return x @ weight[:1].mT


@pytest.mark.parametrize(
    ("function", "message"),
    [(own_layer, "do not depend on `params`"), (first_task, "Written mixes tasks")],
)
def test_models_that_ignore_the_parameters_of_tasks_are_refused(function, message):
    space = spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(2)
    policy_for(space, torch.Generator(), network=Written(lambda net, weight, x: x @ weight.mT))
    with pytest.raises(SettingsError, match=message):
        policy_for(space, torch.Generator(), network=Written(function))


def test_choices_of_a_softmax_warn():
    space = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
    net = nn.Sequential(nn.Linear(3, 2), nn.Softmax(-1))
    with pytest.warns(RuntimeWarning, match="for logits, and they are shares"):
        policy_for(space, torch.Generator(), network=net)
    shares = spaces.Box(-1, 1, (3,)), spaces.Box(0, 1, (2,))  # such as of a portfolio: means
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy_for(shares, torch.Generator(), network=net)
