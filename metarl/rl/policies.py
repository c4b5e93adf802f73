"""Policies that run on the parameters of many tasks at once."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models import MLP, Adaptable, Params
from metarl.models.base import task_shape
from metarl.models.mlp import Activation
from metarl.rl.distributions import Categorical, Distribution, Gaussian

NETWORK = "network."
OUTPUT_SCALE = 0.01  # an untrained policy treats all actions alike (Andrychowicz et al. 2021, 3.2)


class Policy(Adaptable):
    """Interface of a policy that runs on the parameters of T tasks at once.

    Its own parameters, theta, are those of one policy, without a task dimension.
    """

    @abstractmethod
    def distribution(self, params: Params, observations: Tensor) -> Distribution:
        """Returns the distribution over actions of each task's policy.

        Args:
            params: A parameter [T, *shape] for every name of `named_parameters()`.
            observations: Shape [T, *B, O], float; B are worlds or samples, of one or more
                dimensions.

        Returns:
            A distribution of batch shape [T, *B].
        """

    def fixed(self, params: Params) -> Callable[[Tensor], Distribution]:
        """Returns `distribution` at these parameters, to be called many times without derivatives.

        What does not depend on the observations may be computed once; this one leaves it.
        """
        return functools.partial(self.distribution, params)

    @abstractmethod
    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draws the random numbers that sampling actions of batch `shape` takes."""

    @property
    @abstractmethod
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one action: (A,) if continuous, () if one of k."""


class GaussianPolicy(Policy):
    """Normal distributions whose means a network gives; their deviations are parameters.

    The policy of MAML's control tasks (Finn et al. 2017): the deviations do not depend on the
    observation and adapt with the rest.

    Args:
        observation_size: Numbers in an observation, O.
        action_size: Dimensions of an action, A.
        generator: Source of the initial weights.
        hidden: Widths of the hidden layers.
        activation: Non-linearity after each of them.
        init_std: Initial standard deviation, in units of the action, above 0.
        min_std: Standard deviations are not let below this, above 0.

    Raises:
        SettingsError: A size or deviation cannot be used.
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
    ) -> None:
        super().__init__()
        if not 0 < min_std <= init_std:
            raise SettingsError(f"Expected 0 < min_std <= init_std, got {min_std} and {init_std}.")
        self.action_size = action_size
        self.init_std = init_std
        self.min_std = min_std
        sizes = (observation_size, *hidden, action_size)
        self.network = MLP(sizes, generator, activation, output_scale=OUTPUT_SCALE)
        self.log_std = nn.Parameter(self._initial_log_std(generator))

    def distribution(self, params: Params, observations: Tensor) -> Gaussian:
        """See `Policy.distribution`."""
        mean = _run(self.network, _own(params), observations)
        return Gaussian(mean, self._log_stds(params, mean.dim()))

    def fixed(self, params: Params) -> Callable[[Tensor], Gaussian]:
        """See `Policy.fixed`; observations are [T, B, O]."""
        means, log_std = self.network.fixed(_own(params)), self._log_stds(params, 3)
        return lambda observations: Gaussian(means(observations), log_std)

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """See `Policy.noise`; standard normal, [*shape, A]."""
        shape = (*shape, self.action_size)
        return torch.randn(shape, generator=generator, device=generator.device)

    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        """See `Adaptable.initial`."""
        return {
            **_initial(self.network, generator, num_tasks),
            "log_std": self._initial_log_std(generator, num_tasks),
        }

    @property
    def action_shape(self) -> tuple[int, ...]:
        """See `Policy.action_shape`."""
        return (self.action_size,)

    def _log_stds(self, params: Params, dims: int) -> Tensor:
        log_std = params["log_std"].clamp(min=math.log(self.min_std))
        return log_std.view(log_std.shape[0], *[1] * (dims - 2), self.action_size)

    def _initial_log_std(self, generator: torch.Generator, num_tasks: int | None = None) -> Tensor:
        shape = (*task_shape(num_tasks), self.action_size)
        return torch.full(shape, math.log(self.init_std), device=generator.device)


class CategoricalPolicy(Policy):
    """One of k actions, with logits that a network gives.

    Args:
        observation_size: Numbers in an observation, O.
        num_actions: Number of actions, k.
        generator: Source of the initial weights.
        hidden: Widths of the hidden layers; none makes the logits linear, which on one-hot
            observations is a table.
        activation: Non-linearity after each of them.
    """

    def __init__(
        self,
        observation_size: int,
        num_actions: int,
        generator: torch.Generator,
        hidden: Sequence[int] = (100, 100),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        sizes = (observation_size, *hidden, num_actions)
        self.network = MLP(sizes, generator, activation, output_scale=OUTPUT_SCALE)

    def distribution(self, params: Params, observations: Tensor) -> Categorical:
        """See `Policy.distribution`."""
        return Categorical(_run(self.network, _own(params), observations))

    def fixed(self, params: Params) -> Callable[[Tensor], Categorical]:
        """See `Policy.fixed`; observations are [T, B, O]."""
        logits = self.network.fixed(_own(params))
        return lambda observations: Categorical(logits(observations))

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """See `Policy.noise`; uniform in [0, 1), [*shape]."""
        return torch.rand(tuple(shape), generator=generator, device=generator.device)

    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        """See `Adaptable.initial`."""
        return _initial(self.network, generator, num_tasks)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """See `Policy.action_shape`."""
        return ()


class HasSpaces(Protocol):
    """A task family, or whatever else tells the spaces of one world."""

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """The observations of one world."""
        ...

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The actions of one world."""
        ...


def policy_for(
    where: HasSpaces | tuple[spaces.Space[Any], spaces.Space[Any]],
    generator: torch.Generator,
    hidden: Sequence[int] = (100, 100),
    activation: Activation = "relu",
    init_std: float = 1.0,
) -> Policy:
    """Builds the policy that fits a task family: Gaussian for boxes of actions, else categorical.

    Args:
        where: A task family, or the spaces of an observation and of an action.
        generator: Source of the initial weights.
        hidden: Widths of the hidden layers.
        activation: Non-linearity after each of them.
        init_std: Initial standard deviation of continuous actions, in their units.

    Raises:
        SettingsError: The observations are not a box, or the actions neither a vector nor numbered
            from 0.
    """
    pair = where if isinstance(where, tuple) else (where.observation_space, where.action_space)
    observation, action = pair
    if not isinstance(observation, spaces.Box):
        raise SettingsError(f"Expected a Box of observations, got {observation}; flatten it.")
    size = math.prod(observation.shape)
    if isinstance(action, spaces.Discrete) and action.start == 0:
        return CategoricalPolicy(size, int(action.n), generator, hidden, activation)
    if isinstance(action, spaces.Box) and len(action.shape) == 1:
        return GaussianPolicy(size, action.shape[0], generator, hidden, activation, init_std)
    raise SettingsError(
        f"Expected actions in a Box of one dimension or a Discrete that starts at 0, got {action}; "
        "write a Policy of your own."
    )


def _own(params: Params) -> Params:
    """Returns the parameters of the policy's network, by its own names."""
    return {n.removeprefix(NETWORK): p for n, p in params.items() if n.startswith(NETWORK)}


def _run(network: MLP, params: Params, observations: Tensor) -> Tensor:
    """Returns the outputs [T, *B, *] of the network for observations [T, *B, O]."""
    outputs = network(params, observations.flatten(1, -2))
    return outputs.view(*observations.shape[:-1], outputs.shape[-1])


def _initial(network: MLP, generator: torch.Generator, num_tasks: int | None) -> Params:
    return {NETWORK + n: p for n, p in network.initial(generator, num_tasks).items()}
