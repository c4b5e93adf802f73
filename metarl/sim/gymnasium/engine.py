"""The gymnasium engine: runs gymnasium environments in this process or in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, SimulationError
from metarl.ranges import MOST_THREADS, Range, check_int
from metarl.sim.episode import Act, Episode
from metarl.sim.family import Tasks, WorldState
from metarl.sim.gymnasium.clock import Clock
from metarl.sim.gymnasium.environments import Environments, Host, Rows, WorldError
from metarl.sim.gymnasium.family import GymFamily, Task, seeds
from metarl.sim.gymnasium.workers import Workers
from metarl.sim.reported_states import REPORTED
from metarl.sim.step_validator import shown_task
from metarl.sim.vector_env import TensorVectorEnv


class GymVectorEnv(TensorVectorEnv):
    """Vector environment of W worlds of a `GymFamily`, one gymnasium environment each, on the CPU.

    The first `reset` builds the environments and the worker processes. They live until `close` or
    until this object is garbage collected. A new task takes effect at the next reset of its world.
    Worlds whose episode has ended are not stepped. Every reset is seeded, so the results do not
    depend on the number of workers.

    Most environments cannot save their state. `load_state_dict` therefore replays the actions of
    the current episodes: it takes as long as those episodes took, and it restores the exact state
    only for deterministic environments.

    Attributes:
        clock: Counts steps and resets and keeps the family's rate, if it has one.

    Args:
        family: The family of the worlds.
        num_envs: The number of worlds, W.
        workers: The number of worker processes, at most W are used; 0 steps the environments in
            this process. None uses `family.workers`.
        **settings: See the arguments of `TensorVectorEnv`. `device` is the device of the tensors;
            the environments run on the CPU.

    Raises:
        SettingsError: An argument has an invalid value.
    """

    stops_ended = True
    family: GymFamily
    _host: Host | None = None

    def __init__(
        self,
        family: GymFamily,
        num_envs: int,
        *,
        workers: int | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(family, GymFamily):
            raise SettingsError(
                f"Expected a GymFamily, got {type(family).__name__}: the gymnasium engine "
                "needs environments to build."
            )
        workers = family.workers if workers is None else workers
        self.workers = check_int("workers", workers, Range(0, MOST_THREADS))
        check_int("num_envs", num_envs)
        if family.worlds is not None and num_envs > family.worlds:
            raise SettingsError(
                f"Expected at most {family.worlds} world of {family.name}, whose environment "
                f"exists once, got {num_envs}."
            )
        super().__init__(family, num_envs, **settings)
        self.clock = Clock(family.rate)
        self._tasks_sent = False  # whether the host has the current tasks
        space = family.action_space
        self._limits = (space.low, space.high) if isinstance(space, spaces.Box) else None
        self._num_steps = np.zeros(num_envs, np.int64)  # steps of each running episode
        shape = (family.horizon, *self._action_shape)
        self._actions = np.zeros(shape, np.float32 if self._limits else np.int64)
        self._episode_tasks = _arrays(self._tasks)  # the tasks that the running episodes have

    def set_tasks(self, tasks: Tasks) -> None:
        """A world gets its new task at its next reset."""
        super().set_tasks(tasks)
        self._tasks_sent = False

    def start(self, noise: Tensor, mask: Tensor | None) -> WorldState:
        """Resets the environments of the marked worlds and returns the state of all worlds.

        Raises:
            SimulationError: An environment raised or returned values that do not fit its spaces,
                or a worker died or exceeded the time limit. All environments are closed then.
        """
        starting = np.ones(self.num_envs, bool) if mask is None else mask.cpu().numpy()
        if not starting.any():
            return self._state
        tasks = _arrays(self._tasks)
        self._start_episodes(starting, tasks, seeds(noise))
        self._num_steps[starting] = 0
        for name, rows in tasks.items():
            self._episode_tasks[name][starting] = rows[starting]
        return self._read_state()

    def advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        """Steps the worlds whose episode has not ended; raises the errors of `start`."""
        ends = self._ends
        over = ends.terminated | ends.truncated | (ends.elapsed >= self.family.horizon)
        running = (~over).cpu().numpy()
        env_actions = actions.cpu().numpy()
        if self._limits is not None:
            if not np.isfinite(env_actions[running]).all():
                self.check()  # the cause may be an earlier observation that was not finite
                world = int((~np.isfinite(env_actions).all(1) & running).argmax())
                raise SimulationError(
                    f"World {world} was given the action {env_actions[world].tolist()}; expected "
                    "finite numbers."
                )
            env_actions = env_actions.clip(*self._limits)
        self._actions[self._num_steps[running], running.nonzero()[0]] = env_actions[running]
        self._step_worlds(running, env_actions)
        return self._read_state()

    def episode(self, act: Act) -> Episode:
        """Runs step by step: rewards and terminations come from the environments."""
        return self.run_step_by_step(act)

    def state_dict(self) -> dict[str, Any]:
        """Adds the seeds, tasks and actions of the current episodes."""
        episodes = {
            "seed": self._rows.seed,
            "taken": self._num_steps,
            "actions": self._actions,
            **{f"task {name}": rows for name, rows in self._episode_tasks.items()},
        }
        copies = {name: torch.from_numpy(rows.copy()) for name, rows in episodes.items()}
        return {**super().state_dict(), "episodes": copies}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Replays the saved episodes; also raises the errors of `start`."""
        if "episodes" not in values or values["episodes"]["actions"].shape != self._actions.shape:
            raise ShapeError(
                "Expected what the same family's `state_dict` returned on the gymnasium engine for "
                f"{self.num_envs} worlds."
            )
        super().load_state_dict(values)
        episodes = {name: rows.cpu().numpy().copy() for name, rows in values["episodes"].items()}
        self._actions, num_steps = episodes["actions"], episodes["taken"]
        self._num_steps = np.zeros_like(num_steps)
        self._episode_tasks = {name: episodes[f"task {name}"] for name in self._episode_tasks}
        all_worlds = np.ones(self.num_envs, bool)
        self._tasks_sent = False
        self._start_episodes(all_worlds, self._episode_tasks, episodes["seed"])
        self._tasks_sent = False  # the current tasks may differ from those of the episodes
        for step in range(int(num_steps.max())):
            self._step_worlds(num_steps > step, self._actions[step])

    def recording(self, world: int) -> tuple[int, Task, np.ndarray]:
        """Returns the seed, the task and the actions of a world's current episode.

        Args:
            world: The index of the world, 0 to W - 1.

        Returns:
            The seed of the reset; the task of the episode; copies of the clipped actions so far,
            [L, A] float32 or [L] int64, where L is at most the horizon.
        """
        task = {name: rows[world].copy() for name, rows in self._episode_tasks.items()}
        actions = self._actions[: self._num_steps[world], world]
        return int(self._rows.seed[world]), task, actions.copy()

    @property
    def reported(self) -> tuple[Any, ...]:
        """Names in the `info` of the last step; none, if workers step the environments."""
        return self._host.reported if isinstance(self._host, Environments) else ()

    def close_extras(self, **kwargs: Any) -> None:
        """Closes all environments and ends the worker processes; called by `close`."""
        del kwargs
        if self._host is not None:
            self._host.close()
            self._host = None

    # Parts

    @property
    def _rows(self) -> Rows:
        if self._host is None:
            raise SimulationError("The environments are closed; `reset` builds new ones.")
        return self._host.rows

    def _start_episodes(self, mask: np.ndarray, tasks: Mapping[str, np.ndarray], seed: Any) -> None:
        """Resets the marked worlds [W] bool with their tasks and seeds."""
        if self._host is None:
            self._host, self._tasks_sent, self.closed = self._build_host(), False, False
        host = self._host
        host.rows.active[:] = mask
        host.rows.seed[mask] = seed[mask]
        with self.clock.reset():
            self._call_host(
                lambda: host.start(None if self._tasks_sent else tasks), tasks, "at its reset"
            )
        self._tasks_sent = True

    def _step_worlds(self, mask: np.ndarray, actions: np.ndarray) -> None:
        """Steps the marked worlds [W] bool; the other worlds get a reward of 0."""
        rows = self._rows
        rows.active[:] = mask
        rows.action[:] = actions
        rows.reward[~mask] = 0
        assert self._host is not None
        if mask.any():
            with self.clock.step():
                self._call_host(self._host.step, self._episode_tasks, "in step {}")
            self._num_steps[mask] += 1

    def _build_host(self) -> Host:
        count = min(self.workers, self.num_envs)
        if not count:
            return Environments(self.family, Rows.of(self.family, self.num_envs))
        try:
            return Workers(self.family, self.num_envs, count)
        except WorldError as failure:
            raise SimulationError(f"World {failure.world} {failure.what}") from failure

    def _call_host(
        self, call: Callable[[], None], tasks: Mapping[str, np.ndarray], when: str
    ) -> None:
        """Calls a method of the host; closes the environments if it raises."""
        try:
            call()
        except WorldError as failure:
            self.close_extras()
            world = failure.world
            task = shown_task({n: torch.from_numpy(rows) for n, rows in tasks.items()}, world)
            raise SimulationError(
                f"World {world} of {self.family.name}, with the task {task}, "
                f"{when.format(self._num_steps[world])}, {failure.what}"
            ) from failure
        except BaseException:
            self.close_extras()
            raise

    def _read_state(self) -> WorldState:
        """Returns copies of the observations, rewards and ends in the rows."""
        rows = self._rows
        names = (*REPORTED, "metrics") if self.family.metrics else REPORTED
        copies = {n: getattr(rows, n).copy() for n in names}
        return {name: torch.from_numpy(value).to(self.device) for name, value in copies.items()}


def _arrays(tasks: Tasks) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy().copy() for name, value in tasks.items()}
