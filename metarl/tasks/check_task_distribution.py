"""Tells a user what their own task distribution gets wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metarl.errors import TaskError
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.check_sampling import NUM_TASKS, randomness, rows, seeded, splits


def check_task_distribution(distribution: Any, seed: int = 0, require_splits: bool = True) -> None:
    """Checks a task distribution against the protocol `TaskDistribution`.

    It samples, compares and looks at: shapes and types, finite values, the tasks leading every
    tensor, the same generator state giving the same tasks and another one giving others, no use of
    global random states, support apart from query, every class of the query in the support, tasks
    that differ, and splits that share no task.

    Splits are compared by what `TaskBatch.info` tells: class by class where it has "classes",
    task by task else. Without info, tasks are told apart by their support sets; then a finite set
    of tasks whose examples are drawn anew each time cannot be seen to be in two splits.

    Args:
        distribution: An object with `sample` and `split`.
        seed: Seed of the checks.
        require_splits: False for a distribution that has no tasks for some of its splits: those
            that raise an error of MetaRL are passed over.

    Raises:
        TaskError: Something is wrong; the message lists all that was found.
    """
    problems = list(_interface(distribution)) or list(_structure(distribution, seed))
    if not problems:
        problems += _contents(distribution.sample(NUM_TASKS, seeded(seed)))
        problems += randomness(distribution, seed)
        problems += splits(distribution, seed, require_splits)
    if problems:
        name = type(distribution).__name__
        listing = "\n".join(f"- {p}" for p in dict.fromkeys(problems))
        raise TaskError(f"{name} is not a usable task distribution:\n{listing}")


def _interface(distribution: Any) -> Iterator[str]:
    for method in ("sample", "split"):
        if not callable(getattr(distribution, method, None)):
            yield f"it lacks the method `{method}`"


# Structure: what is wrong here would make the other checks fail in ways that help nobody.


def _structure(distribution: Any, seed: int) -> Iterator[str]:
    for num_tasks in (1, 3, NUM_TASKS):
        tasks = distribution.sample(num_tasks, seeded(seed))
        if not isinstance(tasks, TaskBatch):
            yield f"`sample` must return a TaskBatch, got {type(tasks).__name__}"
            return
        problems = list(_parts(tasks)) or [*_tasks_lead(tasks, num_tasks), *_shapes(tasks)]
        yield from problems
        if problems:
            return


def _parts(tasks: TaskBatch) -> Iterator[str]:
    parts = (("support", tasks.support), ("query", tasks.query))
    wrong = [(n, v) for n, v in parts if not isinstance(v, Examples)]
    for name, value in wrong:
        yield f"{name} must be Examples(inputs, targets), got {type(value).__name__}"
    if wrong:
        return
    for name, tensor in _tensors(tasks):
        if not isinstance(tensor, Tensor):
            yield f"{name} must be a tensor, got {type(tensor).__name__}"
        elif tensor.device.type != "cpu":
            yield f"{name} must be on the generator's device, cpu, got {tensor.device}"


def _tasks_lead(tasks: TaskBatch, num_tasks: int) -> Iterator[str]:
    for name, tensor in _tensors(tasks):
        if tensor.shape[:1] != (num_tasks,):
            yield f"{name} must have the {num_tasks} tasks leading, got {tuple(tensor.shape)}"


def _shapes(tasks: TaskBatch) -> Iterator[str]:
    for name, (inputs, targets) in (("support", tasks.support), ("query", tasks.query)):
        if inputs.dim() < 2 or inputs.shape[:2] != targets.shape[:2]:
            yield (
                f"{name} needs as many targets as inputs, [T, N, ...] each, got "
                f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
            )
        elif inputs.dim() < 3:
            yield f"{name}.inputs must be [T, N, *input], got {tuple(inputs.shape)}"
        elif inputs.shape[1] < 1:
            yield f"{name} has no examples"
        if targets.dtype == torch.int64 and targets.dim() != 2:
            yield f"{name}.targets are class labels and must be [T, N], got {tuple(targets.shape)}"
        if inputs.dtype != torch.float32:
            yield f"{name}.inputs must be float32, got {inputs.dtype}"
        if targets.dtype not in (torch.float32, torch.int64):
            yield f"{name}.targets must be float32 or int64, got {targets.dtype}"
    if tasks.support.inputs.shape[2:] != tasks.query.inputs.shape[2:]:
        yield "support and query inputs must have one shape per example"
    if tasks.support.targets.shape[2:] != tasks.query.targets.shape[2:]:
        yield "support and query targets must have one shape per example"
    if tasks.support.targets.dtype != tasks.query.targets.dtype:
        yield "support and query targets must have one type"


# Contents


def _contents(tasks: TaskBatch) -> Iterator[str]:
    for name, tensor in _tensors(tasks):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            yield f"{name} holds values that are infinite or not a number"
    targets, queried = tasks.support.targets, tasks.query.targets
    if _repeats(tasks):
        yield "query must be held out, but it repeats the inputs of support"
    if not targets.is_floating_point():
        if min(int(targets.min()), int(queried.min())) < 0:
            yield "class labels must be 0 or more"
        missing = ~(queried.unsqueeze(2) == targets.unsqueeze(1)).any(2)
        if missing.any():
            yield "query holds classes that the support of the same task lacks"
    telling = list(tasks.info.values()) or [t for _, t in _tensors(tasks)]
    if all((t == t[:1]).all() for t in telling):
        yield "all tasks of a batch are the same one"


def _repeats(tasks: TaskBatch) -> bool:
    """Tells whether every query input of every task is among the support inputs, in any order."""
    pairs = zip(tasks.support.inputs, tasks.query.inputs, strict=True)
    return all(rows(query) <= rows(support) for support, query in pairs)


def _tensors(tasks: TaskBatch) -> Iterator[tuple[str, Tensor]]:
    yield "support.inputs", tasks.support.inputs
    yield "support.targets", tasks.support.targets
    yield "query.inputs", tasks.query.inputs
    yield "query.targets", tasks.query.targets
    for name, value in tasks.info.items():
        yield f"info[{name!r}]", value
