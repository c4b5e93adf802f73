"""Layers on the parameters of T tasks at once. Right to second order, unlike `vmap` of torch's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Applies one affine map per task.

    Args:
        inputs: Shape [T, N, in].
        weight: Shape [T, out, in].
        bias: Shape [T, out].

    Returns:
        Shape [T, N, out].
    """
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)


def conv2d(inputs: Tensor, weight: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    """Convolves the images of each task with the filters of that task.

    Args:
        inputs: Shape [T, N, in, H, W].
        weight: Shape [T, out, in, k, k].
        stride: Step between two positions of the filter.
        padding: Rows and columns of zeros on each side.

    Returns:
        Shape [T, N, out, H', W'].
    """
    tasks, images = inputs.shape[:2]
    folded = inputs.transpose(0, 1).reshape(images, -1, *inputs.shape[3:])
    out = F.conv2d(folded, weight.flatten(0, 1), stride=stride, padding=padding, groups=tasks)
    return out.unflatten(1, (tasks, -1)).transpose(0, 1)


def moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and biased variance per task and channel, each [T, C], of [T, N, C, H, W]."""
    variance, mean = torch.var_mean(inputs, dim=(1, 3, 4), correction=0)
    return mean, variance


def batch_norm(
    inputs: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Normalises every channel of every task: (x - mean) / sqrt(variance + eps) * weight + bias.

    Args:
        inputs: Shape [T, N, C, H, W].
        mean: Shape [T, C].
        variance: Shape [T, C], biased.
        weight: Shape [T, C].
        bias: Shape [T, C].
        eps: Added to the variance, > 0.

    Returns:
        Shape [T, N, C, H, W].
    """
    scale = torch.rsqrt(variance + eps) * weight
    shift = bias - mean * scale
    return inputs * scale[:, None, :, None, None] + shift[:, None, :, None, None]


def max_pool2d(inputs: Tensor) -> Tensor:
    """Takes the largest of every 2x2 positions: [T, N, C, H, W] -> [T, N, C, H // 2, W // 2]."""
    return F.max_pool2d(inputs.flatten(0, 1), 2).unflatten(0, inputs.shape[:2])
