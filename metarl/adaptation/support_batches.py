"""Batches of the support set for the steps of the inner loop."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.tasks.base import Examples


def draw_batches(
    support: Examples, size: int | None, steps: int, generator: torch.Generator
) -> Tensor | None:
    """Draws the support examples of each step, without replacement, reshuffled after each pass.

    A pass of a task goes through its examples of weight above 0. A task with fewer of them than
    `size` takes all of them in each step, and padding rows of weight 0 for the rest.

    Args:
        support: The support set of T tasks, N examples each.
        size: Examples per step; None for all.
        steps: Number of steps.
        generator: The only source of randomness.

    Returns:
        Indices of examples, [T, steps, size], int64; None where each step takes all examples.
    """
    num_tasks, count = support.targets.shape[:2]
    if size is None or size >= count or steps == 0:
        return None
    if support.weights is not None:
        return _draw_weighted(support.weights > 0, size, steps, generator)
    passes = -(-steps * size // count)
    keys = torch.rand(num_tasks, passes, count, generator=generator, device=generator.device)
    order = keys.argsort(dim=2).flatten(1)
    return order[:, : steps * size].view(num_tasks, steps, size)


def select(examples: Examples, index: Tensor) -> Examples:
    """Returns the examples [T, batch, *] at `index` [T, batch]."""
    rows = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
    inputs, targets = examples.inputs[rows, index], examples.targets[rows, index]
    weights, mask = examples.weights, examples.mask
    if weights is None and mask is None:
        return Examples(inputs, targets)
    return Examples(
        inputs,
        targets,
        None if weights is None else weights[rows, index],
        None if mask is None else mask[rows, index],
    )


def _draw_weighted(real: Tensor, size: int, steps: int, generator: torch.Generator) -> Tensor:
    """Draws batches of the examples that are real, [T, N] bool; [T, steps, size]."""
    num_tasks, count = real.shape
    counts = real.sum(1)
    per_pass = counts.clamp(min=size)  # of a small task: all its examples, then padding
    passes = -(-steps * size // int(per_pass.min()))
    keys = torch.rand(num_tasks, passes, count, generator=generator, device=generator.device)
    order = (keys + (~real).unsqueeze(1)).argsort(dim=2)  # padding comes last
    positions = torch.arange(steps * size, device=real.device)
    # The i-th example is that of rank i mod n in pass i div n, for n real examples.
    passed = positions // per_pass.unsqueeze(1)
    ranks = positions % per_pass.unsqueeze(1)
    rows = torch.arange(num_tasks, device=real.device).unsqueeze(1)
    return order[rows, passed, ranks].view(num_tasks, steps, size)
