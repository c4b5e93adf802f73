"""One policy at fixed parameters, as a plain network."""

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
from metarl.models.base import Params
from metarl.rl.policies import NETWORK, CategoricalPolicy, GaussianPolicy, Policy
from metarl.sim.single_env import bounded

LAYERS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class FrozenPolicy(nn.Module, ABC):
    """Interface: observations [B, O] float32, as the environment gives them, to outputs by name.

    Args:
        network: From observations to means or logits.
        observation_space: What it observes.
        action_space: What it does, with finite limits.

    Attributes:
        network: The same.
        observation_space: The same.
        action_space: The same.
        outputs: Names of what `forward` returns; the first one is the action to take.
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
        """Returns what the environment expects of actions, in a sentence or two."""

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers of the network that have weights."""
        return [layer for layer in self.network if isinstance(layer, nn.Linear)]

    @property
    def observation_size(self) -> int:
        """Numbers in an observation, O."""
        return self.linear[0].in_features


class FrozenGaussian(FrozenPolicy):
    """A Gaussian policy: "action" [B, A] is its mean, clipped to what the environment takes.

    "mean" [B, A] is not clipped; "std" [B, A] does not depend on the observation. To explore,
    draw from N(mean, std^2), then clip.

    Args:
        network: From observations to means.
        observation_space: What it observes.
        action_space: What it does, with finite limits.
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
        """See `FrozenPolicy.forward`."""
        mean = self.network(observations)
        action = torch.minimum(torch.maximum(mean, self.low), self.high)
        return action, mean, self.log_std.exp().expand_as(mean)

    def expects(self) -> str:
        """See `FrozenPolicy.expects`."""
        low, high = self.low.tolist(), self.high.tolist()
        return (
            f"{len(low)} numbers between {_shown(low)} and {_shown(high)}, in the units of the "
            "environment: they are clipped to that, nothing is scaled."
        )


class FrozenCategorical(FrozenPolicy):
    """A categorical policy: "action" [B] int64 is the likeliest one, of "log_probs" [B, k]."""

    outputs = ("action", "log_probs")

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """See `FrozenPolicy.forward`."""
        log_probs = self.network(observations).log_softmax(-1)
        return log_probs.argmax(-1), log_probs

    def expects(self) -> str:
        """See `FrozenPolicy.expects`."""
        return f"a whole number from 0 to {self.linear[-1].out_features - 1}."


def freeze(
    policy: Policy,
    params: Params,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    task: int = 0,
) -> FrozenPolicy:
    """Returns one task's policy as a plain network on the CPU.

    Args:
        policy: A Gaussian or a categorical policy.
        params: Its parameters, [T, *shape] per name.
        observation_space: What it observes.
        action_space: What the environment takes; the policy is clipped to its limits, or to -1 and
            1 where it has none.
        task: Which of the tasks.

    Raises:
        SettingsError: The policy is of another kind.
    """
    if not isinstance(policy, GaussianPolicy | CategoricalPolicy):
        raise SettingsError(
            f"Expected a Gaussian or a categorical policy, got {type(policy).__name__}: only these "
            "are exported."
        )
    own = {n: p[task].detach().cpu().clone() for n, p in params.items()}
    network, actions = _network(policy, own), bounded(action_space)
    if isinstance(policy, CategoricalPolicy):
        return FrozenCategorical(network, observation_space, actions).eval()
    assert isinstance(actions, spaces.Box)
    log_std = own["log_std"].clamp(min=math.log(policy.min_std))
    return FrozenGaussian(network, observation_space, actions, log_std).eval()


def _network(policy: GaussianPolicy | CategoricalPolicy, params: Params) -> nn.Sequential:
    sizes = policy.network.sizes
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(inputs, outputs)
        names = {n: f"{NETWORK}layers.{i}.{n}" for n in ("weight", "bias")}
        layer.load_state_dict({n: params[name] for n, name in names.items()})
        layers += [LAYERS[policy.network.activation](), layer] if layers else [layer]
    return nn.Sequential(*layers).requires_grad_(False)


def _shown(values: list[float]) -> str:
    same = len(set(values)) == 1
    return f"{values[0]:g}" if same else str([float(f"{v:g}") for v in values])
