"""Tensors of T tasks folded into channels, so that one call of torch's kernels computes all tasks.

Images [T, N, C, *S] become [N, T * C, *S]; filters [T, out, in, *k] become [T * out, in, *k]. With
two spatial dimensions both are channels last in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Fold = Callable[[Tensor], Tensor]
"""`fold_images` or `fold_filters`."""


def fold_images(images: Tensor) -> Tensor:
    """Folds the task dimension into the channels: [T, N, C, *S] -> [N, T * C, *S]."""
    if images.dim() == 5:
        return images.permute(1, 3, 4, 0, 2).flatten(3).permute(0, 3, 1, 2)
    return images.transpose(0, 1).flatten(1, 2)


def unfold_images(folded: Tensor, num_tasks: int) -> Tensor:
    """Inverse of `fold_images`: [N, T * C, *S] -> [T, N, C, *S]."""
    return folded.unflatten(1, (num_tasks, -1)).transpose(0, 1)


def fold_filters(weight: Tensor) -> Tensor:
    """Folds the task dimension into the filters: [T, out, in, *k] -> [T * out, in, *k]."""
    if weight.dim() != 5:
        return weight.flatten(0, 1)
    moved = weight.permute(0, 1, 3, 4, 2)
    if weight.shape[2] == 1:  # torch reads the layout from the stride of this dimension, too
        moved = moved.clone(memory_format=torch.contiguous_format)
    return moved.flatten(0, 1).permute(0, 3, 1, 2)


def unfold_filters(folded: Tensor, num_tasks: int) -> Tensor:
    """Inverse of `fold_filters`: [T * out, in, *k] -> [T, out, in, *k]."""
    return folded.unflatten(0, (num_tasks, -1))


def fold_arguments(
    num_tasks: int, dims: Sequence[int | None], tensors: Sequence[Tensor], folds: Sequence[Fold]
) -> list[Tensor]:
    """Folds the tensors that a batching rule of `vmap` receives.

    Args:
        num_tasks: Number of tasks, T.
        dims: The dimension of tasks of each tensor; None: all tasks have the same tensor.
        tensors: The tensors.
        folds: `fold_images` or `fold_filters` for each.
    """
    return [
        fold(t.expand(num_tasks, *t.shape) if dim is None else t.movedim(dim, 0))
        for t, dim, fold in zip(tensors, dims, folds, strict=True)
    ]
