"""Checks that tasks of gymnasium environments have an effect."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MethodType
from typing import Any

import numpy as np
from torch import Tensor

from metarl.sim.gymnasium.check_environments import Player, Start, difference, starts
from metarl.sim.gymnasium.check_parameters import RECORDS, parameter_problems
from metarl.sim.gymnasium.environments import WorldError
from metarl.sim.gymnasium.family import GymFamily, Task
from metarl.sim.gymnasium.task_pool import INDEX, GymTaskPool, fingerprint
from metarl.sim.gymnasium.tasks import GymTasks

MOST_TASKS = 4
MOST_DEPTH = 8


def task_problems(family: GymFamily, seed: int) -> Iterator[str]:
    """Yields what of the tasks changes nothing, or comes too late to change all."""
    if isinstance(family, GymTasks):
        yield from parameter_problems(family, seed)
    if isinstance(family, GymTaskPool):
        yield from _pool_problems(family, seed)


def _pool_problems(family: GymTaskPool, seed: int) -> Iterator[str]:
    """Yields that the pool is another one, or `set_task` has no effect, where that is certain."""
    if not isinstance(family.tasks, Mapping) and _draws_others(family):
        yield (
            f"`sample_tasks` draws other tasks with the same seed, {family.seed}: a run that is "
            "resumed or evaluated would be tested on tasks that it was trained on. Draw from "
            "`self.np_random`, which `reset(seed=...)` seeds, or give the pool the tasks of each "
            "split"
        )
        return
    tasks = _different_tasks(family)
    if len(tasks) < 2:
        yield "all tasks of the pool are the same"
        return
    players = [Player(family) for _ in tasks]
    try:
        if _are_without_effect(players, tasks, starts(family, seed)):
            yield (
                "the tasks change nothing: the environment has the same values, and episodes are "
                "the same, after `set_task` with another task and `reset`; does `set_task` ignore "
                "its argument, or `reset` draw a task by itself?"
            )
    except WorldError as error:
        yield f"an environment {error.what}"
    finally:
        for player in players:
            player.host.close()


def _draws_others(family: GymTaskPool) -> bool:
    """Returns whether a new environment certainly draws another pool of tasks."""
    other = replace(family)
    try:
        return any(_surely_differ(a, b) for a, b in zip(family.pool, other.pool, strict=True))
    finally:
        if family.worlds is None:
            other.probe.close()


def _surely_differ(a: Any, b: Any) -> bool:
    """Returns whether two tasks are certainly not equal; False where that cannot be seen."""
    if type(a) is not type(b):
        return True
    if fingerprint(a) == fingerprint(b) or repr(a) == repr(b):
        return False
    if isinstance(a, np.ndarray | Tensor):
        return True
    try:
        return type(a).__eq__ is not object.__eq__ and not bool(a == b)
    except Exception:  # comparisons may raise anything, as those of lists of arrays
        return False


def _different_tasks(family: GymTaskPool) -> list[Task]:
    """Returns a few tasks that differ from each other, spread over the pool."""
    first = {fingerprint(task): index for index, task in reversed(list(enumerate(family.pool)))}
    indices = sorted(first.values())
    chosen = indices[:: max(1, (len(indices) - 1) // (MOST_TASKS - 1))][:MOST_TASKS]
    return [
        {
            INDEX: np.asarray(i),
            **{name: column[i].numpy() for name, column in family.numbers.items()},
        }
        for i in chosen
    ]


def _are_without_effect(players: list[Player], tasks: list[Task], all_starts: list[Start]) -> bool:
    """Returns whether tasks certainly change nothing: neither episodes nor what is stored."""
    for start in all_starts:
        first, *others = (
            player.play(start._replace(task=task))
            for player, task in zip(players, tasks, strict=True)
        )
        if any(difference(first, other) for other in others):
            return False
    # The same episodes prove nothing where rewards are rare: compare what environments hold.
    for player, task in zip(players, tasks, strict=True):
        player.begin(all_starts[0]._replace(task=task))
    first, *others = (player.env for player in players)
    return all(_surely_same(first, other, MOST_DEPTH) for other in others)


def _surely_same(a: Any, b: Any, depth: int) -> bool:
    """Returns whether two objects hold the same values; False where these cannot be seen."""
    if a is b:
        return True
    if type(a) is not type(b) or depth == 0:
        return False
    if isinstance(a, np.ndarray):
        return a.dtype != object and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, np.random.Generator):
        return _surely_same(a.bit_generator.state, b.bit_generator.state, depth)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(
            key in RECORDS or _surely_same(value, b[key], depth - 1) for key, value in a.items()
        )
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(
            _surely_same(x, y, depth - 1) for x, y in zip(a, b, strict=True)
        )
    if isinstance(a, MethodType):
        return a.__func__ is b.__func__
    if hasattr(a, "__dict__") and not callable(a):
        return _surely_same(vars(a), vars(b), depth - 1)
    try:
        return bool(a == b)
    except Exception:  # comparisons may raise anything
        return False
