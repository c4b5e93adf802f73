"""Derivatives and factorisations in terms of operators that ONNX has.

A captured adaptation step contains operators of autograd's backward pass, and the Cholesky
factorisation of the baseline. ONNX has neither.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, decomposition_table

from metarl.extras import import_extra

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Returns what replaces the operators of a captured function; keys are operators."""
    backward = {
        op: function for op, function in decomposition_table.items() if "backward" in str(op)
    }
    return {**backward, **core_aten_decompositions(), **_OWN}


def convolution_backward(
    grad: Tensor,
    inputs: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Computes the gradients of a convolution by convolutions; see `aten.convolution_backward`.

    Returns:
        The gradients of the inputs, the weight and the bias; None where `mask` is False.
    """
    del bias_sizes, output_padding
    if transposed:
        return NotImplemented
    geometry = (stride, padding, dilation)
    spatial = tuple(range(2, inputs.dim()))
    return (
        _input_gradient(grad, inputs, weight, *geometry, groups) if mask[0] else None,
        _weight_gradient(grad, inputs, weight, *geometry, groups) if mask[1] else None,
        grad.sum((0, *spatial)) if mask[2] else None,
    )


def _input_gradient(
    grad: Tensor,
    inputs: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """dF/dx: the transposed convolution of the gradient, [N, groups * in, *S]."""
    rest = []
    for i, (s, p, d) in enumerate(zip(stride, padding, dilation, strict=True)):
        # What a transposed convolution without output padding would give.
        size = (int(grad.shape[2 + i]) - 1) * s - 2 * p + d * (int(weight.shape[2 + i]) - 1) + 1
        rest.append(int(inputs.shape[2 + i]) - size)
    return aten.convolution(grad, weight, None, stride, padding, dilation, True, rest, groups)


def _weight_gradient(
    grad: Tensor,
    inputs: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """dF/dw: a convolution of the inputs by the gradient, stride and dilation exchanged."""
    zeros = [0] * len(stride)
    parts = []
    for x, g in zip(inputs.chunk(groups, 1), grad.chunk(groups, 1), strict=True):
        found = aten.convolution(
            x.transpose(0, 1), g.transpose(0, 1), None, dilation, padding, stride, False, zeros, 1
        )
        for i in range(2, weight.dim()):  # a stride may have left rows of the inputs unread
            found = found.narrow(i, 0, int(weight.shape[i]))
        parts.append(found.transpose(0, 1))
    return parts[0] if groups == 1 else torch.cat(parts)


def max_pool2d_with_indices_backward(
    grad: Tensor,
    inputs: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil: bool,
    indices: Tensor,
) -> Tensor:
    """Adds each gradient at the position of its maximum, [N, C, H, W]."""
    del kernel, stride, padding, dilation, ceil
    zeros = torch.zeros_like(inputs).flatten(-2)
    return zeros.scatter_add(-1, indices.flatten(-2), grad.flatten(-2)).view(inputs.shape)


def batch_norm_update_stats(
    inputs: Tensor, mean: Tensor | None, variance: Tensor | None, momentum: float
) -> tuple[Tensor, Tensor]:
    """Returns the mean and the biased variance of each channel of [N, C, *S], each [C]."""
    del mean, variance, momentum
    dims = (0, *range(2, inputs.dim()))
    centre = inputs.mean(dims, keepdim=True)
    return centre.flatten(), (inputs - centre).square().mean(dims)


def lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """Interpolates as torch's kernel does, which rounds the weight to the type of the tensors.

    torch's own decomposition does not, and copies strides, which ONNX cannot.
    """
    kind = np.float64 if start.dtype == torch.float64 else np.float32
    rounded = kind(weight)
    if abs(rounded) < 0.5:
        return start + float(rounded) * (end - start)
    return end - (end - start) * float(kind(1) - rounded)


_OWN: dict[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: convolution_backward,
    aten.max_pool2d_with_indices_backward.default: max_pool2d_with_indices_backward,
    aten.batch_norm_update_stats.default: batch_norm_update_stats,
    aten.lerp.Scalar: lerp,
}


@functools.cache
def translations() -> dict[Any, Any]:
    """Returns ONNX functions for the operators that torch's exporter does not translate.

    Raises:
        SettingsError: The extra "onnx" is not installed.
    """
    import_extra("onnxscript", "onnx")
    from metarl.deploy.export import onnx_functions

    return {
        aten.linalg_cholesky_ex.default: onnx_functions.cholesky_ex,
        aten.cholesky_solve.default: onnx_functions.cholesky_solve,
        aten.linalg_inv_ex.default: onnx_functions.inv_ex,
        aten.sort.stable: onnx_functions.stable_sort,
    }
