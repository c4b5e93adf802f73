"""Layers with the parameters of T tasks at once, with correct first and second derivatives.

Under `vmap`, torch's own normalisation layers have wrong second derivatives.

Image layers work on folded images: the task dimension is folded into the channels,
[N, T * C, H, W], channels last in memory. A convolution per task is then one grouped convolution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.models.convolution import Geometry, grouped_conv


def linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Applies the affine map of each task, y = W x + b.

    Args:
        inputs: Shape [T, N, in].
        weight: Shape [T, out, in].
        bias: Shape [T, out].

    Returns:
        Shape [T, N, out].
    """
    return affine(weight, bias)(inputs)


def affine(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns `linear` with fixed weight and bias, to be called repeatedly with inputs."""
    shift, factor = bias.unsqueeze(1), weight.mT
    return lambda inputs: torch.baddbmm(shift, inputs, factor)


def conv2d(folded: Tensor, weight: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    """Convolves the images of each task with the filters of that task.

    Args:
        folded: Shape [N, T * in, H, W].
        weight: Shape [T, out, in, k, k].
        stride: Step between two positions of a filter, in pixels.
        padding: Rows and columns of zeros on each side, in pixels.

    Returns:
        Shape [N, T * out, H', W'].
    """
    geometry = Geometry(weight.shape[0], stride, padding)
    # [T * out, in, k, k], channels last in memory; unlike those of `fold_filters` also for one
    # input channel, where the layout of the images decides: exported graphs infer the same one
    filters = weight.permute(0, 1, 3, 4, 2).flatten(0, 1).permute(0, 3, 1, 2)
    return grouped_conv(folded, filters, geometry)


def batch_norm(
    folded: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Normalises each channel: (x - mean) / sqrt(variance + eps) * weight + bias.

    Args:
        folded: Shape [N, C, *S].
        mean: Shape [C].
        variance: Shape [C], biased.
        weight: Shape [C].
        bias: Shape [C].
        eps: Added to the variance, above 0.

    Returns:
        Shape [N, C, *S].
    """
    # y = scale * x + shift, scale = gamma / sqrt(variance + eps), shift = beta - mean * scale
    # (Ioffe & Szegedy 2015, algorithm 1)
    scale = torch.rsqrt(variance + eps) * weight
    shift = bias - mean * scale
    return torch.addcmul(per_channel(shift, folded), folded, per_channel(scale, folded))


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Returns values [C] as [C, 1, ...], which broadcast to `like` [N, C, *S]."""
    return values.view(-1, *[1] * (like.dim() - 2))


def weighted_channel_moments(folded: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the weighted mean and biased variance of each task's channels, each [T * C].

    Args:
        folded: Shape [N, T * C, H, W].
        weights: Weight of each image, [T, N], with a sum above 0 in each task.
    """
    channels = folded.shape[1] // len(weights)
    shares = weights / (weights.sum(1, keepdim=True) * folded[0, 0].numel())
    shares = shares.mT.repeat_interleave(channels, dim=1)[:, :, None, None]  # [N, T * C, 1, 1]
    # mean = sum_n w_n x_n / sum_n w_n,  variance = sum_n w_n (x_n - mean)^2 / sum_n w_n
    mean = (shares * folded).sum((0, 2, 3), keepdim=True)
    variance = (shares * (folded - mean).square()).sum((0, 2, 3))
    return mean.flatten(), variance


def max_pool2d(folded: Tensor) -> Tensor:
    """Applies 2x2 max-pooling: [N, C, H, W] -> [N, C, H // 2, W // 2]."""
    return F.max_pool2d(folded, 2)


def lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Computes one step of an LSTM (Hochreiter & Schmidhuber 1997, with forget gates).

    Args:
        gates: Pre-activations of the gates (input, forget, cell, output), [*, 4 units].
        cell: Cell state c_{t-1}, [*, units].

    Returns:
        The hidden state h_t and the cell state c_t, [*, units] each.
    """
    i, f, g, o = gates.chunk(4, dim=-1)
    # c_t = sigma(f) * c_{t-1} + sigma(i) * tanh(g)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    # h_t = sigma(o) * tanh(c_t)
    return o.sigmoid() * cell.tanh(), cell
