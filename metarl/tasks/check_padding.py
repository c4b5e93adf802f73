"""Checks of the weights of padded tasks and of the masks of padded sequences."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from metarl.tasks.base import Examples


def real(examples: Examples) -> Tensor:
    """Returns which examples count, those of weight above 0, bool [T, N]."""
    if examples.weights is None:
        shape, device = examples.targets.shape[:2], examples.targets.device
        return torch.ones(shape, dtype=torch.bool, device=device)
    return examples.weights > 0


def padding_shapes(name: str, examples: Examples) -> Iterator[str]:
    """Checks types and shapes of weights and mask; yields a description of each problem."""
    inputs, weights, mask = examples.inputs, examples.weights, examples.mask
    if weights is not None and weights.dtype != torch.float32:
        yield f"{name}.weights must be float32, got {weights.dtype}"
    if weights is not None and weights.shape != inputs.shape[:2]:
        yield (
            f"{name}.weights must be [T, N], one for each example, {tuple(inputs.shape[:2])}, got "
            f"{tuple(weights.shape)}"
        )
    if mask is not None and mask.dtype != torch.bool:
        yield f"{name}.mask must be bool, got {mask.dtype}"
    if mask is not None and mask.shape != inputs.shape[:3]:
        yield (
            f"{name}.mask must be [T, N, L], one for each element of a sequence, "
            f"{tuple(inputs.shape[:3])}, got {tuple(mask.shape)}"
        )


def padding_contents(name: str, examples: Examples) -> Iterator[str]:
    """Checks the values of weights and mask; yields a description of each problem."""
    kept, mask = real(examples), examples.mask
    if examples.weights is not None:
        if (examples.weights < 0).any():
            yield f"{name}.weights must not be negative"
        if not kept.any(1).all():
            yield f"{name} has a task without an example of positive weight"
        if examples.inputs[~kept].any() or examples.targets[~kept].any():
            yield f"{name} has examples of weight 0 whose inputs or targets are not 0"
    if mask is not None:
        if not mask.any(2)[kept].all():
            yield f"{name}.mask hides all elements of an example"
        if mask[~kept].any():
            yield f"{name}.mask shows elements of an example of weight 0"
        if examples.inputs[~mask].any():
            yield f"{name} has inputs that are not 0 where the mask is False"
