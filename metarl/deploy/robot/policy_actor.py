"""Acts by a policy on one robot: one observation after another, without surprises in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.deploy.robot.actor import Actor
from metarl.models import MLP
from metarl.models.base import Params
from metarl.models.mlp import IN_PLACE
from metarl.rl.distributions import Distribution
from metarl.rl.policies import CategoricalPolicy, GaussianPolicy, Policy
from metarl.rl.policy import NETWORK

BLOCK = 1024
"""Random numbers that are drawn at once."""

Outputs = Callable[[Tensor], Tensor]
"""Maps an observation [O] in the policy's units to the network's outputs; a buffer."""


class PolicyActor(Actor):
    """A policy with the parameters of one task, for one observation at a time.

    Means and logits of fully connected networks are computed into buffers that are made once; other
    networks run as in training.

    Args:
        policy: The policy.
        params: Its parameters, [1, *shape] per name.
        size: Size of an observation, O.
        generator: Source of sampled actions.
    """

    def __init__(
        self, policy: Policy, params: Params, size: int, generator: torch.Generator
    ) -> None:
        units = policy.units
        self.row = np.zeros(size, np.float32)
        self._own = np.zeros(size, np.float32)
        self._input = torch.from_numpy(self._own)
        self._generator = generator
        self._policy, self._params = policy, params
        self._observations = None if units is None else units.observations
        if self._observations is not None:
            scale = self._observations
            self._shift, self._factor, self._limit = (
                t.detach().float().numpy().copy() for t in (scale.shift, scale.factor, scale.limit)
            )
        actions = None if units is None else units.actions
        self._maps_actions = actions is not None
        if actions is not None:
            self._scale, self._middle = actions.scale.numpy().copy(), actions.shift.numpy().copy()
        self._noise = self._draw()
        self._next = 0
        self._choose = self._chooser(params)

    def act(self, explore: bool) -> tuple[np.ndarray | int, np.ndarray | int]:
        own = self._own
        if self._observations is None:
            np.copyto(own, self.row)
        else:  # (o - shift) * factor, clipped
            np.subtract(self.row, self._shift, out=own)
            np.multiply(own, self._factor, out=own)
            np.minimum(own, self._limit, out=own)
            np.maximum(own, -self._limit, out=own)
        action = self._choose(explore)
        if not self._maps_actions or isinstance(action, int):
            return action, action
        return action, action * self._scale + self._middle  # a' = a * scale + shift

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy is built of; its buffers share memory with each other alone."""
        names = ("_policy", "_params", "_generator", "_noise", "_next", "row")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Builds new buffers."""
        generator = state["_generator"]
        drawn = generator.get_state()
        self.__init__(state["_policy"], state["_params"], len(state["row"]), generator)
        generator.set_state(drawn)
        self._noise, self._next, self.row = state["_noise"], state["_next"], state["row"]

    def _chooser(self, params: Params) -> Callable[[bool], np.ndarray | int]:
        policy = self._policy
        if isinstance(policy, GaussianPolicy | CategoricalPolicy):
            network = policy.network
            if isinstance(network, MLP):
                outputs = buffered_mlp(network, params)
                kind = self._gaussian if isinstance(policy, GaussianPolicy) else self._categorical
                return kind(outputs, params)
        return self._general(policy.fixed(params))

    def _gaussian(self, outputs: Outputs, params: Params) -> Callable[[bool], np.ndarray | int]:
        assert isinstance(self._policy, GaussianPolicy)
        log_std = params["log_std"][0].detach().clamp(min=math.log(self._policy.min_std))
        deviation = log_std.exp().numpy().copy()

        def choose(explore: bool) -> np.ndarray:
            mean = outputs(self._input).numpy()
            if not explore:
                return mean.copy()
            action = deviation * self._take()  # a = mu + sigma z
            action += mean
            return action

        return choose

    def _categorical(self, outputs: Outputs, params: Params) -> Callable[[bool], np.ndarray | int]:
        del params

        def choose(explore: bool) -> int:
            logits = outputs(self._input).numpy()
            if not explore:
                return int(logits.argmax())
            chances = np.exp(logits - logits.max())
            sums = chances.cumsum()
            return int((self._take() * sums[-1] >= sums[:-1]).sum())

        return choose

    def _general(
        self, policy: Callable[[Tensor], Distribution]
    ) -> Callable[[bool], np.ndarray | int]:
        discrete = self._policy.action_shape == ()

        @torch.no_grad()
        def choose(explore: bool) -> np.ndarray | int:
            found = policy(self._input.view(1, 1, -1))
            if explore:
                noise = torch.as_tensor(self._take())
                action = found.sample(noise.view(1, 1, *self._policy.action_shape))
            else:
                action = found.mode()
            return int(action) if discrete else action[0, 0].numpy().copy()

        return choose

    def _take(self) -> np.ndarray:
        """Returns the random numbers of the next action."""
        if self._next == BLOCK:
            self._noise, self._next = self._draw(), 0
        noise = self._noise[self._next]
        self._next += 1
        return noise

    def _draw(self) -> np.ndarray:
        return self._policy.noise((BLOCK,), self._generator).numpy()


def buffered_mlp(network: MLP, params: Params) -> Outputs:
    """Returns a fully connected network with fixed parameters that writes into its own buffers.

    Args:
        network: The network.
        params: Parameters of the policy that it belongs to, [1, *shape] per name.
    """
    activate = IN_PLACE[network.activation]
    layers = []
    for i in range(len(network.sizes) - 1):
        weight, bias = (
            params[f"{NETWORK}layers.{i}.{n}"][0].detach().contiguous() for n in ("weight", "bias")
        )
        layers.append((weight, bias, torch.empty_like(bias)))
    *inner, last = layers
    addmv = torch.addmv

    def run(inputs: Tensor) -> Tensor:
        for weight, bias, out in inner:
            inputs = activate(addmv(bias, weight, inputs, out=out))  # sigma(W x + b)
        return addmv(last[1], last[0], inputs, out=last[2])

    return run
