"""Gaussian and categorical policies that run on the parameters of many tasks at once."""

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
from metarl.models import MLP, Adaptable, Model, Params, from_module
from metarl.models.base import task_params, task_shape
from metarl.models.mlp import Activation
from metarl.ranges import ANY, check_number
from metarl.rl.distributions import Categorical, Distribution, Gaussian

NETWORK = "network."
OUTPUT_SCALE = 0.01
"""Scale of the initial output weights. It is small, so that the actions of an untrained policy
hardly depend on the observations (Andrychowicz et al. 2021, section 3.2)."""


class Policy(Adaptable):
    """Interface of a policy that runs on the parameters of T tasks at once.

    The module's parameters, theta, are those of one policy, without a task dimension.
    """

    @abstractmethod
    def distribution(self, params: Params, observations: Tensor) -> Distribution:
        """Returns the distribution over actions of each task's policy.

        Args:
            params: A parameter [T, *shape] for every name in `named_parameters()`.
            observations: Shape [T, *B, O], float; *B are one or more dimensions of worlds or
                samples.

        Returns:
            A distribution of batch shape [T, *B].
        """

    def fixed(self, params: Params) -> Callable[[Tensor], Distribution]:
        """Returns `distribution` with fixed parameters, for many calls without derivatives.

        Subclasses may precompute everything that does not depend on the observations. The default
        precomputes nothing.

        Args:
            params: A parameter [T, *shape] for every name in `named_parameters()`.

        Returns:
            A function from observations to a distribution.
        """
        return functools.partial(self.distribution, params)

    @abstractmethod
    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draws the random numbers for `Distribution.sample` of batch shape `shape`."""

    @property
    @abstractmethod
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one action: (A,) for continuous actions, () for discrete ones."""


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
        init_std: Initial standard deviation, in units of the action, above 0.
        min_std: Lower bound of the standard deviations, in units of the action, above 0.
        network: Computes the means of observations [N, O]; see `policy_for`.

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
        check_number("min_std", min_std, ANY)
        check_number("init_std", init_std, ANY)
        if not 0 < min_std <= init_std:
            raise SettingsError(f"Expected 0 < min_std <= init_std, got {min_std} and {init_std}.")
        self.action_size = action_size
        self.init_std = init_std
        self.min_std = min_std
        sizes = (observation_size, *hidden, action_size)
        self.network = _network(network, sizes, generator, activation)
        self.log_std = nn.Parameter(self._initial_log_std(generator))

    def distribution(self, params: Params, observations: Tensor) -> Gaussian:
        mean = _network_outputs(self.network, _network_params(params), observations)
        return Gaussian(mean, self._log_stds(params, mean.dim()))

    def fixed(self, params: Params) -> Callable[[Tensor], Gaussian]:
        """Returns a function of observations [T, B, O], with a single dimension B."""
        means, log_std = _fixed(self.network, params), self._log_stds(params, 3)
        return lambda observations: Gaussian(means(observations), log_std)

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draws standard normal numbers, [*shape, A]."""
        shape = (*shape, self.action_size)
        return torch.randn(shape, generator=generator, device=generator.device)

    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        return {
            **_initial_network_params(self.network, generator, num_tasks),
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


class CategoricalPolicy(Policy):
    """Categorical policy over k actions: a network computes the logits.

    Args:
        observation_size: Size of an observation, O.
        num_actions: Number of actions, k.
        generator: Random generator of the initial weights.
        hidden: Widths of the hidden layers. Without hidden layers the logits are linear in the
            observation; on one-hot observations they are a table.
        activation: Activation function after each hidden layer.
        network: Computes the logits of observations [N, O]; see `policy_for`.
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
        sizes = (observation_size, *hidden, num_actions)
        self.network = _network(network, sizes, generator, activation)

    def distribution(self, params: Params, observations: Tensor) -> Categorical:
        return Categorical(_network_outputs(self.network, _network_params(params), observations))

    def fixed(self, params: Params) -> Callable[[Tensor], Categorical]:
        """Returns a function of observations [T, B, O], with a single dimension B."""
        logits = _fixed(self.network, params)
        return lambda observations: Categorical(logits(observations))

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draws uniform numbers in [0, 1), [*shape]."""
        return torch.rand(tuple(shape), generator=generator, device=generator.device)

    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        return _initial_network_params(self.network, generator, num_tasks)

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


def policy_for(
    where: HasSpaces | tuple[spaces.Space[Any], spaces.Space[Any]],
    generator: torch.Generator,
    hidden: Sequence[int] = (100, 100),
    activation: Activation = "relu",
    init_std: float = 1.0,
    network: nn.Module | None = None,
) -> Policy:
    """Builds a policy for a task family: Gaussian for Box actions, categorical for Discrete ones.

    Args:
        where: A task family, or a pair of observation space and action space.
        generator: Random generator of the initial weights.
        hidden: Widths of the hidden layers.
        activation: Activation function after each hidden layer.
        init_std: Initial standard deviation of continuous actions, in their units.
        network: Computes the means or the logits: a `Model` or an ordinary module that maps
            observations [N, O] to [N, A] or [N, k]. It keeps its weights; `hidden` and `activation`
            have no effect then. None: an MLP.

    Returns:
        The policy; an MLP has newly drawn weights.

    Raises:
        SettingsError: The observation space is not a Box, or the action space is neither a
            one-dimensional Box nor a Discrete that starts at 0.
    """
    pair = where if isinstance(where, tuple) else (where.observation_space, where.action_space)
    observation, action = pair
    if not isinstance(observation, spaces.Box):
        raise SettingsError(f"Expected a Box of observations, got {observation}; flatten it.")
    size = math.prod(observation.shape)
    if isinstance(action, spaces.Discrete) and action.start == 0:
        return CategoricalPolicy(
            size, int(action.n), generator, hidden, activation, network=network
        )
    if isinstance(action, spaces.Box) and len(action.shape) == 1:
        return GaussianPolicy(
            size, action.shape[0], generator, hidden, activation, init_std, network=network
        )
    raise SettingsError(
        f"Expected actions in a Box of one dimension or a Discrete that starts at 0, got {action}; "
        "write a Policy of your own."
    )


def _network(
    network: nn.Module | None,
    sizes: Sequence[int],
    generator: torch.Generator,
    activation: Activation,
) -> Model:
    """Returns the network of a policy: a new MLP, or that of the user, checked.

    Raises:
        SettingsError: It does not map observations to as many outputs as the policy needs.
    """
    if network is None:
        return MLP(sizes, generator, activation, output_scale=OUTPUT_SCALE)
    model = network if isinstance(network, Model) else from_module(network)
    dtype = next((p.dtype for p in model.parameters()), None)
    observations = torch.zeros(1, 3, sizes[0], device=generator.device, dtype=dtype)
    with torch.no_grad():
        outputs = model(task_params(model, 1), observations)
    if not isinstance(outputs, Tensor) or outputs.shape != (1, 3, sizes[-1]):
        shape = tuple(outputs.shape[1:]) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise SettingsError(
            f"Expected a network from observations [N, {sizes[0]}] to [N, {sizes[-1]}], got "
            f"{shape} for N = 3; give its last layer {sizes[-1]} outputs."
        )
    return model


def _fixed(network: Model, params: Params) -> Callable[[Tensor], Tensor]:
    """Returns the network with fixed parameters, as a function of observations [T, B, O]."""
    own = _network_params(params)
    return network.fixed(own) if isinstance(network, MLP) else functools.partial(network, own)


def _network_params(params: Params) -> Params:
    """Returns the parameters of the policy's network, named as in the network."""
    return {n.removeprefix(NETWORK): p for n, p in params.items() if n.startswith(NETWORK)}


def _network_outputs(network: Model, params: Params, observations: Tensor) -> Tensor:
    """Returns the outputs [T, *B, *] of the network for observations [T, *B, O]."""
    outputs = network(params, observations.flatten(1, -2))
    return outputs.view(*observations.shape[:-1], outputs.shape[-1])


def _initial_network_params(
    network: Model, generator: torch.Generator, num_tasks: int | None
) -> Params:
    """Draws the network's initial parameters, named as in the policy."""
    return {NETWORK + n: p for n, p in network.initial(generator, num_tasks).items()}
