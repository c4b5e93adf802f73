"""Max-pooling with a batching rule for `vmap` that keeps the layout of folded images.

The rule of torch moves the tasks to the images, which copies what a convolution of many tasks
computed; the rule here folds them into the channels, as convolutions do (`metarl.models.folding`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function

from metarl.models.folding import fold_arguments, fold_images, unfold_images


class Windows(NamedTuple):
    """Hyperparameters of `F.max_pool2d`: a number per spatial dimension."""

    kernel_size: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    ceil_mode: bool


def max_pool(images: Tensor, windows: Windows) -> Tensor:
    """Applies max-pooling to images [N, C, H, W], with derivatives of any order."""
    return _Maxima.apply(images, windows)[0]


class _Maxima(Function):
    """The maximum of each window and its index in the image, both [N, C, H', W']."""

    @staticmethod
    def forward(images: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.max_pool2d_with_indices(images, *windows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        images, ctx.windows = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(images, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        return _AtMaxima.apply(grad, *ctx.saved_tensors, ctx.windows), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, images: Tensor, windows: Windows) -> Any:
        tasks = info.batch_size
        folded = fold_arguments(tasks, in_dims[:1], [images], [fold_images])
        maxima, indices = _Maxima.apply(*folded, windows)
        return (unfold_images(maxima, tasks), unfold_images(indices, tasks)), (0, 0)


class _AtMaxima(Function):
    """Sums the values of the windows at the places of their maxima: the gradient of `_Maxima`."""

    @staticmethod
    def forward(values: Tensor, images: Tensor, indices: Tensor, windows: Windows) -> Tensor:
        return torch.ops.aten.max_pool2d_with_indices_backward(values, images, *windows, indices)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        taken = tangent.flatten(2).gather(2, indices.flatten(2))
        return taken.view_as(indices), None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, values: Tensor, images: Tensor, indices: Tensor, windows: Windows
    ) -> Any:
        tasks = info.batch_size
        tensors = (values, images, indices)
        folded = fold_arguments(tasks, in_dims[:3], tensors, [fold_images] * 3)
        return unfold_images(_AtMaxima.apply(*folded, windows), tasks), 0
