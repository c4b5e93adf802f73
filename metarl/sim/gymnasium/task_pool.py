"""Tasks that an environment samples itself, with `sample_tasks` and `set_task`."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim.card import Card, Fact
from metarl.sim.family import ControlTasks, Tasks
from metarl.sim.gymnasium.family import GymFamily, Task
from metarl.tasks.base import SPLITS, Split, check_num_tasks

INDEX = "index"  # the task value that every pool has


@dataclass(frozen=True)
class GymTaskPool(GymFamily):
    """An environment that has tasks itself: `sample_tasks(n)` draws and `set_task(task)` sets them.

    That is what the environments of garage, PEARL and Meta-World's benchmarks have, at any level
    of wrappers. Tasks may be anything. A pool of them is drawn once, of a fixed seed, and dealt to
    the splits; batches are drawn from it. The task value "index" [T] int64 is a task's place in
    the pool, and it is the task of the pool itself that `set_task` gets. Where tasks are numbers,
    arrays, or dicts of such, all of the same shape, these are task values too: under the dict's
    names, or "task".

    Example:
        >>> family = GymTaskPool(HalfCheetahVelEnv, horizon=100)
        >>> ml1 = metaworld.ML1("reach-v3", seed=1)
        >>> pools = {"train": ml1.train_tasks, "validation": ..., "test": ml1.test_tasks}
        >>> family = GymTaskPool(ml1.train_classes["reach-v3"], pools, horizon=500)

    The settings of `GymFamily` follow by name; for workers, tasks have to be picklable.

    Attributes:
        tasks: How many to draw, at least 3; or the tasks of each split, at least 1.
        seed: The pool's.
    """

    tasks: int | Mapping[Split, Sequence[Any]] = 300
    seed: int = 0

    def __post_init__(self) -> None:
        """Draws the pool too; see `GymFamily`.

        Raises:
            SettingsError: The environment has not the methods, or the pool is not usable.
        """
        super().__post_init__()
        drawn = isinstance(self.tasks, int)
        missing = [
            name
            for name in ("set_task", *(["sample_tasks"] if drawn else []))
            if not callable(_method(self.probe, name))
        ]
        if missing:
            raise SettingsError(
                f"{self.title!r} has no method {' nor '.join(missing)}. Give it the tasks of each "
                "split if it only sets them; GymTasks changes attributes of any environment."
            )
        if any(not tasks for tasks in self.pools.values()):
            raise SettingsError("Expected at least one task for each of train, validation, test.")

    @property
    def note(self) -> str:
        """See `GymFamily.note`."""
        return "tasks"

    @cached_property
    def pools(self) -> dict[Split, list[Any]]:
        """The tasks of each split."""
        if not isinstance(self.tasks, int):
            if self.tasks.keys() != set(SPLITS):
                raise SettingsError(
                    f"Expected the tasks of {', '.join(SPLITS)}, got those of "
                    f"{', '.join(self.tasks) or 'none'}."
                )
            return {part: list(self.tasks[part]) for part in SPLITS}
        if self.tasks < len(SPLITS):
            raise SettingsError(f"Expected at least {len(SPLITS)} tasks, got {self.tasks}.")
        with _seeded(self.seed):  # some environments draw from these, others from their own
            self.probe.reset(seed=self.seed)
            tasks = list(_method(self.probe, "sample_tasks")(self.tasks))
        if len(tasks) != self.tasks:
            raise SettingsError(
                f"Expected sample_tasks({self.tasks}) of {self.title!r} to return as many tasks, "
                f"got {len(tasks)}."
            )
        return {part: tasks[i :: len(SPLITS)] for i, part in enumerate(SPLITS)}

    @cached_property
    def pool(self) -> list[Any]:
        """All tasks, those of training first."""
        return list(chain(*self.pools.values()))

    @cached_property
    def numbers(self) -> dict[str, Tensor]:
        """What numbers all tasks have: name -> [P, *] float32 for a pool of P."""
        named = [_numbers(task) for task in self.pool]
        first = named[0]
        if any(_shapes(numbers) != _shapes(first) for numbers in named):
            return {}
        columns = {name: np.stack([numbers[name] for numbers in named]) for name in first}
        return {name: torch.from_numpy(column) for name, column in columns.items()}

    def card(self) -> Card:
        """See `TaskFamily.card`."""
        sizes = ", ".join(f"{len(self.pools[part])} {part}" for part in SPLITS)
        how = f"drawn once by its sample_tasks, seed {self.seed}"
        if not isinstance(self.tasks, int):
            how = "given"
        kinds = ", ".join(self.numbers) or f"of type {type(self.pool[0]).__name__}"
        tasks = Fact("tasks", f"{kinds}; a pool of {sizes}, {how}")
        return self._card(f"{self.title} with tasks of its own", tasks, self._disjoint)

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """See `TaskFamily.sample`: any of the split's pool, each as likely."""
        check_num_tasks(num_tasks)
        before = SPLITS[: SPLITS.index(self.part)]
        first = sum(len(self.pools[part]) for part in before)
        draws = torch.rand(num_tasks, generator=generator, device=generator.device)
        index = first + (draws * len(self.pools[self.part])).long()
        numbers = {name: column.to(index.device)[index] for name, column in self.numbers.items()}
        return ControlTasks({INDEX: index, **numbers})

    def task_vector(self, tasks: Tasks) -> Tensor:
        """See `TaskFamily.task_vector`: its numbers; if it has none, 1 at its place in the pool."""
        if self.numbers:
            worlds = len(tasks[INDEX])
            return torch.cat([tasks[name].reshape(worlds, -1) for name in self.numbers], 1)
        return torch.nn.functional.one_hot(tasks[INDEX], len(self.pool)).float()

    def given(self, env: gymnasium.Env, task: Task) -> gymnasium.Env:
        """See `GymFamily.given`."""
        _method(env, "set_task")(self.pool[int(task[INDEX])])
        return env

    @property
    def _disjoint(self) -> bool:
        prints = [set(map(_fingerprint, self.pools[part])) for part in SPLITS]
        return len(set().union(*prints)) == sum(map(len, prints))


def _method(env: gymnasium.Env, name: str) -> Any:
    """Returns a method of the environment or of what it wraps; None: there is none."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def _numbers(task: Any) -> dict[str, np.ndarray]:
    """Returns what numbers a task is made of, float32; none if not all of it is numbers."""
    named = task if isinstance(task, Mapping) else {"task": task}
    found: dict[str, np.ndarray] = {}
    for name, value in named.items():
        try:
            number = np.asarray(value, np.float32)
        except (TypeError, ValueError):
            return {}
        if isinstance(value, str) or name == INDEX or not np.isfinite(number).all():
            return {}
        found[str(name)] = number
    return found


def _fingerprint(task: Any) -> Any:
    """Returns what is the same for tasks that are the same."""
    try:
        return pickle.dumps(task)
    except Exception:  # of any kind: then it is one of its own
        return id(task)


def _shapes(numbers: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in numbers.items()}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the global random states inside, and puts them back."""
    states = (random.getstate(), np.random.get_state())
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
