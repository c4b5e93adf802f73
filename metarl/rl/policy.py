"""The interface of policies that run on the parameters of many tasks at once."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.models import Adaptable, Params
from metarl.models.base import Model
from metarl.models.mlp import MLP
from metarl.ranges import POSITIVE, check_number
from metarl.rl.distributions import Distribution
from metarl.rl.units import Units

NETWORK = "network."


class Policy(Adaptable):
    """Interface of a policy that runs on the parameters of T tasks at once.

    The module's parameters, theta, are those of one policy, without a task dimension.

    A policy computes in its own units. `units.observe` brings observations of the environment to
    them, and `units.act` brings actions to the environment; `collect` applies both.

    Attributes:
        units: The maps between the policy's units and the environment's; None: they are the same.
    """

    units: Units | None

    def __init__(self) -> None:
        super().__init__()
        self.units = None

    @abstractmethod
    def distribution(self, params: Params, observations: Tensor) -> Distribution:
        """Returns the distribution over actions of each task's policy.

        Args:
            params: A parameter [T, *shape] for every name in `named_parameters()`.
            observations: Shape [T, *B, O], float, in the policy's units; *B are one or more
                dimensions of worlds or samples.

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


def check_deviations(init_std: float, min_std: float) -> None:
    """Checks the initial and the lowest standard deviation of a policy.

    Raises:
        SettingsError: One is no number above 0, or the initial one is the lower.
    """
    check_number("min_std", min_std, POSITIVE)
    check_number("init_std", init_std, POSITIVE)
    if min_std > init_std:
        raise SettingsError(f"Expected min_std <= init_std, got {min_std} and {init_std}.")


def network_params(params: Params) -> Params:
    """Returns the parameters of the policy's network, named as in the network."""
    return {n.removeprefix(NETWORK): p for n, p in params.items() if n.startswith(NETWORK)}


def network_outputs(network: Model, params: Params, observations: Tensor) -> Tensor:
    """Returns the outputs [T, *B, *] of the network for observations [T, *B, O]."""
    outputs = network(params, observations.flatten(1, -2))
    return outputs.view(*observations.shape[:-1], outputs.shape[-1])


def initial_network_params(
    network: Model, generator: torch.Generator, num_tasks: int | None
) -> Params:
    """Draws the network's initial parameters, named as in the policy."""
    return {NETWORK + n: p for n, p in network.initial(generator, num_tasks).items()}


def fixed_network(network: Model, params: Params) -> Callable[[Tensor], Tensor]:
    """Returns the network as a function of observations [T, B, O], with fixed parameters."""
    if isinstance(network, MLP):
        return network.fixed(params)
    return functools.partial(network, params)
