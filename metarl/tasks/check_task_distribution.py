"""Checker of user-defined supervised task distributions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metarl.errors import TaskError
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.check_padding import padding_contents, padding_shapes, real
from metarl.tasks.check_sampling import (
    NUM_TASKS,
    described_errors,
    randomness,
    rows,
    seeded,
    splits,
)


def check_task_distribution(distribution: Any, seed: int = 0, require_splits: bool = True) -> None:
    """Checks that a task distribution follows the protocol `TaskDistribution`.

    It samples tasks and checks that:

    - shapes and types are right, all values are finite and every tensor has a leading task
      dimension;
    - weights are not negative, every task has examples of positive weight in support and query,
      examples of weight 0 have inputs of zeros and target 0, and what a mask hides is 0;
    - the same generator state yields the same tasks, another state yields other tasks, and no
      global random state is used;
    - the query differs from the support, and the support has every class of the query;
    - the tasks of a batch differ, and the splits share no task.

    Splits are compared by `TaskBatch.info`: class by class if it has "classes", task by task
    otherwise. Without info, tasks are identified by their support sets. A finite set of tasks
    whose examples are random then escapes the check that splits are disjoint.

    Args:
        distribution: An object with `sample` and `split`.
        seed: Seed of the checks.
        require_splits: False for a distribution that has no tasks in some of its splits: splits
            that raise a `MetarlError` are skipped.

    Raises:
        TaskError: If a check fails; the message lists all problems.
    """
    problems = list(_interface(distribution))
    problems = problems or list(described_errors(_structure(distribution, seed)))
    if not problems:
        problems += described_errors(_content(distribution, seed))
        problems += splits(distribution, seed, require_splits)
    if problems:
        name = type(distribution).__name__
        listing = "\n".join(f"- {p}" for p in dict.fromkeys(problems))
        raise TaskError(f"{name} is not a usable task distribution:\n{listing}")


def _interface(distribution: Any) -> Iterator[str]:
    for method in ("sample", "split"):
        if not callable(getattr(distribution, method, None)):
            yield f"it lacks the method `{method}`"


def _structure(distribution: Any, seed: int) -> Iterator[str]:
    """Checks types, devices and shapes; the other checks rely on these."""
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
    yield from _shapes_of_set("support", tasks.support)
    yield from _shapes_of_set("query", tasks.query)
    yield from _differences_of_sets(tasks)


def _shapes_of_set(name: str, examples: Examples) -> Iterator[str]:
    inputs, targets = examples.inputs, examples.targets
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
    if inputs.dtype not in (torch.float32, torch.int64):
        yield f"{name}.inputs must be float32, got {inputs.dtype}"
    if targets.dtype not in (torch.float32, torch.int64):
        yield f"{name}.targets must be float32 or int64, got {targets.dtype}"
    yield from padding_shapes(name, examples)


def _differences_of_sets(tasks: TaskBatch) -> Iterator[str]:
    if tasks.support.inputs.shape[2:] != tasks.query.inputs.shape[2:]:
        yield "support and query inputs must have one shape per example"
    if (tasks.support.inputs.dtype == torch.int64) != (tasks.query.inputs.dtype == torch.int64):
        yield (
            "support and query inputs must have one type: float32, or int64 for indices such as "
            "those of characters"
        )
    if tasks.support.targets.shape[2:] != tasks.query.targets.shape[2:]:
        yield "support and query targets must have one shape per example"
    if tasks.support.targets.dtype != tasks.query.targets.dtype:
        yield "support and query targets must have one type"
    if (tasks.support.mask is None) != (tasks.query.mask is None):
        yield "support and query must both have a mask, or none"


def _content(distribution: Any, seed: int) -> Iterator[str]:
    yield from _contents(distribution.sample(NUM_TASKS, seeded(seed)))
    yield from randomness(distribution, seed)


def _contents(tasks: TaskBatch) -> Iterator[str]:
    for name, tensor in _tensors(tasks):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            yield f"{name} holds values that are infinite or not a number"
    for name, examples in (("support", tasks.support), ("query", tasks.query)):
        yield from padding_contents(name, examples)
    support_targets, query_targets = tasks.support.targets, tasks.query.targets
    if _query_repeats_support(tasks):
        yield "query must be held out, but it repeats the inputs of support"
    if not support_targets.is_floating_point():
        if min(int(support_targets.min()), int(query_targets.min())) < 0:
            yield "class labels must be 0 or more"
        known = support_targets.unsqueeze(1).masked_fill(~real(tasks.support).unsqueeze(1), -1)
        missing = ~(query_targets.unsqueeze(2) == known).any(2) & real(tasks.query)
        if missing.any() and "descriptions" not in tasks.info:
            yield "query holds classes that the support of the same task lacks"
    parameters = list(tasks.info.values()) or [t for _, t in _tensors(tasks)]
    if all((t == t[:1]).all() for t in parameters):
        yield "all tasks of a batch are the same one"


def _query_repeats_support(tasks: TaskBatch) -> bool:
    """Returns whether every query input of every task is also a support input of that task."""
    parts = (
        [inputs[kept] for inputs, kept in zip(part.inputs, real(part), strict=True)]
        for part in (tasks.support, tasks.query)
    )
    return all(rows(query) <= rows(support) for support, query in zip(*parts, strict=True))


def _tensors(tasks: TaskBatch) -> Iterator[tuple[str, Tensor]]:
    for name, examples in (("support", tasks.support), ("query", tasks.query)):
        for field, value in examples._asdict().items():
            if value is not None:
                yield f"{name}.{field}", value
    for name, value in tasks.info.items():
        yield f"info[{name!r}]", value
