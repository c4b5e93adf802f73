"""Policies of one task as plain PyTorch modules with fixed parameters."""

from __future__ import annotations

import copy
import itertools
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models import MLP
from metarl.models.base import Model, Params
from metarl.rl.joint_policy import JointPolicy
from metarl.rl.policies import CategoricalPolicy, GaussianPolicy
from metarl.rl.policy import NETWORK, Policy, network_params
from metarl.rl.units import Units
from metarl.sim.spaces import described_actions, first_choices, source_of

LAYERS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class PlainPolicy(nn.Module, ABC):
    """Interface of a policy module: maps raw observations [B, O] float32 to a tuple of tensors.

    Observations and actions are in the environment's units; the maps to the policy's own units are
    part of the module.

    Args:
        network: Maps observations in the policy's units to means, logits or log-odds.
        observation_space: The space of observations.
        action_space: The space of actions, with the bounds of the environment.
        units: The maps of the policy; None: it computes in the environment's units.

    Attributes:
        network: See Args.
        observation_space: See Args.
        action_space: See Args.
        units: See Args.
        outputs: The names of the tensors that `forward` returns; the first one is the greedy
            action.
    """

    outputs: tuple[str, ...]
    units: Units | None
    low: Tensor
    high: Tensor

    def __init__(
        self,
        network: nn.Module,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        units: Units | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.observation_space = observation_space
        self.action_space = action_space
        self.units = None if units is None else copy.deepcopy(units).cpu()

    @abstractmethod
    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs for observations [B, O] float32."""

    @abstractmethod
    def expects(self) -> str:
        """Describes the actions that the environment expects, in a sentence or two."""

    def store_bounds(self, action_space: spaces.Box) -> None:
        """Stores the bounds that `clipped` uses."""
        self.register_buffer("low", torch.from_numpy(action_space.low.astype(np.float32)))
        self.register_buffer("high", torch.from_numpy(action_space.high.astype(np.float32)))

    def clipped(self, actions: Tensor) -> Tensor:
        """Returns actions [B, A] clipped to the bounds; infinite ones clip nothing."""
        return torch.minimum(torch.maximum(actions, self.low), self.high)

    def run_network(self, observations: Tensor) -> Tensor:
        """Returns the network's outputs for observations in the environment's units."""
        own = observations if self.units is None else self.units.observe(observations)
        return self.network(own)

    @property
    def linear(self) -> list[nn.Linear]:
        """The linear layers of the network.

        Raises:
            SettingsError: The network has other layers than linear ones and activations.
        """
        if not isinstance(self.network, nn.Sequential):
            raise SettingsError(
                "Only policies of linear layers are exported to Stable-Baselines3; this one has "
                "convolutions, layer norm or a network of yours. Choose the format onnx or torch."
            )
        return [layer for layer in self.network if isinstance(layer, nn.Linear)]

    @property
    def observation_size(self) -> int:
        """The size of an observation, O."""
        return math.prod(self.observation_space.shape or ())


class PlainGaussian(PlainPolicy):
    """Gaussian policy with the outputs "action", "mean" and "std", each [B, A] float32.

    "action" is the mean, clipped to the action space; "mean" is not clipped; "std" does not depend
    on the observation. To explore, draw from N(mean, std^2), then clip. All are in the
    environment's units.

    Args:
        network: Maps observations to means.
        observation_space: The space of observations.
        action_space: The space of actions; infinite bounds clip nothing.
        log_std: Logarithms of the standard deviations in the policy's units, [A].
        units: The maps of the policy.
    """

    outputs = ("action", "mean", "std")
    log_std: Tensor

    def __init__(
        self,
        network: nn.Module,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        log_std: Tensor,
        units: Units | None = None,
    ) -> None:
        super().__init__(network, observation_space, action_space, units)
        self.register_buffer("log_std", log_std)
        self.store_bounds(action_space)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the clipped mean, the mean and the standard deviation, each [B, A]."""
        mean, std = self.run_network(observations), self.log_std.exp()
        if self.units is not None and self.units.actions is not None:
            mean, std = self.units.act(mean), std * self.units.actions.scale
        return self.clipped(mean), mean, std.expand_as(mean)

    def expects(self) -> str:
        low, high = self.low.tolist(), self.high.tolist()
        source = source_of(self.action_space)
        whole = isinstance(source, spaces.Box) and source.dtype.kind in "biu"
        rounded = " The environment takes the nearest whole numbers." if whole else ""
        if not np.isfinite([*low, *high]).any():
            return (
                f"{len(low)} numbers without bounds, in the units of the environment: nothing is "
                f"clipped or to be scaled.{rounded}"
            )
        return (
            f"{len(low)} numbers between {_format(low)} and {_format(high)}, in the units of the "
            f"environment: they are clipped to that, nothing is to be scaled.{rounded}"
        )


class PlainCategorical(PlainPolicy):
    """Categorical policy: "action" [B] int64 is the most probable one; "log_probs" are [B, k]."""

    outputs = ("action", "log_probs")

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the most probable action, [B] int64, and the log-probabilities, [B, k]."""
        log_probs = self.run_network(observations).log_softmax(-1)
        return log_probs.argmax(-1), log_probs

    def expects(self) -> str:
        assert isinstance(self.action_space, spaces.Discrete)
        last, first = int(self.action_space.n) - 1, first_choices(source_of(self.action_space))[0]
        text = f"a whole number from 0 to {last}"
        if first:
            text += f", to which {first} is to be added: the environment's are {first} to"
            text += f" {first + last}"
        return f"{text}."


class PlainJoint(PlainPolicy):
    """Policy for actions of several kinds: "action" [B, A] float32 and "outputs" [B, *].

    "action" is the flat action: clipped means in the environment's units, the numbers of the most
    probable choices, and switches of 0 or 1. "outputs" are the network's: means in the policy's
    units, logits and log-odds.

    Args:
        network: Maps observations to `outputs_of(parts)` numbers.
        observation_space: The space of observations.
        action_space: The space of flat actions; infinite bounds clip nothing.
        policy: The policy whose parts the outputs belong to.
    """

    outputs = ("action", "outputs")

    def __init__(
        self,
        network: nn.Module,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        policy: JointPolicy,
    ) -> None:
        super().__init__(network, observation_space, action_space, policy.units)
        self.parts = policy.parts
        self.store_bounds(action_space)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the flat action, [B, A], and the network's outputs."""
        outputs = self.run_network(observations)
        columns = []
        own_outputs = outputs.split([part.size for part in self.parts], 1)
        for part, own in zip(self.parts, own_outputs, strict=True):
            if part.kind == "categorical":
                own = own.argmax(-1, keepdim=True).float()
            elif part.kind == "bernoulli":
                own = (own > 0).float()
            columns.append(own)
        action = torch.cat(columns, 1)
        action = action if self.units is None else self.units.act(action)
        return self.clipped(action), outputs

    def expects(self) -> str:
        kinds = described_actions(self.action_space)
        return f"a vector of {kinds}; numbers are in the units of the environment."


class PlainNetwork(nn.Module):
    """A task-batched network with the parameters of one task.

    Args:
        model: The network.
        params: Its parameters, without a task dimension.
    """

    def __init__(self, model: Model, params: Params) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(params[name])

    def forward(self, observations: Tensor) -> Tensor:
        """Maps observations [B, O] to outputs [B, *]."""
        params = {name: p.unsqueeze(0) for name, p in self.model.named_parameters()}
        return self.model(params, observations.unsqueeze(0)).squeeze(0)


def plain_policy(
    policy: Policy,
    params: Params,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    task: int = 0,
) -> PlainPolicy:
    """Builds a plain module on the CPU from a policy and the parameters of one task.

    Args:
        policy: A policy that `policy_for` builds.
        params: Its parameters, [T, *shape] per name.
        observation_space: The space of observations.
        action_space: The action space of the environment. Actions are clipped to its bounds, as
            in training.
        task: The index of the task, 0 to T - 1.

    Returns:
        The module in evaluation mode, with copies of the parameters that require no gradients.

    Raises:
        SettingsError: The policy is of another kind.
    """
    if not isinstance(policy, GaussianPolicy | CategoricalPolicy | JointPolicy):
        raise SettingsError(
            f"Expected a policy that `policy_for` builds, got {type(policy).__name__}: only these "
            "are exported."
        )
    task_params = {n: p[task].detach().cpu().clone() for n, p in params.items()}
    network = _build_network(policy.network, task_params)
    if isinstance(policy, CategoricalPolicy):
        return PlainCategorical(network, observation_space, action_space, policy.units).eval()
    assert isinstance(action_space, spaces.Box)
    if isinstance(policy, JointPolicy):
        return PlainJoint(network, observation_space, action_space, policy).eval()
    log_std = task_params["log_std"].clamp(min=math.log(policy.min_std))
    return PlainGaussian(network, observation_space, action_space, log_std, policy.units).eval()


def _build_network(network: Model, params: Params) -> nn.Module:
    """Returns the network with the parameters of one task; a Sequential of a plain `MLP`."""
    if not isinstance(network, MLP):
        return PlainNetwork(network, network_params(params))
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(network.sizes)):
        layer = nn.Linear(inputs, outputs)
        names = {n: f"{NETWORK}layers.{i}.{n}" for n in ("weight", "bias")}
        layer.load_state_dict({n: params[name] for n, name in names.items()})
        layers += [LAYERS[network.activation](), layer] if layers else [layer]
    return nn.Sequential(*layers).requires_grad_(False)


def _format(values: list[float]) -> str:
    """Returns the list as text; a single number if all values are equal."""
    all_equal = len(set(values)) == 1
    return f"{values[0]:g}" if all_equal else str([float(f"{v:g}") for v in values])
