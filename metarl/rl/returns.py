"""Returns and advantages of rollouts, [T, N, H]: T tasks, N episodes each of up to H steps.

Steps after the end of an episode are masked: they count for nothing, whatever stands there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Sums the rewards from each step to the end of its episode: G_t = r_t + gamma G_{t+1}.

    Args:
        rewards: Shape [T, N, H], float.
        mask: 1 for the steps of the episode, which come first, 0 after its end; [T, N, H], any
            type.
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
    """Generalised advantage estimation (Schulman et al. 2016, equation 16).

    A_t = delta_t + gamma lam A_{t+1} within an episode, where delta_t = r_t + gamma V(s_{t+1}) -
    V(s_t). A terminated episode is worth nothing after its end. One that was truncated (its last
    step is not `terminated`) is worth V(final observation) there.

    Args:
        rewards: Shape [T, N, H], float, as are the values.
        values: V(s_t), of the observations before the step.
        next_values: V(s_{t+1}), of the observations after the step and before any reset, so that
            of the final observation at the last step. Zeros there instead give the advantages of
            a return that is meant to stop at the horizon. Not read where `terminated`.
        terminated: The step ended the episode by itself; [T, N, H], bool.
        mask: 1 for the steps of the episode, which come first, 0 after its end; [T, N, H], any
            type.
        gamma: Discount per step, in [0, 1].
        lam: 1 gives returns minus values (no bias), 0 temporal differences (least variance).

    Returns:
        Shape [T, N, H]; 0 where masked.
    """
    delta = rewards + gamma * torch.where(terminated, 0, next_values) - values
    delta = torch.where(mask > 0, delta, 0)  # so the sums stop at the end of the episode
    return sums_to_end(delta, gamma * lam)


def sums_to_end(values: Tensor, decay: float) -> Tensor:
    """Solves y_t = values_t + decay y_{t+1} along the last dimension, y being 0 beyond its end.

    By doubling the span of the sums: about log2(H) rounds in place of H.

    Args:
        values: Shape [*, H], float.
        decay: In [0, 1].

    Returns:
        y, shape [*, H].
    """
    span, steps = 1, values.shape[-1]
    while span < steps:
        later = F.pad(values[..., span:], (0, span))
        values = torch.add(values, later, alpha=decay**span)
        span *= 2
    return values
