"""Families of environments that sample their own tasks (`sample_tasks` and `set_task`)."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any
from zlib import crc32

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.errors import SettingsError, TaskError, short_repr
from metarl.ranges import NOT_NEGATIVE, check_int
from metarl.sim.card import Card, Fact
from metarl.sim.family import ControlTasks, Tasks
from metarl.sim.global_seed import global_seed
from metarl.sim.gymnasium.family import GymFamily, Task
from metarl.sim.gymnasium.observations import REAL
from metarl.sim.gymnasium.own_values import own_value
from metarl.tasks.base import SPLITS, Split, check_sampling

INDEX = "index"  # the task value that every pool has
MOSTLY = 0.9  # the share of tasks that float32 has to tell apart


@dataclass(frozen=True)
class GymTaskPool(GymFamily):
    """Family of an environment with the methods `sample_tasks(n)` and `set_task(task)`.

    The environments of garage, PEARL and Meta-World have these methods; a wrapper may have them
    too. Tasks are objects of any type. A pool of tasks is drawn once with a fixed seed and divided
    among the splits; `sample` draws from the pool. The task value "index" [T] int64 is the index
    of a task in the pool, and `set_task` gets the object from the pool. If all tasks are numbers,
    arrays, or dicts of them, of the same shapes, their numbers are task values too: under the keys
    of the dict, or under "task".

    Example:
        >>> family = GymTaskPool(HalfCheetahVelEnv, horizon=100)
        >>> ml1 = metaworld.ML1("reach-v3", seed=1)
        >>> pools = {"train": ml1.train_tasks, "validation": ..., "test": ml1.test_tasks}
        >>> family = GymTaskPool(ml1.train_classes["reach-v3"], pools, horizon=500)

    The attributes of `GymFamily` are further keyword arguments. Workers need picklable tasks.

    Attributes:
        tasks: The number of tasks to draw, at least 3; or the tasks of each split, at least 1 each.
        seed: Seed for drawing the pool.
    """

    tasks: int | Mapping[Split, Sequence[Any]] = 300
    seed: int = 0

    def __post_init__(self) -> None:
        """Draws the pool and checks it, in addition to the settings of `GymFamily`.

        Raises:
            SettingsError: The environment lacks the methods, or the pool is invalid.
        """
        super().__post_init__()
        object.__setattr__(self, "seed", check_int("seed", self.seed, NOT_NEGATIVE))
        needs_sampling = not isinstance(self.tasks, Mapping)
        missing = [
            name
            for name in ("set_task", *(["sample_tasks"] if needs_sampling else []))
            if not callable(_method(self.probe, name))
        ]
        if missing:
            raise SettingsError(
                f"{self.title!r} has no method {' nor '.join(missing)}. Give it the tasks of each "
                "split if it only sets them; GymTasks changes attributes of any environment."
                f"{self._advice}"
            )
        if any(not tasks for tasks in self.pools.values()):
            raise SettingsError("Expected at least one task for each of train, validation, test.")

    @property
    def note(self) -> str:
        return "tasks"

    @cached_property
    def pools(self) -> dict[Split, list[Any]]:
        """The tasks of each split."""
        if isinstance(self.tasks, Mapping):
            if self.tasks.keys() != set(SPLITS):
                raise SettingsError(
                    f"Expected the tasks of {', '.join(SPLITS)}, got those of "
                    f"{', '.join(self.tasks) or 'none'}."
                )
            return {part: list(self.tasks[part]) for part in SPLITS}
        if not isinstance(self.tasks, int | np.integer):
            raise SettingsError(
                "Expected a number of tasks to draw, or the tasks of each split, as "
                f'{{"train": [...], "validation": [...], "test": [...]}}, got '
                f"{short_repr(self.tasks)}."
            )
        tasks = self._drawn(int(self.tasks))
        return {part: tasks[i :: len(SPLITS)] for i, part in enumerate(SPLITS)}

    @cached_property
    def pool(self) -> list[Any]:
        """All tasks, P in number: training tasks, then validation tasks, then test tasks."""
        return list(chain(*self.pools.values()))

    @cached_property
    def numbers(self) -> dict[str, Tensor]:
        """The numbers of all tasks: name -> [P, *] float32.

        Empty if names or shapes differ, or if float32 does not tell the tasks apart.
        """
        rows = [_numbers(task) for task in self.pool]
        first = rows[0]
        if any(_shapes(row) != _shapes(first) for row in rows):
            return {}
        columns = {name: np.stack([row[name] for row in rows]) for name in first}
        single = {name: column.astype(np.float32) for name, column in columns.items()}
        if _different(single) < MOSTLY * _different(columns):
            return {}
        return {name: torch.from_numpy(column) for name, column in single.items()}

    @property
    def world_settings(self) -> dict[str, Any]:
        """Adds the pool, of which a task holds the index."""
        checksum = crc32(b"".join(column.numpy().tobytes() for column in self.numbers.values()))
        return {**super().world_settings, "pool": f"{len(self.pool)} tasks, checksum {checksum}"}

    def card(self) -> Card:
        sizes = ", ".join(f"{len(self.pools[part])} {part}" for part in SPLITS)
        source = f"drawn once by its sample_tasks, seed {self.seed}"
        if isinstance(self.tasks, Mapping):
            source = "given"
        kinds = ", ".join(self.numbers) or f"of type {type(self.pool[0]).__name__}"
        tasks = Fact("tasks", f"{kinds}; a pool of {sizes}, {source}")
        return self._make_card(f"{self.title} with its tasks", tasks, self._disjoint)

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Draws uniformly, with replacement, from the tasks of the split."""
        check_sampling(num_tasks, generator)
        earlier_splits = SPLITS[: SPLITS.index(self.part)]
        first = sum(len(self.pools[part]) for part in earlier_splits)
        draws = torch.rand(num_tasks, generator=generator, device=generator.device)
        index = first + (draws * len(self.pools[self.part])).long()
        numbers = {name: column.to(index.device)[index] for name, column in self.numbers.items()}
        return ControlTasks({INDEX: index, **numbers})

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the numbers of the tasks, or one-hot indices [W, P] if they have none."""
        if self.numbers:
            worlds = len(tasks[INDEX])
            return torch.cat([tasks[name].reshape(worlds, -1) for name in self.numbers], 1)
        return torch.nn.functional.one_hot(tasks[INDEX], len(self.pool)).float()

    def apply_task(self, env: gymnasium.Env, task: Task) -> gymnasium.Env:
        """Calls `set_task` with the task object; its lists, dicts and arrays are copies."""
        index = int(task[INDEX])
        if not 0 <= index < len(self.pool):
            raise TaskError(f"Expected the index of one of {len(self.pool)} tasks, got {index}.")
        _method(env, "set_task")(own_value(self.pool[index]))
        return env

    def _drawn(self, count: int) -> list[Any]:
        """Returns tasks that the environment draws with the seed of the pool."""
        if count < len(SPLITS):
            raise SettingsError(f"Expected at least {len(SPLITS)} tasks, got {count}.")
        try:
            with global_seed(self.seed):  # for environments that draw from the global generators
                self.probe.reset(seed=self.seed)
                tasks = list(_method(self.probe, "sample_tasks")(count))
        except Exception as error:
            raise SettingsError(
                f"{self.title!r} cannot draw tasks by `reset` and `sample_tasks({count})`, before "
                f"any task is set: {type(error).__name__}: {error}. Give it a task in its "
                "constructor, or give the pool the tasks of each split."
            ) from error
        if len(tasks) != count:
            raise SettingsError(
                f"Expected sample_tasks({count}) of {self.title!r} to return as many tasks, got "
                f"{len(tasks)}."
            )
        return tasks

    @property
    def _advice(self) -> str:
        """What to do about environments whose method has another name, as those of PEARL."""
        names = [n for n in ("reset_task", "set_goal") if callable(_method(self.probe, n))]
        if not names or callable(_method(self.probe, "set_task")):
            return ""
        return (
            f" It has {names[0]}: call it from a wrapper with `def set_task(self, task): "
            f"self.unwrapped.{names[0]}(task)`."
        )

    @property
    def _disjoint(self) -> bool:
        """Whether no task is in more than one split."""
        fingerprints = [set(map(fingerprint, self.pools[part])) for part in SPLITS]
        return len(set().union(*fingerprints)) == sum(map(len, fingerprints))


def _method(env: gymnasium.Env, name: str) -> Any:
    """Returns a method of the environment or of an inner wrapper; None without one."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def _numbers(task: Any) -> dict[str, np.ndarray]:
    """Returns the numbers of a task; empty if some of it is not a finite number of float32."""
    values = task if isinstance(task, Mapping) else {"task": task}
    arrays: dict[str, np.ndarray] = {}
    for name, value in values.items():
        try:
            number = np.asarray(value.detach() if isinstance(value, Tensor) else value)
            with np.errstate(over="ignore"):
                single = np.asarray(number.tolist(), np.float32)
        except (TypeError, ValueError):
            return {}
        if isinstance(value, str) or name == INDEX or not np.isfinite(single).all():
            return {}
        arrays[str(name)] = number if number.dtype.kind in REAL else single
    return arrays


def _different(columns: Mapping[str, np.ndarray]) -> int:
    """Returns how many rows of columns [P, *] differ from all others."""
    rows = zip(*columns.values(), strict=True)
    return len({tuple(part.tobytes() for part in row) for row in rows})


def fingerprint(task: Any) -> Any:
    """Returns a hashable value that is equal for equal tasks."""
    try:
        return pickle.dumps(task)
    except Exception:  # pickle raises any kind; such a task equals only itself
        return id(task)


def _shapes(numbers: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in numbers.items()}
