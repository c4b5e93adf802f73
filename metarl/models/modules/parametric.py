"""Task-batched forms of functions with weights: F.linear, convolutions, layer normalisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.models.convolution import Geometry, grouped_conv, transposed_conv
from metarl.models.folding import fold_filters
from metarl.models.functional import per_channel
from metarl.models.modules.values import Folded, GraphRun, NoForm, Value, dimensions_of, folded


def linear(
    run: GraphRun, function: Any, value: Value, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """`F.linear` of [T, *B, in] with weights [T, out, in] and [T, out]."""
    inputs = run.plain(value)
    if inputs.dim() < 2 or weight.dim() != 3:
        raise NoForm
    rows = inputs.flatten(1, -2) if inputs.dim() > 2 else inputs.unsqueeze(1)
    # y = W x + b
    if bias is None:
        outputs = torch.bmm(rows, weight.mT)
    else:
        outputs = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
    return outputs.view(*inputs.shape[:-1], -1)


def convolution(
    run: GraphRun,
    function: Any,
    value: Value,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Folded:
    """`F.conv1d`, `conv2d` and `conv3d` of [T, N, in, *S] with weights [T, out, in, *k]."""
    dims = {F.conv1d: 3, F.conv2d: 4, F.conv3d: 5}[function]
    if dimensions_of(value) != dims or weight.dim() != dims + 1 or isinstance(padding, str):
        raise NoForm
    sizes = (_sizes(s) for s in (stride, padding, dilation))
    hidden = filtered(run, value, weight, groups, *sizes)
    if bias is not None:
        hidden = hidden + per_channel(bias.flatten(), hidden)
    return Folded(hidden)


def filtered(
    run: GraphRun,
    value: Value,
    weight: Tensor,
    groups: int,
    stride: Any,
    padding: Any,
    dilation: Any,
) -> Tensor:
    """Returns a convolution without bias, [N, T * out, *S'], with filters [T, out, in, *k]."""
    filters = fold_filters(weight)
    geometry = Geometry(run.num_tasks * groups, stride, padding, dilation)
    return grouped_conv(folded(value), filters, geometry)


def transposed(
    run: GraphRun, value: Value, weight: Tensor, groups: int, stride: Any, padding: Any,
    dilation: Any, output_padding: tuple[int, ...],
) -> Tensor:  # fmt: skip
    """Returns a transposed convolution without bias, [N, T * out, *S'].

    Filters are [T, in, out / groups, *k].
    """
    geometry = Geometry(run.num_tasks * groups, stride, padding, dilation)
    return transposed_conv(folded(value), fold_filters(weight), geometry, output_padding)


def layer_norm(
    run: GraphRun,
    function: Any,
    value: Value,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`F.layer_norm` of [T, *B, *shape] with weights [T, *shape]."""
    inputs = run.plain(value)
    hidden = F.layer_norm(inputs, list(shape), None, None, eps)
    return scaled(hidden, len(shape), weight, bias)


def rms_norm(
    run: GraphRun,
    function: Any,
    value: Value,
    shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """`F.rms_norm` of [T, *B, *shape] with a weight [T, *shape]."""
    inputs = run.plain(value)
    eps = torch.finfo(inputs.dtype).eps if eps is None else eps
    squares = inputs.square().mean(list(range(-len(shape), 0)), keepdim=True)
    return scaled(inputs * torch.rsqrt(squares + eps), len(shape), weight, None)


def scaled(hidden: Tensor, dims: int, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Returns x w + b for x [T, *B, *shape], the others [T, *shape] of `dims` + 1 dimensions."""
    fill = [1] * (hidden.dim() - 1 - dims)
    if weight is not None:
        hidden = hidden * weight.view(weight.shape[0], *fill, *weight.shape[1:])
    return hidden if bias is None else hidden + bias.view(bias.shape[0], *fill, *bias.shape[1:])


def _sizes(sizes: Any) -> Any:
    return sizes if isinstance(sizes, int) else tuple(sizes)
