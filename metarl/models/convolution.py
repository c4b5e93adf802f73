"""Grouped convolution and channel moments with derivatives of any order that are fast on a CPU.

A convolution y = w * x defines the trilinear form F(g, x, w) = <g, w * x>. Its gradients are the
output dF/dg = w * x, the input gradient dF/dx, from (g, w), and the weight gradient dF/dw, from
(g, x). The gradient of each of these three is computed by the other two, so torch's own second
derivative, which loops over the groups of a grouped convolution, is never used. Gradients that are
not needed are not computed. Under `vmap`, tasks are groups.

`torch.compile` computes wrong second derivatives of these functions (torch 2.13); compile the
captured operations instead, as `metarl.training.compilation` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from metarl.models.folding import (
    Fold,
    fold_arguments,
    fold_filters,
    fold_images,
    unfold_filters,
    unfold_images,
)

Sizes = int | tuple[int, ...]
"""A number for all spatial dimensions, or one for each."""

CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
"""Number of dimensions of the inputs -> the convolution."""


class Geometry(NamedTuple):
    """Hyperparameters of a grouped convolution.

    Attributes:
        groups: Number of groups of channels, each with separate filters.
        stride: Step between two positions of a filter, in pixels.
        padding: Rows and columns of zeros on each side, in pixels.
        dilation: Distance between two elements of a filter, in pixels.
    """

    groups: int
    stride: Sizes
    padding: Sizes
    dilation: Sizes = 1


def grouped_conv(inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Convolves each group of channels with its filters, in 1 to 3 spatial dimensions.

    Under `torch.autocast` it computes in the type of the weight: CPUs have no grouped convolution
    in bfloat16.

    Args:
        inputs: Shape [N, groups * in, *S].
        weight: Shape [groups * out, in, *k].
        geometry: Groups, stride, padding and dilation.

    Returns:
        Shape [N, groups * out, *S'].
    """
    kind = inputs.device.type
    if torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return _Output.apply(inputs.to(weight.dtype), weight, geometry)
    return _Output.apply(inputs, weight, geometry)


def transposed_conv(
    inputs: Tensor, weight: Tensor, geometry: Geometry, output_padding: tuple[int, ...]
) -> Tensor:
    """Computes the transposed convolution of each group: the input gradient of a convolution.

    Args:
        inputs: Shape [N, groups * in, *S].
        weight: Shape [groups * in, out, *k].
        geometry: That of the convolution whose outputs have the shape of `inputs`.
        output_padding: Rows and columns added to each dimension of the result.

    Returns:
        Shape [N, groups * out, *S'].
    """
    _, stride, padding, dilation = geometry
    dims = inputs.dim() - 2
    sizes = zip(
        inputs.shape[2:], weight.shape[2:], *map(_each, (stride, padding, dilation), [dims] * 3),
        output_padding, strict=True,
    )  # fmt: skip
    # S' = (S - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1
    spatial = [(n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, k, s, p, d, more in sizes]
    channels = geometry.groups * weight.shape[1]
    like = inputs.new_empty(1).expand(inputs.shape[0], channels, *spatial)
    return _InputGradient.apply(inputs, weight, like, geometry)


def channel_moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean and the biased variance of each channel of images [N, C, H, W], each [C]."""
    return _Moments.apply(inputs)


def _convolve(inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    groups, stride, padding, dilation = geometry
    convolution = CONVOLUTIONS[inputs.dim()]
    return convolution(inputs, weight, None, stride, padding, dilation, groups)


def _gradients(
    grad: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of inputs, weight and bias; `mask` selects those to compute."""
    stride, padding, dilation = (_each(sizes, inputs.dim() - 2) for sizes in geometry[1:])
    return torch.ops.aten.convolution_backward(
        grad, inputs, weight, None, stride, padding, dilation, False, [0] * len(stride),
        geometry.groups, mask,
    )  # fmt: skip


def _each(sizes: Sizes, dimensions: int) -> list[int]:
    return [sizes] * dimensions if isinstance(sizes, int) else list(sizes)


class _TrilinearForm(Function):
    """Base of the three gradients of F(g, x, w); an argument `like` has the result's shape."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        *tensors, ctx.geometry = inputs
        ctx.save_for_backward(*tensors)


def _of_all_tasks(
    form: type[_TrilinearForm], info: Any, dims: Sequence[int | None], tensors: Sequence[Tensor],
    folds: Sequence[Fold], geometry: Geometry,
) -> Tensor:  # fmt: skip
    """Computes a form for the tasks of `vmap`, which become groups."""
    tasks = info.batch_size
    folded = fold_arguments(tasks, dims[: len(tensors)], tensors, folds)
    return form.apply(*folded, geometry._replace(groups=tasks * geometry.groups))


class _Output(_TrilinearForm):
    """dF/dg: the output w * x."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        return _convolve(inputs, weight, geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        need_inputs, need_weight, _ = ctx.needs_input_grad
        return (
            _InputGradient.apply(grad, weight, inputs, ctx.geometry) if need_inputs else None,
            _WeightGradient.apply(grad, inputs, weight, ctx.geometry) if need_weight else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Any:
        folds = (fold_images, fold_filters)
        output = _of_all_tasks(_Output, info, in_dims, (inputs, weight), folds, geometry)
        return unfold_images(output, info.batch_size), 0


class _InputGradient(_TrilinearForm):
    """dF/dx: the gradient of the input, given that of the output."""

    @staticmethod
    def forward(grad: Tensor, weight: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
        return _gradients(grad, like, weight, geometry, [True, False, False])[0]

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        grad, weight, _ = ctx.saved_tensors
        need_grad, need_weight, *_ = ctx.needs_input_grad
        return (
            _Output.apply(tangent, weight, ctx.geometry) if need_grad else None,
            _WeightGradient.apply(grad, tangent, weight, ctx.geometry) if need_weight else None,
            None,
            None,
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, grad: Tensor, weight: Tensor, like: Tensor, geometry: Geometry
    ) -> Any:
        tensors, folds = (grad, weight, like), (fold_images, fold_filters, fold_images)
        gradient = _of_all_tasks(_InputGradient, info, in_dims, tensors, folds, geometry)
        return unfold_images(gradient, info.batch_size), 0


class _WeightGradient(_TrilinearForm):
    """dF/dw: the gradient of the weight, given that of the output."""

    @staticmethod
    def forward(grad: Tensor, inputs: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
        return _gradients(grad, inputs, like, geometry, [False, True, False])[1]

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        grad, inputs, _ = ctx.saved_tensors
        need_grad, need_inputs, *_ = ctx.needs_input_grad
        return (
            _Output.apply(inputs, tangent, ctx.geometry) if need_grad else None,
            _InputGradient.apply(grad, tangent, inputs, ctx.geometry) if need_inputs else None,
            None,
            None,
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, grad: Tensor, inputs: Tensor, like: Tensor, geometry: Geometry
    ) -> Any:
        tensors, folds = (grad, inputs, like), (fold_images, fold_images, fold_filters)
        gradient = _of_all_tasks(_WeightGradient, info, in_dims, tensors, folds, geometry)
        return unfold_filters(gradient, info.batch_size), 0


class _Moments(Function):
    @staticmethod
    def forward(inputs: Tensor) -> tuple[Tensor, Tensor]:
        # The kernel of torch's batch norm: 40 times as fast as `var_mean` for channels last.
        return torch.batch_norm_update_stats(inputs, None, None, 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:
        # dL/dx = dL/dmean / n + dL/dvariance * 2 (x - mean) / n
        inputs, mean = ctx.saved_tensors
        count = inputs.numel() // inputs.shape[1]
        slope = grad_variance * (2 / count)
        offset = grad_mean / count - slope * mean
        return torch.addcmul(offset[:, None, None], inputs, slope[:, None, None])

    @staticmethod
    def vmap(info: Any, in_dims: Any, inputs: Tensor) -> Any:
        tasks = info.batch_size
        moments = _Moments.apply(*fold_arguments(tasks, in_dims, [inputs], [fold_images]))
        return tuple(m.unflatten(0, (tasks, -1)) for m in moments), (0, 0)
