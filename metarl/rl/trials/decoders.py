"""Decoders of VariBAD: they predict rewards and observations from a task's latent."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models.base import Weights, task_params
from metarl.models.described import described
from metarl.models.mlp import MLP
from metarl.ranges import WIDTH, check_int
from metarl.rl.policies import flat_observations
from metarl.rl.policy_network import CNN, PolicyNetwork
from metarl.rl.trials.history import EMBEDDING
from metarl.sim.spaces import FlatBox, is_image, observation_leaves


class Decoder(nn.Module):
    """A network from a latent and a transition to K numbers, for all pairs of them.

    The first layer is W_m m + W_x x + b, so that each product is computed once and not per pair.

    Args:
        latent: Size of the latent.
        transition: Size of the transition.
        outputs: Number of outputs.
        generator: Random generator of the initial weights.
        hidden: Widths of the hidden layers, at least one.
    """

    def __init__(
        self,
        latent: int,
        transition: int,
        outputs: int,
        generator: torch.Generator,
        hidden: tuple[int, ...],
    ) -> None:
        super().__init__()
        width, device = hidden[0], generator.device
        weights = []
        for size in (latent, transition):
            weights.append(torch.empty(width, size, device=device))
            nn.init.normal_(weights[-1], std=1 / math.sqrt(size), generator=generator)
        self.latents = Weights(weights[0])
        self.transitions = Weights(weights[1], torch.zeros(width, device=device))
        self.rest = MLP((*hidden, outputs), generator)

    def forward(self, latents: Tensor, transitions: Tensor) -> Tensor:
        """Maps latents [*, S, M] and transitions [*, D, X] to outputs [*, S, D, outputs]."""
        task = F.linear(latents, self.latents.weight).unsqueeze(-2)
        own = F.linear(transitions, self.transitions.weight, self.transitions.bias).unsqueeze(-3)
        hidden = torch.relu(task + own)
        outputs = self.rest(task_params(self.rest, 1), hidden.flatten(0, -2).unsqueeze(0))
        return outputs.view(*hidden.shape[:-1], -1)


@described
class TaskDecoders(nn.Module):
    """Predicts the reward, and perhaps the next observation, of transitions of a task.

    The reward is predicted from (m, s, a, s'), the next observation s' from (m, s, a). Images pass
    through convolutions, which the two share.

    Args:
        observation_space: Observation space of one world.
        action_size: Width of an encoded action (`TrialPolicy.action_size`).
        generator: Random generator of the initial weights.
        latent: Size of the latent m, M.
        hidden: Widths of the hidden layers, at least one.
        observations: Whether the next observation is predicted too.
        cnn: Channels of the convolutions of images.

    Raises:
        SettingsError: A width is out of range, or `hidden` is empty.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_size: int,
        generator: torch.Generator,
        latent: int = 5,
        hidden: tuple[int, ...] = (64, 32),
        observations: bool = False,
        cnn: tuple[int, ...] = CNN,
    ) -> None:
        super().__init__()
        check_int("latent", latent, WIDTH)
        if not hidden:
            raise SettingsError("Expected at least one width in `hidden`, got none.")
        for width in hidden:
            check_int("hidden", width, WIDTH)
        own = isinstance(observation_space, FlatBox)
        space = observation_space if own else flat_observations(observation_space)
        self.size = size = math.prod(space.shape)
        self.encoder = None
        if any(is_image(leaf.space) for leaf in observation_leaves(space)):
            size = EMBEDDING
            self.encoder = PolicyNetwork(
                space, size, generator, (), cnn=cnn, output_scale=1.0
            )  # fmt: skip
        self.reward = Decoder(latent, 2 * size + action_size, 1, generator, hidden)
        self.observation = None
        if observations:
            self.observation = Decoder(latent, size + action_size, self.size, generator, hidden)

    def forward(
        self, latents: Tensor, before: Tensor, actions: Tensor, after: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Predicts all pairs of latents and transitions, in deviations from their means.

        Args:
            latents: Samples of the latent, [*, S, M].
            before: Observations s in the policy's units, [*, D, O].
            actions: Encoded actions, [*, D, A].
            after: Observations s' in the policy's units, [*, D, O].

        Returns:
            The rewards, [*, S, D], and the next observations, [*, S, D, O], or None.
        """
        start, end = self._encoded(before), self._encoded(after)
        actions = actions.to(start)
        rewards = self.reward(latents, torch.cat((start, actions, end), -1)).squeeze(-1)
        if self.observation is None:
            return rewards, None
        return rewards, self.observation(latents, torch.cat((start, actions), -1))

    def _encoded(self, observations: Tensor) -> Tensor:
        if self.encoder is None:
            return observations
        rows = observations.flatten(0, -2).unsqueeze(0)
        outputs = self.encoder(task_params(self.encoder, 1), rows)
        return torch.relu(outputs).view(*observations.shape[:-1], -1)
