"""Tells a user what their own task distribution gets wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import MetarlError, TaskError
from metarl.tasks.base import SPLITS, Examples, TaskBatch

NUM_TASKS = 16
SPLIT_BATCHES = 4  # batches of NUM_TASKS by which splits are compared


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
        problems += _contents(distribution.sample(NUM_TASKS, _generator(seed)))
        problems += _randomness(distribution, seed)
        problems += _splits(distribution, seed, require_splits)
    if problems:
        name = type(distribution).__name__
        listing = "\n".join(f"- {p}" for p in dict.fromkeys(problems))
        raise TaskError(f"{name} is not a usable task distribution:\n{listing}")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _interface(distribution: Any) -> Iterator[str]:
    for method in ("sample", "split"):
        if not callable(getattr(distribution, method, None)):
            yield f"it lacks the method `{method}`"


# Structure: what is wrong here would make the other checks fail in ways that help nobody.


def _structure(distribution: Any, seed: int) -> Iterator[str]:
    for num_tasks in (1, 3, NUM_TASKS):
        tasks = distribution.sample(num_tasks, _generator(seed))
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
    return all(_rows(query) <= _rows(support) for support, query in pairs)


def _randomness(distribution: Any, seed: int) -> Iterator[str]:
    state = _global_states()
    first = distribution.sample(NUM_TASKS, _generator(seed))
    if state != _global_states():
        yield "it draws from a global random state; draw from the generator that is passed in"
    generator = _generator(seed)
    again = distribution.sample(NUM_TASKS, generator)
    if not _equal(first, again):
        yield "the same generator state gives other tasks; draw from the generator only"
    if _equal(again, distribution.sample(NUM_TASKS, generator)):
        yield "a generator that has moved on gives the same tasks; draw from it"


# Splits


def _splits(distribution: Any, seed: int, required: bool) -> Iterator[str]:
    seen: dict[str, set[bytes]] = {}
    for number, name in enumerate(SPLITS):
        try:
            fingerprints = _split_fingerprints(distribution.split(name), seed, number)
        except MetarlError as error:
            if required:
                yield f"split({name!r}) cannot be sampled: {error}"
            continue
        for other, known in seen.items():
            if known & fingerprints:
                yield f"splits {other!r} and {name!r} share tasks; make them disjoint"
        seen[name] = fingerprints
    try:
        distribution.split("no such split")
    except (MetarlError, ValueError, KeyError):
        return
    yield "split must refuse a name that is no split"


def _split_fingerprints(distribution: Any, seed: int, number: int) -> set[bytes]:
    """Returns the fingerprints of tasks of split `number`.

    Whole numbers tell of a finite set of tasks: the same seed for all splits shows best whether
    they share any. Continuous draws never repeat, so splits may be one and the same distribution:
    with one seed the same tasks would come out of each, hence another seed for each.
    """
    info = distribution.sample(1, _generator(seed)).info
    finite = bool(info) and not any(v.is_floating_point() for v in info.values())
    generator = _generator(seed if finite or "classes" in info else seed + number)
    batches = (distribution.sample(NUM_TASKS, generator) for _ in range(SPLIT_BATCHES))
    return set().union(*map(_fingerprints, batches))


def _fingerprints(tasks: TaskBatch) -> set[bytes]:
    """Returns what tells each task apart: its info where there is one, else its support set.

    Class indices and the like are compared one by one: two episodes share a class, not a set.
    """
    if "classes" in tasks.info:
        return _rows(tasks.info["classes"].flatten())
    source = list(tasks.info.values()) or list(tasks.support)
    return _rows(torch.cat([t.reshape(len(t), -1).double() for t in source], dim=1))


# Parts


def _tensors(tasks: TaskBatch) -> Iterator[tuple[str, Tensor]]:
    yield "support.inputs", tasks.support.inputs
    yield "support.targets", tasks.support.targets
    yield "query.inputs", tasks.query.inputs
    yield "query.targets", tasks.query.targets
    for name, value in tasks.info.items():
        yield f"info[{name!r}]", value


def _equal(a: TaskBatch, b: TaskBatch) -> bool:
    first, second = dict(_tensors(a)), dict(_tensors(b))
    return first.keys() == second.keys() and all(
        np.array_equal(first[n].detach(), second[n].detach(), equal_nan=True) for n in first
    )


def _rows(values: Tensor) -> set[bytes]:
    return {row.tobytes() for row in values.detach().numpy()}


def _global_states() -> tuple[Any, ...]:
    numpy_state = np.random.get_state(legacy=True)
    parts = (s.tobytes() if isinstance(s, np.ndarray) else s for s in numpy_state)
    return (torch.random.get_rng_state().numpy().tobytes(), random.getstate(), *parts)
