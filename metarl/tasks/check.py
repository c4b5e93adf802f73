"""Tells a user what their own task distribution gets wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import MetarlError, TaskError
from metarl.tasks.base import SPLITS, TaskBatch

NUM_TASKS = 16


def check_task_distribution(distribution: Any, seed: int = 0, require_splits: bool = True) -> None:
    """Checks a task distribution against the protocol `TaskDistribution`.

    It samples, compares and looks at: shapes and types, finite values, the tasks leading every
    tensor, the same generator state giving the same tasks and another one giving others, no use of
    global random states, support apart from query, every class of the query in the support, tasks
    that differ, and splits that share no task.

    Args:
        distribution: An object with `sample` and `split`.
        seed: Seed of the checks.
        require_splits: False for a distribution that has no tasks for some of its splits: those
            that raise an error of MetaRL are passed over.

    Raises:
        TaskError: Something is wrong; the message lists all that was found.
    """
    problems = list(_interface(distribution))
    if not problems:
        problems = [*_samples(distribution, seed), *_randomness(distribution, seed)]
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


def _samples(distribution: Any, seed: int) -> Iterator[str]:
    for num_tasks in (1, 3, NUM_TASKS):
        tasks = distribution.sample(num_tasks, _generator(seed))
        if not isinstance(tasks, TaskBatch):
            yield f"`sample` must return a TaskBatch, got {type(tasks).__name__}"
            return
        yield from _shapes(tasks, num_tasks)
    yield from _contents(tasks)


def _shapes(tasks: TaskBatch, num_tasks: int) -> Iterator[str]:
    for name, tensor in _tensors(tasks):
        if not isinstance(tensor, Tensor):
            yield f"{name} must be a tensor, got {type(tensor).__name__}"
        elif tensor.shape[:1] != (num_tasks,):
            yield f"{name} must have the {num_tasks} tasks leading, got {tuple(tensor.shape)}"
        elif tensor.is_floating_point() and not torch.isfinite(tensor).all():
            yield f"{name} holds values that are infinite or not a number"
        elif not name.startswith("info") and tensor.dtype not in (torch.float32, torch.int64):
            yield f"{name} must be float32 or int64, got {tensor.dtype}"
    for name, examples in (("support", tasks.support), ("query", tasks.query)):
        inputs, targets = examples
        if inputs.dim() < 2 or inputs.shape[:2] != targets.shape[:2]:
            yield (
                f"{name} needs as many targets as inputs, [T, N, ...] each, got "
                f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
            )
        elif inputs.shape[1] < 1:
            yield f"{name} has no examples"
        if not inputs.is_floating_point():
            yield f"{name}.inputs must be float32, got {inputs.dtype}"
    if tasks.support.inputs.shape[2:] != tasks.query.inputs.shape[2:]:
        yield "support and query inputs must have one shape per example"
    if tasks.support.targets.dtype != tasks.query.targets.dtype:
        yield "support and query targets must have one type"


def _contents(tasks: TaskBatch) -> Iterator[str]:
    inputs, targets = tasks.support
    query = tasks.query
    if inputs.shape == query.inputs.shape and torch.equal(inputs, query.inputs):
        yield "query must be held out, but it repeats the inputs of support"
    if not targets.is_floating_point():
        if min(int(targets.min()), int(query.targets.min())) < 0:
            yield "class labels must be 0 or more"
        missing = ~(query.targets.unsqueeze(2) == targets.unsqueeze(1)).any(2)
        if missing.any():
            yield "query holds classes that the support of the same task lacks"
    if all((t == t[:1]).all() for _, t in _tensors(tasks)):
        yield "all tasks of a batch are the same one"


def _randomness(distribution: Any, seed: int) -> Iterator[str]:
    states = torch.random.get_rng_state(), _numpy_state()
    first = distribution.sample(NUM_TASKS, _generator(seed))
    if not torch.equal(states[0], torch.random.get_rng_state()) or states[1] != _numpy_state():
        yield "it draws from a global random state; draw from the generator that is passed in"
    generator = _generator(seed)
    again = distribution.sample(NUM_TASKS, generator)
    if not _equal(first, again):
        yield "the same generator state gives other tasks; draw from the generator only"
    if _equal(again, distribution.sample(NUM_TASKS, generator)):
        yield "a generator that has moved on gives the same tasks; draw from it"


def _splits(distribution: Any, seed: int, required: bool) -> Iterator[str]:
    seen: dict[str, set[bytes]] = {}
    for name in SPLITS:
        try:
            tasks = distribution.split(name).sample(4 * NUM_TASKS, _generator(seed))
        except MetarlError as error:
            if required:
                yield f"split({name!r}) cannot be sampled: {error}"
            continue
        fingerprints = _fingerprints(tasks)
        for other, known in seen.items():
            if known & fingerprints:
                yield f"splits {other!r} and {name!r} share tasks; make them disjoint"
        seen[name] = fingerprints
    try:
        distribution.split("no such split")
    except (MetarlError, ValueError, KeyError):
        return
    yield "split must refuse a name that is no split"


def _fingerprints(tasks: TaskBatch) -> set[bytes]:
    """Returns what tells each task apart: its info where there is one, else its support set.

    Class indices and the like are compared one by one: two episodes share a class, not a set.
    """
    info = tasks.info.get("classes")
    if info is not None:
        return {v.tobytes() for v in info.flatten().numpy()}
    source = list(tasks.info.values()) or [tasks.support.inputs, tasks.support.targets]
    rows = torch.cat([t.flatten(1).double() for t in source], dim=1)
    return {row.numpy().tobytes() for row in rows}


def _tensors(tasks: TaskBatch) -> Iterator[tuple[str, Tensor]]:
    yield "support.inputs", tasks.support.inputs
    yield "support.targets", tasks.support.targets
    yield "query.inputs", tasks.query.inputs
    yield "query.targets", tasks.query.targets
    for name, value in tasks.info.items():
        yield f"info[{name!r}]", value


def _equal(a: TaskBatch, b: TaskBatch) -> bool:
    pairs = zip(_tensors(a), _tensors(b), strict=True)
    return all(torch.equal(x, y) for (_, x), (_, y) in pairs)


def _numpy_state() -> tuple[Any, ...]:
    state = np.random.get_state(legacy=True)
    return tuple(s.tobytes() if isinstance(s, np.ndarray) else s for s in state)
