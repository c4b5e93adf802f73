"""Functions of images of one task that run fast under `vmap`: convolutions and max-pooling.

Calls that have no such form are those of torch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.models.convolution import CONVOLUTIONS, Geometry, grouped_conv
from metarl.models.functional import per_channel
from metarl.models.pooling import Windows, max_pool


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv1d`, `F.conv2d` and `F.conv3d`."""
    if isinstance(padding, str) or not _plain(input, weight):
        function = CONVOLUTIONS[weight.dim()]
        return function(input, weight, bias, stride, padding, dilation, groups)
    dims = weight.dim() - 2
    sizes = (_each(s, dims) for s in (stride, padding, dilation))
    hidden = grouped_conv(input, weight, Geometry(groups, *sizes))
    return hidden if bias is None else hidden + per_channel(bias, hidden)


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """`F.max_pool2d`, and `torch.max_pool2d`."""
    if input.dim() != 4 or return_indices:
        return F.max_pool2d(
            input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
        )
    stride = kernel_size if stride is None else stride
    kernel, step, zeros, apart = (
        list(_each(s, 2)) for s in (kernel_size, stride, padding, dilation)
    )
    return max_pool(input, Windows(kernel, step, zeros, apart, ceil_mode))


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """`F.adaptive_avg_pool2d`."""
    # torch has no batching rule for what it does to an output of one pixel, channels last.
    if output_size in (1, (1, 1), [1, 1]):
        return input.mean((-2, -1), keepdim=True)
    return F.adaptive_avg_pool2d(input, output_size)


def _plain(input: Tensor, weight: Tensor) -> bool:
    """Returns whether a convolution has a batch of real numbers of one type."""
    casts = torch.is_autocast_enabled(input.device.type)
    alike = input.dim() == weight.dim() and input.dtype == weight.dtype
    return alike and input.is_floating_point() and not casts


def _each(sizes: Any, dims: int) -> tuple[int, ...]:
    """Returns a number or several as one for each spatial dimension."""
    given = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return given * dims if len(given) == 1 else given
