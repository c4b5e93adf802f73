"""Policies of one task as plain PyTorch modules with fixed parameters."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models import MLP, Params
from metarl.rl.policies import NETWORK, CategoricalPolicy, GaussianPolicy, Policy
from metarl.sim.single_env import bounded

LAYERS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class PlainPolicy(nn.Module, ABC):
    """Interface of a policy module: maps raw observations [B, O] float32 to a tuple of tensors.

    Args:
        network: Maps observations to means or logits.
        observation_space: The space of observations.
        action_space: The space of actions, with finite bounds.

    Attributes:
        network: See Args.
        observation_space: See Args.
        action_space: See Args.
        outputs: The names of the tensors that `forward` returns; the first one is the greedy
            action.
    """

    outputs: tuple[str, ...]

    def __init__(
        self,
        network: nn.Sequential,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
    ) -> None:
        super().__init__()
        self.network = network
        self.observation_space = observation_space
        self.action_space = action_space

    @abstractmethod
    def forward(self, observations: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs for observations [B, O] float32."""

    @abstractmethod
    def expects(self) -> str:
        """Describes the actions that the environment expects, in a sentence or two."""

    @property
    def linear(self) -> list[nn.Linear]:
        """The linear layers of the network."""
        return [layer for layer in self.network if isinstance(layer, nn.Linear)]

    @property
    def observation_size(self) -> int:
        """The size of an observation, O."""
        return self.linear[0].in_features


class PlainGaussian(PlainPolicy):
    """Gaussian policy with the outputs "action", "mean" and "std", each [B, A] float32.

    "action" is the mean, clipped to the action space; "mean" is not clipped; "std" does not depend
    on the observation. To explore, draw from N(mean, std^2), then clip.

    Args:
        network: Maps observations to means.
        observation_space: The space of observations.
        action_space: The space of actions, with finite bounds.
        log_std: Logarithms of the standard deviations, [A].
    """

    outputs = ("action", "mean", "std")
    log_std: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        network: nn.Sequential,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        log_std: Tensor,
    ) -> None:
        super().__init__(network, observation_space, action_space)
        self.register_buffer("log_std", log_std)
        self.register_buffer("low", torch.from_numpy(action_space.low.astype(np.float32)))
        self.register_buffer("high", torch.from_numpy(action_space.high.astype(np.float32)))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the clipped mean, the mean and the standard deviation, each [B, A]."""
        mean = self.network(observations)
        action = torch.minimum(torch.maximum(mean, self.low), self.high)
        return action, mean, self.log_std.exp().expand_as(mean)

    def expects(self) -> str:
        low, high = self.low.tolist(), self.high.tolist()
        return (
            f"{len(low)} numbers between {_format(low)} and {_format(high)}, in the units of the "
            "environment: they are clipped to that, nothing is scaled."
        )


class PlainCategorical(PlainPolicy):
    """Categorical policy: "action" [B] int64 is the most probable one; "log_probs" are [B, k]."""

    outputs = ("action", "log_probs")

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the most probable action, [B] int64, and the log-probabilities, [B, k]."""
        log_probs = self.network(observations).log_softmax(-1)
        return log_probs.argmax(-1), log_probs

    def expects(self) -> str:
        return f"a whole number from 0 to {self.linear[-1].out_features - 1}."


def plain_policy(
    policy: Policy,
    params: Params,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    task: int = 0,
) -> PlainPolicy:
    """Builds a plain module on the CPU from a policy and the parameters of one task.

    Args:
        policy: A Gaussian or a categorical policy.
        params: Its parameters, [T, *shape] per name.
        observation_space: The space of observations.
        action_space: The action space of the environment. Actions are clipped to its bounds, or
            to [-1, 1] where they are infinite.
        task: The index of the task, 0 to T - 1.

    Returns:
        The module in evaluation mode, with copies of the parameters that require no gradients.

    Raises:
        SettingsError: The policy is neither Gaussian nor categorical.
    """
    if not isinstance(policy, GaussianPolicy | CategoricalPolicy):
        raise SettingsError(
            f"Expected a Gaussian or a categorical policy, got {type(policy).__name__}: only these "
            "are exported."
        )
    task_params = {n: p[task].detach().cpu().clone() for n, p in params.items()}
    network, actions = _build_network(policy, task_params), bounded(action_space)
    if isinstance(policy, CategoricalPolicy):
        return PlainCategorical(network, observation_space, actions).eval()
    assert isinstance(actions, spaces.Box)
    log_std = task_params["log_std"].clamp(min=math.log(policy.min_std))
    return PlainGaussian(network, observation_space, actions, log_std).eval()


def _build_network(policy: GaussianPolicy | CategoricalPolicy, params: Params) -> nn.Sequential:
    network = policy.network
    if not isinstance(network, MLP):
        raise SettingsError(
            f"Expected a policy with an MLP, got one with {type(network).__name__}: policies with "
            "a network of your own are not exported. Take its weights with `params` instead."
        )
    sizes = network.sizes
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(inputs, outputs)
        names = {n: f"{NETWORK}layers.{i}.{n}" for n in ("weight", "bias")}
        layer.load_state_dict({n: params[name] for n, name in names.items()})
        layers += [LAYERS[network.activation](), layer] if layers else [layer]
    return nn.Sequential(*layers).requires_grad_(False)


def _format(values: list[float]) -> str:
    """Returns the list as text; a single number if all values are equal."""
    all_equal = len(set(values)) == 1
    return f"{values[0]:g}" if all_equal else str([float(f"{v:g}") for v in values])
