"""Policies that act on a posterior of the task, which a memory infers from the trial."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from metarl.models.base import Weights, task_params
from metarl.models.described import described
from metarl.ranges import WIDTH, check_int
from metarl.rl.distributions import Gaussian
from metarl.rl.policies import policy_for
from metarl.rl.policy_network import network_for
from metarl.rl.settings import PolicySettings
from metarl.rl.trials.history import History, MemorySettings, check_widths
from metarl.rl.trials.trial_policy import TrialPolicy
from metarl.rl.units import RunningScale
from metarl.sim.arguments import with_task


@described
class BeliefPolicy(TrialPolicy):
    """The policy of VariBAD (Zintgraf et al. 2020, arXiv:1910.08348).

    The memory reads the trial so far and gives a posterior of a latent m of the task,

        q(m | tau_:t) = N(mu_t, diag(sigma_t^2)),   (mu_t, log sigma_t^2) = W h_t + b.

    The features are [s_t, mu_t, log sigma_t^2]: the observation in the policy's units, and the
    posterior, whose numbers are shifted by their running means and divided by their running
    deviations where these exceed 1: log variances soon lie far from 0. One network computes the
    action from the features, another one the value.

    Args:
        observation_space: Observation space of one world.
        action_space: Action space of one world.
        generator: Random generator of the initial weights.
        latent: Size of the latent, K.
        units: Width of the memory, at least 1.
        embedding: Width of a ReLU layer between the inputs and the memory; 0 omits it.
        hidden: Widths of the hidden layers between the features and the action, and between the
            features and the value.
        init_std: Initial standard deviation of continuous actions, in the policy's units.
        options: Convolutions of images, the activation and layer norm of the hidden layers, and the
            units; None leaves the units as they are.
        memory: The kind of memory; None: a GRU.

    Raises:
        SettingsError: A width is out of range, or no policy supports the spaces.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        generator: torch.Generator,
        latent: int = 5,
        units: int = 64,
        embedding: int = 0,
        hidden: tuple[int, ...] = (64, 64),
        init_std: float = 1.0,
        options: PolicySettings | None = None,
        memory: MemorySettings | None = None,
    ) -> None:
        check_widths(units, embedding)
        check_int("latent", latent, WIDTH)
        options = options or PolicySettings(scale_actions=False, normalize_observations=False)
        super().__init__(observation_space, action_space, options)
        self.latent = latent
        space = with_task(self.observations, 2 * latent)
        network = (hidden, options.activation, options.layer_norm, options.cnn)
        self.head = policy_for(
            (space, self.actions), generator, hidden, options.activation, init_std,
            layer_norm=options.layer_norm, cnn=options.cnn, scale_actions=False,
            normalize_observations=False,
        )  # fmt: skip
        self.value = network_for(space, 1, generator, *network)
        self.history = History(
            self.observations, self.input_size, generator, units, embedding, memory, options.cnn
        )
        weight = torch.empty(2 * latent, units, device=generator.device)
        nn.init.normal_(weight, std=1 / math.sqrt(units), generator=generator)
        self.posterior = Weights(weight, torch.zeros(2 * latent, device=generator.device))
        self.critic = None
        self.scale = RunningScale(2 * latent).to(generator.device)
        if self.units is not None:
            self.units.to(generator.device)

    def belief(self, remembered: Tensor) -> Gaussian:
        outputs = F.linear(remembered, self.posterior.weight, self.posterior.bias)
        mean, log_variance = outputs.chunk(2, -1)
        return Gaussian(mean, 0.5 * log_variance)

    def beliefs(self, inputs: Tensor) -> Gaussian:
        """Returns the posteriors [T, N, L, K] of trials with inputs [T, N, L, I].

        That of step t has read the inputs up to t: the observation s_t, but not its reward.
        """
        return self.belief(self.history.unroll(inputs))

    def seen(self, inputs: Tensor, belief: Gaussian) -> Tensor:
        """Returns the features [*, F] for inputs [*, I] and posteriors [*, K]."""
        observation, numbers = inputs[..., : self.observation_size], as_numbers(belief)
        spread = self.scale.deviation().clamp(min=1).to(numbers)
        return torch.cat((observation, (numbers - self.scale.mean.to(numbers)) / spread), -1)

    def features(self, inputs: Tensor, remembered: Tensor) -> Tensor:
        return self.seen(inputs, self.belief(remembered))

    def values(self, features: Tensor) -> Tensor:
        rows = features.flatten(0, -2).unsqueeze(0)
        return self.value(task_params(self.value, 1), rows).view(features.shape[:-1])


def as_numbers(belief: Gaussian) -> Tensor:
    """Returns posteriors [*, K] as (mu, log sigma^2), [*, 2K]."""
    return torch.cat((belief.mean, 2 * belief.log_std), -1)
