"""The evidence lower bound of VariBAD on stored trials (Zintgraf et al. 2020, equation 9)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.rl.distributions import Gaussian


class Drawn(NamedTuple):
    """The times and the transitions of which the bound is estimated.

    Attributes:
        times: The times t of the posteriors, [T, N, S] int64.
        time_weights: Weights of their mean over the trial, [T, N, S]; 0 where there is no time.
        steps: The transitions that are predicted, [T, N, D] int64.
        step_weights: Weights of their mean over the trial, [T, N, D].
        noise: Standard normal numbers of the latents, [T, N, S, K].
    """

    times: Tensor
    time_weights: Tensor
    steps: Tensor
    step_weights: Tensor
    noise: Tensor


class Bound(NamedTuple):
    """The parts of the negative bound of each trial, [T, N], per term and per transition.

    Attributes:
        reward: Mean of (r - r_hat)^2 / 2 over times and transitions.
        observation: The same of the next observations, summed over their entries; 0 without them.
        divergence: Mean over the times of KL(q_t || q_{t-1}), in nats.
    """

    reward: Tensor
    observation: Tensor
    divergence: Tensor


def choose(mask: Tensor, keys: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """Chooses steps of each trial, all of equal probability and none twice.

    Args:
        mask: 1 for the steps of the trial, which come first, else 0; [T, N, L] float.
        keys: Uniform random numbers, [T, N, L].
        count: Number of steps; None for all.

    Returns:
        The steps [T, N, C] int64, and the weights of their mean, [T, N, C], which sum to 1; they
        are 0 for steps after the end.
    """
    if count is None or count >= mask.shape[2]:
        steps = torch.arange(mask.shape[2], device=mask.device).expand(mask.shape)
    else:
        steps = torch.where(mask > 0, keys, 2.0).argsort(2)[..., :count]
    weights = mask.gather(2, steps)
    return steps, weights / weights.sum(2, keepdim=True)


def at(values: Tensor, steps: Tensor) -> Tensor:
    """Returns values [T, N, L, *] at steps [T, N, C], as [T, N, C, *]."""
    index = steps.view(*steps.shape, *[1] * (values.dim() - 3))
    return values.gather(2, index.expand(*steps.shape, *values.shape[3:]))


def divergences(beliefs: Gaussian) -> Tensor:
    """Returns KL(q_t || q_{t-1}) of each step, [T, N, L], with q_{-1} = N(0, I).

    Args:
        beliefs: The posteriors of each step, [T, N, L, K].
    """
    before = Gaussian(*(_shifted(part) for part in beliefs))
    return beliefs.kl(before)


def bound(
    divergence: Tensor,
    rewards: tuple[Tensor, Tensor],
    observations: tuple[Tensor, Tensor] | None,
    drawn: Drawn,
) -> Bound:
    """Estimates the parts of the negative bound; the likelihoods are normal of variance 1.

        -ELBO / n^2 = mean_t mean_i [(r_i - r_hat_i(m_t))^2 / 2] + mean_t [KL(q_t || q_{t-1})] / n

    is its sum for a trial of n steps, up to a constant, with the last part divided by n.

    Args:
        divergence: KL of each step, [T, N, L].
        rewards: Predicted rewards [T, N, S, D], and true ones [T, N, D].
        observations: The same of next observations, [T, N, S, D, O] and [T, N, D, O].
        drawn: The times and transitions.
    """
    pairs = drawn.time_weights.unsqueeze(3) * drawn.step_weights.unsqueeze(2)
    errors = rewards[0] - rewards[1].unsqueeze(2)
    reward = (0.5 * errors.square() * pairs).sum((2, 3))
    observation = torch.zeros_like(reward)
    if observations is not None:
        errors = observations[0] - observations[1].unsqueeze(2)
        observation = (0.5 * errors.square().sum(4) * pairs).sum((2, 3))
    return Bound(
        reward, observation, (divergence.gather(2, drawn.times) * drawn.time_weights).sum(2)
    )


def _shifted(values: Tensor) -> Tensor:
    """Returns the values of the step before, [T, N, L, K]; 0 at the first."""
    return torch.cat((torch.zeros_like(values[:, :, :1]), values[:, :, :-1]), 2)
