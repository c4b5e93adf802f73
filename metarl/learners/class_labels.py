"""Support sets of classes: how many there are, who belongs to which, and what is refused."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.errors import TaskError
from metarl.tasks.base import Examples


def count_classes(*targets: Tensor) -> int:
    """Returns the number of classes that labels [T, N] name.

    Raises:
        TaskError: The targets are no class labels.
    """
    for labels in targets:
        if labels.is_floating_point() or labels.dim() != 2:
            raise TaskError(
                "This learner tells classes apart: expected integer labels [T, N], got "
                f"{labels.dtype} {tuple(labels.shape)}. Use a gradient-based learner for values."
            )
    return 1 + max(int(labels.max()) for labels in targets)


def memberships(support: Examples, way: int) -> Tensor:
    """Returns the classes of the support as rows of 0 and 1, [T, N, way], float32."""
    return one_hot(support.targets, way, support.inputs.dtype)


def one_hot(labels: Tensor, way: int, dtype: torch.dtype) -> Tensor:
    """Returns labels [T, N] as rows of 0 and 1, [T, N, way]; unlike torch's it can be compiled."""
    return (labels.unsqueeze(2) == torch.arange(way, device=labels.device)).to(dtype)


def check_classes(support: Examples, way: int) -> None:
    """Raises TaskError unless each task has support examples of the classes 0 to way - 1."""
    lacking = (memberships(support, way).sum(1) == 0).nonzero()
    if len(lacking):
        task, label = lacking[0].tolist()
        raise TaskError(
            f"Expected support examples of the classes 0 to {way - 1} in every task; task {task} "
            f"has none of class {label}. Number the classes of each task from 0, without gaps."
        )


def check_way(way: int, *targets: Tensor) -> None:
    """Raises TaskError unless labels [T, N] name `way` classes, an output for each."""
    named = count_classes(*targets)
    if named != way:
        raise TaskError(
            f"Expected {way} classes, an output of the network for each, got {named}. Build the "
            "learner for their number, or take a metric learner, which suits any."
        )


def check_equal_shots(support: Examples, way: int) -> int:
    """Returns the support examples of each class.

    Raises:
        TaskError: A class is missing, or some have more examples than others.
    """
    check_classes(support, way)
    counts = memberships(support, way).sum(1)
    unequal = (counts != counts[0, 0]).nonzero()
    if len(unequal):
        task, label = unequal[0].tolist()
        raise TaskError(
            f"Expected {int(counts[0, 0])} support examples of every class, as of class 0 of task "
            f"0; task {task} has {int(counts[task, label])} of class {label}. Take as many of "
            "each, or a metric learner, which suits unequal shots."
        )
    return int(counts[0, 0])
