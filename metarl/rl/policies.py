"""Gaussian and categorical policies, and the policy that suits a family's spaces."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models import MLP, Params
from metarl.models.base import Model, task_shape
from metarl.models.described import described
from metarl.models.mlp import Activation
from metarl.ranges import check_widths
from metarl.rl.distributions import Categorical, Gaussian
from metarl.rl.joint_policy import JointPolicy, action_parts, outputs_of
from metarl.rl.policy import (
    NETWORK,
    Policy,
    check_deviations,
    fixed_network,
    initial_network_params,
    network_outputs,
    network_params,
)
from metarl.rl.policy_network import CNN, OUTPUT_SCALE, network_for, own_network
from metarl.rl.units import units_for, warn_of_unbounded
from metarl.sim.family import check_is_family
from metarl.sim.spaces import FlatBox, FlatDiscrete, flat_actions, flat_observations

__all__ = ["NETWORK", "CategoricalPolicy", "GaussianPolicy", "Policy", "policy_for"]


@described
class GaussianPolicy(Policy):
    """Gaussian policy: a network computes the means, the standard deviations are parameters.

    The policy of MAML's control tasks (Finn et al. 2017). The standard deviations do not depend on
    the observation and are adapted like the other parameters.

    Args:
        observation_size: Size of an observation, O.
        action_size: Number of action dimensions, A.
        generator: Random generator of the initial weights.
        hidden: Widths of the hidden layers.
        activation: Activation function after each hidden layer.
        init_std: Initial standard deviation, in the policy's units, above 0.
        min_std: Lower bound of the standard deviations, in the policy's units, above 0.
        network: Computes the means of observations [N, O] in place of the hidden layers; see
            `policy_for`.

    Raises:
        SettingsError: A size or a standard deviation is out of range.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        generator: torch.Generator,
        hidden: Sequence[int] = (100, 100),
        activation: Activation = "relu",
        init_std: float = 1.0,
        min_std: float = 1e-6,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_deviations(init_std, min_std)
        self.action_size = action_size
        self.init_std = init_std
        self.min_std = min_std
        sizes = (observation_size, *check_widths("hidden", hidden), action_size)
        self.network: Model = (
            MLP(sizes, generator, activation, output_scale=OUTPUT_SCALE)
            if network is None
            else own_network(network, sizes[0], sizes[-1])
        )
        self.log_std = nn.Parameter(self._initial_log_std(generator))

    def distribution(self, params: Params, observations: Tensor) -> Gaussian:
        mean = network_outputs(self.network, network_params(params), observations)
        return Gaussian(mean, self._log_stds(params, mean.dim()))

    def fixed(self, params: Params) -> Callable[[Tensor], Gaussian]:
        """Returns a function of observations [T, B, O], with a single dimension B."""
        means = fixed_network(self.network, network_params(params))
        log_std = self._log_stds(params, 3)
        return lambda observations: Gaussian(means(observations), log_std)

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draws standard normal numbers, [*shape, A]."""
        shape = (*shape, self.action_size)
        return torch.randn(shape, generator=generator, device=generator.device)

    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        return {
            **initial_network_params(self.network, generator, num_tasks),
            "log_std": self._initial_log_std(generator, num_tasks),
        }

    @property
    def action_shape(self) -> tuple[int, ...]:
        return (self.action_size,)

    def _log_stds(self, params: Params, dims: int) -> Tensor:
        """Returns log standard deviations [T, 1, ..., 1, A] that broadcast to means of `dims`."""
        log_std = params["log_std"].clamp(min=math.log(self.min_std))
        return log_std.view(log_std.shape[0], *[1] * (dims - 2), self.action_size)

    def _initial_log_std(self, generator: torch.Generator, num_tasks: int | None = None) -> Tensor:
        shape = (*task_shape(num_tasks), self.action_size)
        return torch.full(shape, math.log(self.init_std), device=generator.device)


@described
class CategoricalPolicy(Policy):
    """Categorical policy over k actions: a network computes the logits.

    Args:
        observation_size: Size of an observation, O.
        num_actions: Number of actions, k.
        generator: Random generator of the initial weights.
        hidden: Widths of the hidden layers. Without hidden layers the logits are linear in the
            observation; on one-hot observations they are a table.
        activation: Activation function after each hidden layer.
        network: Computes the logits of observations [N, O] in place of the hidden layers; see
            `policy_for`.
    """

    def __init__(
        self,
        observation_size: int,
        num_actions: int,
        generator: torch.Generator,
        hidden: Sequence[int] = (100, 100),
        activation: Activation = "relu",
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.num_actions = num_actions
        sizes = (observation_size, *check_widths("hidden", hidden), num_actions)
        self.network: Model = (
            MLP(sizes, generator, activation, output_scale=OUTPUT_SCALE)
            if network is None
            else own_network(network, sizes[0], sizes[-1], logits=True)
        )

    def distribution(self, params: Params, observations: Tensor) -> Categorical:
        return Categorical(network_outputs(self.network, network_params(params), observations))

    def fixed(self, params: Params) -> Callable[[Tensor], Categorical]:
        """Returns a function of observations [T, B, O], with a single dimension B."""
        logits = fixed_network(self.network, network_params(params))
        return lambda observations: Categorical(logits(observations))

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draws uniform numbers in [0, 1), [*shape]."""
        return torch.rand(tuple(shape), generator=generator, device=generator.device)

    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        return initial_network_params(self.network, generator, num_tasks)

    @property
    def action_shape(self) -> tuple[int, ...]:
        return ()


class HasSpaces(Protocol):
    """Interface of an object with the spaces of one world, such as a task family."""

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """Observation space of one world."""
        ...

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Action space of one world."""
        ...


BuildNetwork = Callable[[spaces.Box, int, torch.Generator], Model]
"""Builds a network from the flat observation space, the number of outputs and a generator."""


def policy_for(
    where: HasSpaces | tuple[spaces.Space[Any], spaces.Space[Any]],
    generator: torch.Generator,
    hidden: Sequence[int] = (100, 100),
    activation: Activation = "relu",
    init_std: float = 1.0,
    *,
    layer_norm: bool = False,
    cnn: Sequence[int] = CNN,
    network: nn.Module | BuildNetwork | None = None,
    scale_actions: bool | None = None,
    normalize_observations: bool | None = None,
) -> Policy:
    """Builds a policy for the spaces of a task family, with the units that suit them.

    Box actions get a Gaussian policy, Discrete ones a categorical one, all others a `JointPolicy`.
    Images in the observations pass through convolutions, see `PolicyNetwork`.

    Args:
        where: A task family, or a pair of observation space and action space.
        generator: Random generator of the initial weights.
        hidden: Widths of the hidden layers.
        activation: Activation function after each hidden layer.
        init_std: Initial standard deviation of continuous actions, in the policy's units.
        layer_norm: Whether hidden layers are normalised before their activation.
        cnn: Channels of the convolutions of images.
        network: Computes the means or the logits in place of the four options before: a `Model`, an
            ordinary module of observations [N, O], which keeps its weights, or a function that
            builds one from the observation space, the number of outputs and the generator.
        scale_actions: Whether the policy acts in -1..1 and a map brings actions to finite bounds.
            None: yes, unless the family keeps published units (`TaskFamily.published_units`).
        normalize_observations: Whether running statistics standardise observations whose bounds do
            not give their scale. None: as for `scale_actions`.

    Returns:
        The policy; an MLP has newly drawn weights.

    Raises:
        SettingsError: A space has a part that no policy supports, such as text.
    """
    own = not getattr(where, "published_units", False)
    observation, action = flat_spaces(*_spaces_of(where))

    def build(outputs: int) -> Model:
        if isinstance(network, nn.Module):
            return own_network(network, size, outputs)
        if network is not None:
            return own_network(network(observation, outputs, generator), size, outputs)
        return network_for(observation, outputs, generator, hidden, activation, layer_norm, cnn)

    size, parts = math.prod(observation.shape), action_parts(action)
    if isinstance(action, spaces.Discrete):
        choices = int(action.n)
        policy: Policy = CategoricalPolicy(size, choices, generator, network=build(choices))
    elif all(part.kind == "gaussian" for part in parts):
        count = action.shape[0]
        policy = GaussianPolicy(size, count, generator, init_std=init_std, network=build(count))
    else:
        policy = JointPolicy(parts, build(outputs_of(parts)), generator, init_std)
    scale_actions = own if scale_actions is None else scale_actions
    if scale_actions:
        warn_of_unbounded(action)
    policy.units = units_for(
        observation,
        action,
        scale_actions=scale_actions,
        normalize_observations=own if normalize_observations is None else normalize_observations,
    )
    return policy.to(generator.device)


def _spaces_of(
    where: HasSpaces | tuple[spaces.Space[Any], spaces.Space[Any]],
) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """Returns a pair of observation and action space; raises SettingsError for what has none."""
    if isinstance(where, tuple):
        return where
    if not isinstance(getattr(where, "observation_space", None), spaces.Space):
        check_is_family(where)
    return where.observation_space, where.action_space


def flat_spaces(
    observation: spaces.Space[Any], action: spaces.Space[Any]
) -> tuple[spaces.Box, spaces.Box | spaces.Discrete]:
    """Returns flat spaces; those of a family are flat already.

    Raises:
        SettingsError: A part of a space is not supported, or discrete actions do not start at 0.
    """
    if isinstance(action, spaces.Discrete) and action.start != 0:
        raise SettingsError(
            f"Expected discrete actions that start at 0, got {action}; a family counts them so."
        )
    flat = observation if isinstance(observation, FlatBox) else flat_observations(observation)
    return flat, action if isinstance(action, FlatBox | FlatDiscrete) else flat_actions(action)
