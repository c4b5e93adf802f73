"""The gymnasium engine: any environments, in this process or shared out among workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, SimulationError
from metarl.sim.episode import Act, Episode
from metarl.sim.family import Tasks, WorldState
from metarl.sim.gymnasium.environments import Environments, Host, Rows, WorldError
from metarl.sim.gymnasium.family import GymFamily, Task, seeds
from metarl.sim.gymnasium.workers import Workers
from metarl.sim.step_validator import shown_task
from metarl.sim.vector_env import TensorVectorEnv


class GymVectorEnv(TensorVectorEnv):
    """W worlds of a `GymFamily`, each an environment of its own; CPU.

    Environments and worker processes are built at the first `reset` and kept until `close`, or
    until nobody holds this object. Another task takes effect when its world starts next. Worlds
    that have ended are not stepped on. Since every reset is seeded, nothing depends on the number
    of workers.

    `load_state_dict` gives environments the actions of their episodes once more, as most cannot
    tell their state: it takes as long as these did, and is exact if they are deterministic.

    Args:
        family: What the worlds are.
        num_envs: The number of worlds, W.
        workers: Processes that step them, W at most; 0 steps them in this one. None: as the
            family says.
        **settings: As of `TensorVectorEnv`; `device` is where tensors are, not the environments.

    Raises:
        SettingsError: An argument has a value that cannot work.
    """

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
        self.workers = family.workers if workers is None else workers
        if self.workers < 0:
            raise SettingsError(f"Expected at least 0 workers, got {self.workers}.")
        super().__init__(family, num_envs, **settings)
        self._told = False  # whether the host knows the present tasks
        space = family.action_space
        self._limits = (space.low, space.high) if isinstance(space, spaces.Box) else None
        self._taken = np.zeros(num_envs, np.int64)  # steps of each running episode
        shape = (family.horizon, *self._action_shape)
        self._actions = np.zeros(shape, np.float32 if self._limits else np.int64)
        self._started = _arrays(self._tasks)  # with what tasks these episodes started

    def set_tasks(self, tasks: Tasks) -> None:
        """See `TensorVectorEnv.set_tasks`; a world has its new task from its next start on."""
        super().set_tasks(tasks)
        self._told = False

    def start(self, noise: Tensor, mask: Tensor | None) -> WorldState:
        """See `TensorVectorEnv.start`.

        Raises:
            SimulationError: An environment raised, or gave what does not fit its spaces; or a
                worker died or hung. All are closed then.
        """
        marked = np.ones(self.num_envs, bool) if mask is None else mask.cpu().numpy()
        if not marked.any():
            return self._state
        tasks = _arrays(self._tasks)
        self._episodes(marked, tasks, seeds(noise))
        self._taken[marked] = 0
        for name, rows in tasks.items():
            self._started[name][marked] = rows[marked]
        return self._read()

    def advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        """See `TensorVectorEnv.advance`; raises as `start` does."""
        going = (~self._over & (self._elapsed < self.family.horizon)).cpu().numpy()
        chosen = actions.cpu().numpy()
        if self._limits is not None:
            if not np.isfinite(chosen[going]).all():
                self.check()  # the reason may be an observation that was not finite
                world = int((~np.isfinite(chosen).all(1) & going).argmax())
                raise SimulationError(
                    f"World {world} was given the action {chosen[world].tolist()}; expected "
                    "finite numbers."
                )
            chosen = chosen.clip(*self._limits)
        self._actions[self._taken[going], going.nonzero()[0]] = chosen[going]
        self._moved(going, chosen)
        return self._read()

    def episode(self, act: Act) -> Episode:
        """See `TensorVectorEnv.episode`; environments judge each step themselves."""
        return self.run_step_by_step(act)

    def state_dict(self) -> dict[str, Any]:
        """See `TensorVectorEnv.state_dict`."""
        episodes = {
            "seed": self._rows.seed,
            "taken": self._taken,
            "actions": self._actions,
            **{f"task {name}": rows for name, rows in self._started.items()},
        }
        copies = {name: torch.from_numpy(rows.copy()) for name, rows in episodes.items()}
        return {**super().state_dict(), "episodes": copies}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """See `TensorVectorEnv.load_state_dict`; raises as `start` does too."""
        if "episodes" not in values or values["episodes"]["actions"].shape != self._actions.shape:
            raise ShapeError(
                "Expected what the same family's `state_dict` returned on the gymnasium engine for "
                f"{self.num_envs} worlds."
            )
        super().load_state_dict(values)
        episodes = {name: rows.cpu().numpy().copy() for name, rows in values["episodes"].items()}
        self._actions, taken = episodes["actions"], episodes["taken"]
        self._taken = np.zeros_like(taken)
        self._started = {name: episodes[f"task {name}"] for name in self._started}
        everywhere = np.ones(self.num_envs, bool)
        self._told = False
        self._episodes(everywhere, self._started, episodes["seed"])
        self._told = False  # the present tasks may be others
        for step in range(int(taken.max())):
            self._moved(taken > step, self._actions[step])

    def recording(self, world: int) -> tuple[int, Task, np.ndarray]:
        """Returns what a world's episode was given so far: its seed, its task and its actions.

        Args:
            world: Its number.

        Returns:
            The seed; the task that it started with; copies of the actions, [L, A] float32, clipped,
            or [L] int64, L at most the horizon.
        """
        task = {name: rows[world].copy() for name, rows in self._started.items()}
        actions = self._actions[: self._taken[world], world]
        return int(self._rows.seed[world]), task, actions.copy()

    def close_extras(self, **kwargs: Any) -> None:
        """Closes all environments and ends their processes; called by `close`."""
        del kwargs
        if self._host is not None:
            self._host.close()
            self._host = None

    # Parts

    @property
    def _rows(self) -> Rows:
        if self._host is None:
            raise SimulationError("The environments are closed; `reset` builds them anew.")
        return self._host.rows

    def _episodes(self, marked: np.ndarray, tasks: Mapping[str, np.ndarray], seed: Any) -> None:
        """Starts the marked worlds with their tasks."""
        if self._host is None:
            self._host, self._told, self.closed = self._opened(), False, False
        host = self._host
        host.rows.active[:] = marked
        host.rows.seed[marked] = seed[marked]
        self._work(lambda: host.start(None if self._told else tasks), tasks, "at its reset")
        self._told = True

    def _moved(self, going: np.ndarray, actions: np.ndarray) -> None:
        """Steps the worlds that are going."""
        rows = self._rows
        rows.active[:] = going
        rows.action[:] = actions
        rows.reward[~going] = 0
        assert self._host is not None
        if going.any():
            self._work(self._host.step, self._started, "in step {}")
            self._taken[going] += 1

    def _opened(self) -> Host:
        count = min(self.workers, self.num_envs)
        if not count:
            return Environments(self.family, Rows.of(self.family, self.num_envs))
        try:
            return Workers(self.family, self.num_envs, count)
        except WorldError as failure:
            raise SimulationError(f"World {failure.world} {failure.what}") from failure

    def _work(self, work: Callable[[], None], tasks: Mapping[str, np.ndarray], when: str) -> None:
        try:
            work()
        except WorldError as failure:
            self.close_extras()
            world = failure.world
            task = shown_task({n: torch.from_numpy(rows) for n, rows in tasks.items()}, world)
            raise SimulationError(
                f"World {world} of {self.family.name}, with the task {task}, "
                f"{when.format(self._taken[world])}, {failure.what}"
            ) from failure
        except BaseException:
            self.close_extras()
            raise

    def _read(self) -> WorldState:
        rows = self._rows
        read = {n: getattr(rows, n).copy() for n in ("observation", "reward", "terminated")}
        return {name: torch.from_numpy(value).to(self.device) for name, value in read.items()}


def _arrays(tasks: Tasks) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy().copy() for name, value in tasks.items()}
