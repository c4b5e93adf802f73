"""Policies for actions of several kinds at once: continuous numbers, choices and switches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.models import Params
from metarl.models.base import Model, task_shape
from metarl.models.described import described
from metarl.rl.distributions import Bernoulli, Categorical, Gaussian, Joint
from metarl.rl.policy import (
    Policy,
    check_deviations,
    fixed_network,
    initial_network_params,
    network_outputs,
    network_params,
)
from metarl.sim.spaces import action_leaves


@described
class ActionPart(NamedTuple):
    """A part of an action that one distribution describes.

    Attributes:
        kind: "gaussian", "categorical" or "bernoulli".
        size: Dimensions of a Gaussian, choices of a Categorical, or switches.
    """

    kind: Literal["gaussian", "categorical", "bernoulli"]
    size: int

    @property
    def width(self) -> int:
        """How many entries of the flat action it takes."""
        return 1 if self.kind == "categorical" else self.size


def action_parts(space: spaces.Space[Any]) -> list[ActionPart]:
    """Returns the parts of actions of a space, in the order of the flat action's entries."""
    parts: list[ActionPart] = []
    for leaf in action_leaves(space):
        part = leaf.space
        if isinstance(part, spaces.Box):
            parts.append(ActionPart("gaussian", leaf.stop - leaf.start))
        elif isinstance(part, spaces.Discrete):
            parts.append(ActionPart("categorical", int(part.n)))
        elif isinstance(part, spaces.MultiDiscrete):
            parts += [ActionPart("categorical", int(n)) for n in part.nvec.ravel()]
        else:
            parts.append(ActionPart("bernoulli", leaf.stop - leaf.start))
    return parts


@described
class JointPolicy(Policy):
    """Policy for MultiDiscrete and MultiBinary actions, and for Dicts and Tuples of any.

    One network computes the means, logits and log-odds of all parts; given the observation the
    parts are independent. The standard deviations of all continuous entries are parameters.

    Args:
        parts: The parts of an action, from `action_parts`.
        network: Maps observations [T, N, O] to `outputs_of(parts)` numbers.
        generator: Names the device of the standard deviations.
        init_std: Initial standard deviation of continuous entries, in the policy's units.
        min_std: Lower bound of the standard deviations, above 0.

    Raises:
        SettingsError: A standard deviation is out of range.
    """

    def __init__(
        self,
        parts: Sequence[ActionPart],
        network: Model,
        generator: torch.Generator,
        init_std: float = 1.0,
        min_std: float = 1e-6,
    ) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.init_std = init_std
        self.min_std = min_std
        self.network = network
        if self._gaussian_sizes:
            check_deviations(init_std, min_std)
            self.log_std = nn.Parameter(self._initial_log_std(generator))

    def distribution(self, params: Params, observations: Tensor) -> Joint:
        outputs = network_outputs(self.network, network_params(params), observations)
        return self._joint(outputs, params)

    def fixed(self, params: Params) -> Callable[[Tensor], Joint]:
        """Returns a function of observations [T, B, O], with a single dimension B."""
        outputs = fixed_network(self.network, network_params(params))
        return lambda observations: self._joint(outputs(observations), params)

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draws normal numbers for continuous entries and uniform ones for others, [*shape, A]."""
        options = {"generator": generator, "device": generator.device}
        return torch.cat(
            [
                (torch.randn if part.kind == "gaussian" else torch.rand)(
                    *shape, part.width, **options
                )
                for part in self.parts
            ],
            -1,
        )

    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        params = initial_network_params(self.network, generator, num_tasks)
        if self._gaussian_sizes:
            params["log_std"] = self._initial_log_std(generator, num_tasks)
        return params

    @property
    def _gaussian_sizes(self) -> list[int]:
        """The dimensions of each Gaussian part."""
        return [part.size for part in self.parts if part.kind == "gaussian"]

    @property
    def action_shape(self) -> tuple[int, ...]:
        return (sum(part.width for part in self.parts),)

    def _joint(self, outputs: Tensor, params: Params) -> Joint:
        """Returns the distributions of the network's outputs [T, *B, outputs]."""
        log_stds = iter(self._log_stds(params, outputs.dim()))
        found: list[Gaussian | Categorical | Bernoulli] = []
        own_outputs = outputs.split([part.size for part in self.parts], -1)
        for part, own in zip(self.parts, own_outputs, strict=True):
            if part.kind == "gaussian":
                found.append(Gaussian(own, next(log_stds)))
            else:
                found.append(Categorical(own) if part.kind == "categorical" else Bernoulli(own))
        return Joint(tuple(found))

    def _log_stds(self, params: Params, dims: int) -> Sequence[Tensor]:
        """Returns log standard deviations [T, 1, ..., 1, size] of each Gaussian, of `dims`."""
        if not self._gaussian_sizes:
            return ()
        log_std = params["log_std"].clamp(min=math.log(self.min_std))
        shape = (log_std.shape[0], *[1] * (dims - 2), log_std.shape[1])
        return log_std.view(shape).split(self._gaussian_sizes, -1)

    def _initial_log_std(self, generator: torch.Generator, num_tasks: int | None = None) -> Tensor:
        shape = (*task_shape(num_tasks), sum(self._gaussian_sizes))
        return torch.full(shape, math.log(self.init_std), device=generator.device)


def outputs_of(parts: Sequence[ActionPart]) -> int:
    """Returns how many outputs of a network the distributions of these parts need."""
    return sum(part.size for part in parts)
