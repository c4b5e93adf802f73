"""Meta-World's benchmarks ML1, ML10, ML25 and ML45 as families of gymnasium environments.

The environments are those of the installed package, version 3.1, which asks for MuJoCo 3.3.0. Its
constructor sets welds with 11 numbers, while MuJoCo has 12 since 3.17; the classes here, which are
derived from Meta-World's, set the first 11. The package is not changed.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.ranges import SEED, Range, check_int
from metarl.registry import check_choice
from metarl.sim.family import ControlTasks
from metarl.sim.global_seed import global_seed
from metarl.sim.gymnasium.family import Task
from metarl.sim.gymnasium.task_pool import INDEX, GymTaskPool
from metarl.tasks.base import SPLITS, Split
from metarl_envs.metaworld_package import package
from metarl_envs.sawyer import set_welds

BENCHMARKS = ("ML10", "ML25", "ML45")
GOALS = 50  # per environment and split
HORIZON = 500


class Environments(NamedTuple):
    """The environments and goals of one split.

    Attributes:
        classes: Name of an environment, such as "reach-v3" -> its class, cured.
        tasks: Meta-World's tasks, `GOALS` per environment.
    """

    classes: Mapping[str, type]
    tasks: Sequence[Any]


@lru_cache(maxsize=64)
def cured(env_class: type) -> type:
    """Returns a class derived from an environment of Meta-World that works with MuJoCo 4.

    It has the same name, by which Meta-World finds the environment.
    """

    def reset_mocap_welds(self: Any) -> None:
        set_welds(self.model)

    return type(env_class.__name__, (env_class,), {"reset_mocap_welds": reset_mocap_welds})


def environment_names() -> tuple[str, ...]:
    """Returns the names of Meta-World's environments: "reach-v3", ..."""
    return tuple(package("metaworld.env_dict").ALL_V3_ENVIRONMENTS)


@lru_cache(maxsize=8)
def benchmark_split(name: str, split: Split, seed: int) -> Environments:
    """Returns the environments and goals of a split as Meta-World draws them.

    Those of "train" and "test" are the tasks of `metaworld.ML1(name, seed)` or `metaworld.ML10(
    seed)`. "validation" has new goals of the training environments, those of `seed + 2`. Drawing
    takes a second or two per environment.

    Args:
        name: The name of an environment, for ML1; or "ML10", "ML25" or "ML45".
        split: The split.
        seed: Meta-World's seed.
    """
    env_dict = package("metaworld.env_dict")
    check_choice("benchmark of Meta-World", name, (*BENCHMARKS, *environment_names()))
    kind = "test" if split == "test" else "train"
    if name in BENCHMARKS:
        classes = getattr(env_dict, f"{name}_V3")[kind]
        arguments = getattr(env_dict, f"{name}_ARGS_KWARGS")[kind]
        shift = 2 if split == "validation" else 0
    else:
        classes = {name: env_dict.ALL_V3_ENVIRONMENTS[name]}
        arguments = {name: env_dict.ML1_ARGS_KWARGS[name]}
        shift = {"train": 0, "test": 1, "validation": 2}[split]
    tasks = []
    with global_seed(seed + shift):  # Meta-World draws from numpy's global generator
        for env_name, options in arguments.items():
            settings = {k: v for k, v in options["kwargs"].items() if k != "task_id"}
            tasks += _drawn_tasks(env_name, classes[env_name], settings)
    return Environments({n: cured(c) for n, c in classes.items()}, tuple(tasks))


def _drawn_tasks(name: str, env_class: type, settings: Mapping[str, Any]) -> list[Any]:
    """Draws the goals of an environment, one at each of `GOALS` resets."""
    env = cured(env_class)()
    env._freeze_rand_vec, env._set_task_called = False, True
    env._set_task_inner(**settings)
    vectors = []
    for _ in range(GOALS):
        env.reset()
        vectors.append(env._last_rand_vec)
    env.close()
    make = package("metaworld.types").Task
    hidden = {"partially_observable": True}  # the goal is not observed
    return [
        make(name, pickle.dumps({**settings, "rand_vec": v, "env_cls": env_class, **hidden}))
        for v in vectors
    ]


def environment_class(name: str) -> type:
    """Returns the cured class of an environment of Meta-World."""
    return cured(package("metaworld.env_dict").ALL_V3_ENVIRONMENTS[name])


def make_environment(name: str, **settings: Any) -> gymnasium.Env:
    """Builds an environment of Meta-World by name, without a task and without a time limit."""
    return environment_class(name)(**settings)


@dataclass(frozen=True, kw_only=True)
class MetaWorldTasks(GymTaskPool):
    """The tasks of a benchmark of Meta-World; built by `benchmark`.

    A world whose next task is of another environment builds that environment.
    """

    published_units = True

    @cached_property
    def numbers(self) -> dict[str, Tensor]:
        """The random vectors of the tasks, "rand_vec" [P, *] float32: object and goal.

        Empty if the environments have different ones.
        """
        rows = [pickle.loads(task.data)["rand_vec"] for task in self.pool]  # our own pickles
        if len({row.shape for row in rows}) != 1 or len({t.env_name for t in self.pool}) != 1:
            return {}
        return {"rand_vec": torch.from_numpy(np.stack(rows).astype(np.float32))}

    @property
    def title(self) -> str:
        """The name of the benchmark, without its version."""
        return self.name.rpartition("-v")[0]

    def tasks_at(self, index: Tensor) -> ControlTasks:
        """Returns tasks by their number in the pool.

        Args:
            index: Numbers of tasks, [T] int64.
        """
        numbers = {name: column[index] for name, column in self.numbers.items()}
        return ControlTasks({INDEX: index, **numbers})

    def apply_task(self, env: gymnasium.Env, task: Task) -> gymnasium.Env:
        """Calls `set_task` of an environment of the task's kind."""
        wanted = self.pool[int(task[INDEX])]
        if type(env.unwrapped) is not environment_class(wanted.env_name):
            env = make_environment(wanted.env_name, **self.settings)
        unwrapped: Any = env.unwrapped
        unwrapped.set_task(wanted)
        return env


def benchmark(
    benchmark: str = "reach-v3", *, seed: int = 0, horizon: int = HORIZON, **options: Any
) -> MetaWorldTasks:
    """Builds a benchmark of Meta-World 3.1 as a family of gymnasium environments.

    Policies do not observe the goal. The metric "success" is whether the goal was reached at any
    step. Training and test tasks are Meta-World's; see `benchmark_split`.

    Example:
        >>> family = benchmark("reach-v3")  # ML1
        >>> family = benchmark("ML10", seed=1, workers=4)

    Args:
        benchmark: The name of an environment, for ML1; or "ML10", "ML25" or "ML45".
        seed: Meta-World's seed, from which the goals are drawn.
        horizon: Steps of an episode, at most 500.
        **options: Further attributes of `GymFamily`, such as `workers`.

    Raises:
        SettingsError: Meta-World 3.1 is not installed, there is no such benchmark, or a setting is
            out of its range.
    """
    check_int("seed", seed, SEED)
    check_int("horizon", horizon, Range(1, HORIZON))
    parts: dict[Split, Environments] = {p: benchmark_split(benchmark, p, seed) for p in SPLITS}
    first = next(iter(parts["train"].classes))
    note = "" if benchmark in BENCHMARKS else "ML1-"
    return MetaWorldTasks(
        partial(make_environment, first),
        tasks={part: split.tasks for part, split in parts.items()},
        horizon=horizon,
        name=f"MetaWorld-{note}{benchmark.removesuffix('-v3')}-v3",
        **{"metrics": {"success": "any"}, **options},
    )
