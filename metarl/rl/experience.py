"""Advantages and step weights of a batch of rollouts."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.rl.baseline import LinearBaseline
from metarl.rl.distributions import Distribution
from metarl.rl.returns import discounted_returns, gae
from metarl.rl.rollouts import Rollouts
from metarl.rl.settings import PolicyGradientSettings


class Experience(NamedTuple):
    """Rollouts of T tasks and the quantities that policy gradients are computed from.

    Attributes:
        rollouts: The rollouts.
        log_probs: Log-probability of each action under the policy that took it, [T, N, H].
        advantages: Advantage of each action, [T, N, H]; 0 after the end of the episode.
        weights: Weight of each step in a mean over all steps of a task, [T, N, H]; they sum to 1
            for each task.
    """

    rollouts: Rollouts
    log_probs: Tensor
    advantages: Tensor
    weights: Tensor

    def divergence(self, new: Distribution) -> Tensor:
        """Returns the mean KL(old, new) of each task, where old collected the rollouts; [T]."""
        return (self.rollouts.behaviour.kl(new) * self.weights).sum((1, 2))


@torch.no_grad()
def estimate_advantages(
    rollouts: Rollouts, settings: PolicyGradientSettings, cut: Tensor | None = None
) -> Experience:
    """Estimates the advantages of rollouts by GAE, with a linear baseline per task.

    The baseline is fitted to the same rollouts (Duan et al. 2016, "Benchmarking deep reinforcement
    learning", section 3; Schulman et al. 2016, equation 16).

    Args:
        rollouts: The rollouts of T tasks.
        settings: Discount, lambda, bootstrapping and normalisation of the advantages.
        cut: Episodes whose data end before the episode does, [T, N] bool: their returns go on with
            the value of the last observation, and the baseline is fitted to the others, if there
            are any. None: no episode.

    Returns:
        The rollouts with their advantages and weights, without derivatives.
    """
    r, gamma = rollouts, settings.discount
    returns = discounted_returns(r.rewards, r.mask, gamma)
    baseline = LinearBaseline.fit(r.observations, returns, _whole(r.mask, cut))
    values = baseline.values(r.observations)
    last = baseline.values(r.final_observations.unsqueeze(2), first_step=values.shape[2])
    next_values = torch.cat((values[..., 1:], last), dim=2)
    if not settings.bootstrap:  # the return ends with the episode: V = 0 after its last step
        has_next = F.pad(r.mask[..., 1:], (0, 1)) > 0
        has_next = has_next if cut is None else has_next | cut.unsqueeze(2)
        next_values = torch.where(has_next, next_values, 0)
    advantages = gae(
        r.rewards, values, next_values, r.terminated, r.mask, gamma, settings.gae_lambda
    )
    weights = r.mask / r.mask.sum((1, 2), keepdim=True)
    if settings.normalize_advantages:
        advantages = normalized(advantages, weights) * r.mask
    return Experience(r, r.behaviour.log_prob(r.actions), advantages, weights)


def _whole(mask: Tensor, cut: Tensor | None) -> Tensor:
    """Returns the steps that the baseline is fitted to: of whole episodes, if a task has any."""
    if cut is None:
        return mask
    whole = mask * ~cut.unsqueeze(2)
    return torch.where(whole.sum((1, 2), keepdim=True) > 0, whole, mask)


def normalized(values: Tensor, weights: Tensor, eps: float = 1e-8) -> Tensor:
    """Shifts and scales each task's values to weighted mean 0 and standard deviation 1.

    Args:
        values: Shape [T, N, H].
        weights: Shape [T, N, H], summing to 1 for each task.
        eps: Added to the standard deviation.

    Returns:
        The normalised values, shape [T, N, H].
    """
    mean = (weights * values).sum((1, 2), keepdim=True)
    centred = values - mean
    deviation = (weights * centred.square()).sum((1, 2), keepdim=True).sqrt()
    return centred / (deviation + eps)
