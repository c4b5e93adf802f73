"""Discounted returns and generalised advantage estimates of rollouts.

Tensors have the shape [T, N, H]: T tasks, N episodes per task and up to H steps per episode. Steps
after the end of an episode are masked; the values that they hold are ignored.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Computes the discounted return of each step, G_t = r_t + gamma G_{t+1}.

    Args:
        rewards: Shape [T, N, H], float.
        mask: 1 for the steps of the episode, which come first, 0 after its end; shape [T, N, H],
            any type.
        gamma: Discount per step, in [0, 1].

    Returns:
        Shape [T, N, H]; 0 where masked.
    """
    return sums_to_end(torch.where(mask > 0, rewards, 0), gamma)


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    mask: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Computes generalised advantage estimates (Schulman et al. 2016, equation 16).

    The value after a terminated episode is 0. The value after a truncated episode, whose last step
    is not `terminated`, is V(final observation).

    Args:
        rewards: Shape [T, N, H], float.
        values: V(s_t), the values of the observations before each step; shape [T, N, H], float.
        next_values: V(s_{t+1}), the values of the observations after each step and before any
            reset; at the last step that of the final observation. Shape [T, N, H], float. Pass
            zeros at the last step for a return that ends at the horizon. Ignored where
            `terminated`.
        terminated: Whether the step terminated the episode; shape [T, N, H], bool.
        mask: 1 for the steps of the episode, which come first, 0 after its end; shape [T, N, H],
            any type.
        gamma: Discount per step, in [0, 1].
        lam: Lambda, in [0, 1]. 1 returns G_t - V(s_t) (no bias), 0 the temporal-difference
            residuals (least variance).

    Returns:
        Shape [T, N, H]; 0 where masked.
    """
    # delta_t = r_t + gamma V(s_{t+1}) - V(s_t), with V = 0 after a termination
    delta = rewards + gamma * torch.where(terminated, 0, next_values) - values
    delta = torch.where(mask > 0, delta, 0)  # so the sums stop at the end of the episode
    # A_t = delta_t + gamma lambda A_{t+1}  (Schulman et al. 2016, eq. 16)
    return sums_to_end(delta, gamma * lam)


def sums_to_end(values: Tensor, decay: float) -> Tensor:
    """Solves y_t = values_t + decay * y_{t+1} along the last dimension, with y = 0 after its end.

    Each round doubles the span of the sums, so the function takes about log2(H) rounds instead of
    H steps.

    Args:
        values: Shape [*, H], float.
        decay: In [0, 1].

    Returns:
        y, shape [*, H].
    """
    span, steps = 1, values.shape[-1]
    while span < steps:
        # Invariant: values_t holds the sum of decay^j x_{t+j} over 0 <= j < span, x the input.
        later = F.pad(values[..., span:], (0, span))
        values = torch.add(values, later, alpha=decay**span)
        span *= 2
    return values
