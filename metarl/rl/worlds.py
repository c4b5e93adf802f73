"""The environments of a learner, created on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch

from metarl import ranks
from metarl.errors import SettingsError, ShapeError
from metarl.models.base import Params
from metarl.rl.captured_rollouts import CapturedRollouts, can_capture
from metarl.rl.captured_steps import CapturedSteps, can_capture_steps
from metarl.rl.moments import merged_steps
from metarl.rl.policy import Policy
from metarl.rl.rollouts import RolloutNoise, Rollouts, collect
from metarl.sim.family import TaskFamily, Tasks
from metarl.sim.make import make_vec
from metarl.sim.physics_env import PhysicsVectorEnv
from metarl.sim.torch_engine import TorchVectorEnv
from metarl.sim.vector_env import Observer, TensorVectorEnv
from metarl.trees import concatenate_tasks, map_tensors, take_tasks

T = TypeVar("T")


class Worlds:
    """Vector environments of one family without autoreset, one for each size and device.

    Copies and pickles leave out the environments and the observer: a copy builds its own.

    Args:
        family: The task family of the worlds.
        observe_task: Appends the task to the observations.
    """

    def __init__(self, family: TaskFamily, observe_task: bool = False) -> None:
        self.family = family
        self.observe_task = observe_task
        self._envs: dict[tuple[int, torch.device], TensorVectorEnv] = {}
        self._captured: dict[tuple[int, Any], Any] = {}
        self._observer: Observer | None = None

    def get(self, noise: RolloutNoise) -> TensorVectorEnv:
        """Returns the environment that has one world for each rollout of `noise`."""
        count, device = noise.reset.shape[0] * noise.reset.shape[1], noise.reset.device
        key = (count, device)
        if key not in self._envs:
            _check_ranks(self.family)
            self._envs[key] = make_vec(
                self.family, count, device=device, autoreset="disabled",
                observe_task=self.observe_task,
            )  # fmt: skip
        env = self._envs[key]
        env.observer = self._observer
        return env

    def can_capture(self, noise: RolloutNoise) -> bool:
        """Returns whether the rollouts of `noise` can be part of a graph; see `can_capture`."""
        on_gpu = noise.reset.device.type == "cuda"
        return on_gpu and self.family.worlds is None and can_capture(self.get(noise))

    def observe(self, observer: Observer | None) -> None:
        """Attaches an observer (a camera) to all environments; None removes it.

        Takes effect at the next `get` of each environment.
        """
        self._observer = observer

    def each(
        self, tasks: Tasks, noise: RolloutNoise
    ) -> Iterator[tuple[slice, Tasks, RolloutNoise]]:
        """Yields the rollouts that run at once: all, or as many as the family has worlds.

        A part is some tasks with all of their rollouts, or some of the rollouts of one task.

        Args:
            tasks: The tasks, [T, *] per name.
            noise: The random numbers, [T, N, *].

        Yields:
            The indices of the tasks (a slice of T), and the tasks and random numbers of this part.
        """
        count, trajectories = noise.reset.shape[:2]
        limit = self.family.worlds or count * trajectories
        num_tasks, size = max(1, limit // trajectories), min(trajectories, limit)
        for t in range(0, count, num_tasks):
            rows = slice(t, min(count, t + num_tasks))
            for n in range(0, trajectories, size):
                part = map_tensors(lambda x, r=rows, n=n: x[r, n : n + size], noise)
                yield rows, take_tasks(tasks, rows.start, rows.stop), part

    def collect(
        self, policy: Policy, params: Params, tasks: Tasks, noise: RolloutNoise
    ) -> Rollouts:
        """Runs the rollouts of all tasks, at once or in parts; see `rollouts.collect`.

        Args:
            policy: The policy.
            params: The policy's parameters for each task, [T, *shape] per name, detached.
            tasks: The tasks, [T, *] per name.
            noise: The random numbers, [T, N, *].
        """
        parts = [
            self._run(policy, map_tensors(lambda p, rows=rows: p[rows], params), values, part)
            for rows, values, part in self.each(tasks, noise)
        ]
        if len(parts) == 1:
            return parts[0]
        num_tasks = len(noise.reset)
        moments = [
            merged_steps([part.moments for part in of_tasks])
            for of_tasks in _grouped(parts, num_tasks)
        ]
        joined = self.join([part._replace(moments=None) for part in parts], num_tasks)
        present = [m for m in moments if m is not None]
        return joined._replace(moments=concatenate_tasks(present) if present else None)

    def captured(self, env: TensorVectorEnv, agent: Any, make: Callable[[], Any]) -> Any:
        """Returns what captures the steps of an agent in one of these environments.

        Args:
            env: An environment that `get` returned.
            agent: What acts in it.
            make: Makes it on first use.
        """
        key = (id(env), agent)
        if key not in self._captured:
            self._captured[key] = make()
        return self._captured[key]

    def join(self, parts: list[T], num_tasks: int) -> T:
        """Joins the results of the parts of `each`, nested tensors, to [T, N, *]."""
        if len(parts) == 1:
            return parts[0]
        worlds = self.family.worlds or 1

        def joined(*p: torch.Tensor) -> torch.Tensor:
            # One entry of several rollouts is that of all: it does not depend on observations.
            return p[0] if p[0].shape[1] == 1 < worlds else torch.cat(p, 1)

        return concatenate_tasks(
            [map_tensors(joined, *of_tasks) for of_tasks in _grouped(parts, num_tasks)]
        )

    def measured(self) -> dict[str, float]:
        """Returns the wall time and the rate of an environment that exists once, as scalars."""
        clocks = [getattr(env, "clock", None) for env in self._envs.values()]
        return {
            name: value
            for clock in clocks
            if clock is not None and self.family.worlds is not None
            for name, value in clock.measured().items()
        }

    def notes(self) -> list[str]:
        """Returns a line about each success that `info` reports and no metric reads."""
        names = [name for env in self._envs.values() for name in getattr(env, "reported", ())]
        return [
            f'The environment reports {name!r} in `info`: metrics={{{name!r}: "any"}} of its '
            "family adds the share of such episodes to curves and tables."
            for name in dict.fromkeys(map(str, names))
            if "success" in name and name[0] != "_" and name not in self.family.metrics
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Omits the environments, which hold processes and memory of engines."""
        return {**self.__dict__, "_envs": {}, "_captured": {}, "_observer": None}

    def _run(self, policy: Policy, params: Params, tasks: Tasks, noise: RolloutNoise) -> Rollouts:
        env = self.get(noise)
        if can_capture(env):
            assert isinstance(env, TorchVectorEnv)
            make = partial(CapturedRollouts, env, policy)
        elif can_capture_steps(env):
            assert isinstance(env, PhysicsVectorEnv)
            make = partial(CapturedSteps, env, policy)
        else:
            return collect(env, policy, params, tasks, noise)
        return self.captured(env, policy, make)(params, tasks, noise)


def _grouped(parts: list[T], num_tasks: int) -> list[list[T]]:
    """Returns the parts of `Worlds.each`, those of the same tasks together."""
    count = max(1, len(parts) // num_tasks)  # above 1 only if each part is of one task
    return [parts[low : low + count] for low in range(0, len(parts), count)]


def _check_ranks(family: TaskFamily) -> None:
    if ranks.count() > 1 and family.worlds is not None:
        raise SettingsError(
            f"{type(family).__name__} allows {family.worlds} world(s) at once, and each of "
            f"{ranks.count()} processes would make its own. Start one process."
        )


def check_policy_type(dtype: torch.dtype | None) -> None:
    """Checks the type of a policy's parameters; None for a policy without parameters.

    Raises:
        ShapeError: It is not float32.
    """
    if dtype not in (None, torch.float32):
        raise ShapeError(
            f"Expected a policy with parameters of float32, in which worlds compute, got {dtype}; "
            "call `.float()` of the learner or the policy."
        )
