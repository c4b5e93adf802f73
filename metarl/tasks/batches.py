"""Checks of the batches that learners receive: types of the tensors and ranges of the labels."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from metarl.errors import ShapeError, TaskError
from metarl.tasks.base import Examples, TaskBatch


def parameter_type(network: nn.Module) -> torch.dtype | None:
    """Returns the type of the first floating-point parameter; None without one."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), None)


def checked_tasks(tasks: TaskBatch, dtype: torch.dtype | None) -> TaskBatch:
    """Returns the tasks with checked support and query sets; see `checked_examples`."""
    support = checked_examples(tasks.support, dtype)
    query = support if tasks.query is tasks.support else checked_examples(tasks.query, dtype)
    if support is tasks.support and query is tasks.query:
        return tasks
    return replace(tasks, support=support, query=query)


def checked_examples(examples: Examples, dtype: torch.dtype | None) -> Examples:
    """Returns the examples with labels as int64, and checks the types without a device sync.

    Args:
        examples: Labels of any integer type or bool, or values of the parameters' type.
        dtype: Type of the learner's parameters, from `parameter_type`; None for any.

    Raises:
        ShapeError: A tensor has another floating-point type than the parameters, is complex, or
            requires gradients.
    """
    inputs, targets = examples.inputs, examples.targets
    check_inputs(inputs, dtype)
    if targets.dtype == torch.int64:
        return examples
    if targets.is_floating_point():
        _check_values("targets", targets, dtype)
        return examples
    if targets.is_complex():
        raise ShapeError(f"Expected labels or real targets, got {targets.dtype}.")
    return examples._replace(targets=targets.long())


def check_inputs(inputs: Tensor, dtype: torch.dtype | None) -> None:
    """Checks the type of inputs; integers are left to the network.

    Raises:
        ShapeError: They have another floating-point type than `dtype`, or require gradients.
    """
    if inputs.is_floating_point():
        _check_values("inputs", inputs, dtype)


def check_labels(bounds: tuple[int, int], classes: int) -> None:
    """Checks the range of labels.

    Args:
        bounds: The smallest and the largest label, from `label_range`.
        classes: Number of outputs of the network.

    Raises:
        TaskError: A label is below 0, or not below `classes`.
    """
    low, high = bounds
    if low < 0 or high >= classes:
        raise TaskError(
            f"Expected labels from 0 to {classes - 1} for {classes} outputs, got {low} to {high}. "
            "Number the classes of each task from 0 (no label marks an example as ignored: leave "
            "such examples out), and give the network an output per class."
        )


def label_range(*targets: Tensor) -> tuple[int, int]:
    """Returns the smallest and the largest label of all int64 tensors, with one device sync."""
    bounds = torch.stack([bound for labels in targets for bound in torch.aminmax(labels)]).tolist()
    return min(bounds), max(bounds)


def _check_values(name: str, values: Tensor, dtype: torch.dtype | None) -> None:
    if values.requires_grad:
        raise ShapeError(
            f"Expected {name} without gradients, got a tensor that requires them: the outer loop "
            f"trains the parameters of the learner only. Pass `{name}.detach()`, or make what "
            "computes them a part of the network."
        )
    if values.dtype != dtype and dtype is not None:
        raise ShapeError(
            f"Expected {name} of the parameters' type {dtype}, got {values.dtype}; convert one of "
            f"them: `{name}.to({dtype})`, or the network by `network.to({values.dtype})`."
        )
