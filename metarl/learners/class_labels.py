"""Class labels of episodes: numbers of classes, one-hot encoding, and checks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from metarl.errors import TaskError
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import label_range


def count_classes(*targets: Tensor) -> int:
    """Returns the number of classes: 1 plus the largest label.

    Args:
        targets: Labels, each tensor [T, N], int64 from 0.

    Raises:
        TaskError: The targets are not class labels, or a label is below 0.
    """
    for labels in targets:
        if labels.is_floating_point() or labels.dim() != 2:
            raise TaskError(
                f"Expected integer class labels [T, N], got {labels.dtype} {tuple(labels.shape)}. "
                "Use a gradient-based learner for regression."
            )
    low, high = label_range(*targets)
    if low < 0:
        raise TaskError(
            f"Expected class labels from 0, got {low}. Number the classes of each task from 0; no "
            "label marks an example as ignored: leave such examples out."
        )
    return 1 + high


def memberships(support: Examples, way: int) -> Tensor:
    """Returns the one-hot labels of the support set, [T, N, way], in the dtype of the inputs.

    Each row is multiplied by the weight of its example.
    """
    rows = one_hot(support.targets, way, support.inputs.dtype)
    return rows if support.weights is None else rows * support.weights.unsqueeze(2)


def one_hot(labels: Tensor, way: int, dtype: torch.dtype) -> Tensor:
    """Returns labels [T, N] as one-hot rows [T, N, way]; compilable, unlike `F.one_hot`."""
    return (labels.unsqueeze(2) == torch.arange(way, device=labels.device)).to(dtype)


def check_classes(support: Examples, way: int) -> None:
    """Raises TaskError unless each task has support examples of the classes 0 to way - 1."""
    count = support.targets.shape[1]
    if way > count:
        raise TaskError(
            f"Expected support examples of the classes 0 to {way - 1} in every task, got {count} "
            "examples per task. Number the classes of each task from 0, without gaps."
        )
    missing = (memberships(support, way).sum(1) == 0).nonzero()
    if len(missing):
        task, label = missing[0].tolist()
        raise TaskError(
            f"Expected support examples of the classes 0 to {way - 1} in every task; task {task} "
            f"has none of class {label}. Number the classes of each task from 0, without gaps."
        )


def check_way(way: int, *targets: Tensor) -> None:
    """Raises TaskError unless labels [T, N] have the `way` classes that a network is built for."""
    num_classes = count_classes(*targets)
    if num_classes != way:
        raise TaskError(
            f"Expected {way} classes, for which the network is built, got {num_classes}. "
            "Build the learner for that number, or use a metric learner, which accepts any."
        )


def check_equal_shots(support: Examples, way: int) -> int:
    """Returns the number of support examples per class.

    Raises:
        TaskError: A class is missing, or classes have different numbers of examples.
    """
    check_classes(support, way)
    counts = memberships(support, way).sum(1)
    unequal = (counts != counts[0, 0]).nonzero()
    if len(unequal):
        task, label = unequal[0].tolist()
        raise TaskError(
            f"Expected {int(counts[0, 0])} support examples of every class, as in class 0 of task "
            f"0; task {task} has {int(counts[task, label])} of class {label}. Use equal shots, or "
            "a metric learner, which accepts unequal ones."
        )
    return int(counts[0, 0])


def on_random_outputs(
    tasks: TaskBatch, way: int, outputs: int, generator: torch.Generator
) -> TaskBatch:
    """Assigns the classes of each task to different random outputs of a network.

    A network of 20 outputs learns from tasks of 5 classes in this way. Draws nothing where there
    are as many classes as outputs.

    Args:
        tasks: Tasks with labels from 0 to `way` - 1.
        way: Classes of each task.
        outputs: Outputs of the network, at least `way`.
        generator: Source of the outputs.

    Returns:
        The same tasks with labels from 0 to `outputs` - 1.
    """
    if way == outputs:
        return tasks
    shape, device = (tasks.num_tasks, outputs), generator.device
    chosen = torch.rand(shape, generator=generator, device=device).argsort(1)
    support, query = (
        part._replace(targets=chosen.gather(1, part.targets))
        for part in (tasks.support, tasks.query)
    )
    return replace(tasks, support=support, query=query)
