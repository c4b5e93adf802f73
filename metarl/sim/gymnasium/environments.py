"""Gymnasium environments in one process, and the arrays that carry their inputs and outputs."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.errors import short_repr
from metarl.registry import did_you_mean
from metarl.sim.gymnasium.family import GymFamily, Task
from metarl.sim.gymnasium.observations import (
    ResultError,
    check_same_spaces,
    flattener,
    observation_of,
    step_result,
)
from metarl.sim.spaces import action_reader

TaskRows = Mapping[str, np.ndarray]
"""Tasks of W worlds: name -> [W, *]."""

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
"""Returns an array of zeros of the given shape and dtype."""

LONGEST = 2**62  # steps of an episode
LARGEST_NUMBER = float(np.finfo(np.float32).max)


class WorldError(Exception):
    """An error in one world.

    Attributes:
        world: The index of the world.
        what: The rest of the message, which follows "World 3 ".
    """

    def __init__(self, world: int, what: str) -> None:
        super().__init__(world, what)
        self.world, self.what = world, what


@dataclass(frozen=True)
class Rows:
    """Inputs and outputs of W environments, one row per world; may lie in shared memory.

    Attributes:
        active: Which worlds the next call resets or steps, [W] bool.
        seed: The seeds of the resets, [W] int64.
        action: Actions inside the action space, [W, A] float32, or [W] int64 starting at 0.
        observation: Flattened observations, [W, O] float32.
        reward: Rewards of the last step, [W] float32.
        terminated: Whether the episode has reached a terminal state, [W] bool.
        truncated: Whether the environment has cut the episode off, [W] bool.
        metrics: Numbers of `info` of the last step, [W, M] float32; NaN where it has none.
        at: `at[0]` is the index of the world that is being reset or stepped, [W] int64.
    """

    active: np.ndarray
    seed: np.ndarray
    action: np.ndarray
    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    metrics: np.ndarray
    at: np.ndarray

    @classmethod
    def of(cls, family: GymFamily, worlds: int, allocate: Allocate = np.zeros) -> Self:
        """Allocates the rows of `worlds` worlds of a family."""
        space = family.action_space
        dtype = np.int64 if isinstance(space, spaces.Discrete) else np.float32
        observation_shape = family.env_observations.shape
        return cls(
            active=allocate((worlds,), np.bool_),
            seed=allocate((worlds,), np.int64),
            action=allocate((worlds, *(space.shape or ())), dtype),
            observation=allocate((worlds, *observation_shape), np.float32),
            reward=allocate((worlds,), np.float32),
            terminated=allocate((worlds,), np.bool_),
            truncated=allocate((worlds,), np.bool_),
            metrics=allocate((worlds, len(family.metrics)), np.float32),
            at=allocate((worlds,), np.int64),
        )

    def cut(self, low: int, high: int) -> Rows:
        """Returns a view of the rows of worlds low, ..., high - 1."""
        return Rows(**{name: rows[low:high] for name, rows in vars(self).items()})


class Host(Protocol):
    """Interface of what runs environments: in this process (`Environments`) or in `Workers`.

    Attributes:
        rows: Inputs and outputs of the environments.
    """

    @property
    def rows(self) -> Rows:
        """Inputs and outputs of the environments."""
        ...

    def start(self, tasks: TaskRows | None) -> None:
        """Resets the environments of the active worlds.

        Args:
            tasks: New tasks of all worlds, [W, *] per name; None keeps the current ones.

        Raises:
            WorldError: An environment raised, or returned values that do not fit its spaces.
        """
        ...

    def step(self) -> None:
        """Steps the environments of the active worlds; raises the errors of `start`."""
        ...

    def close(self) -> None:
        """Closes the environments."""
        ...


class Environments:
    """A `Host` in this process. An environment is built at the first reset of its world.

    Args:
        family: The family of the worlds.
        rows: Inputs and outputs of the environments.

    Attributes:
        reported: Names in the `info` of the last step of the first world.
    """

    reported: tuple[Any, ...] = ()

    def __init__(self, family: GymFamily, rows: Rows) -> None:
        self.rows = rows
        self._family = family
        self._tasks: TaskRows = {}
        self._envs: list[gymnasium.Env | None] = [None] * len(rows.active)
        self._env_tasks: list[Task | None] = [None] * len(rows.active)
        self._owners: dict[int, int] = {}  # id of an unwrapped environment -> its world
        self._unreported = np.zeros((len(rows.active), len(family.metrics)), np.int64)
        self._measures = bool(family.metrics)
        self._spaces = family.probe.observation_space, family.probe.action_space
        self._checked = [self._spaces] * len(rows.active)  # those of each world, seen last
        self._flat, self._to_env_action = flattener(self._spaces[0]), action_reader(self._spaces[1])

    def start(self, tasks: TaskRows | None) -> None:
        """Resets the environments of the active worlds, with new tasks unless they are None."""
        if tasks is not None:
            self._tasks = tasks
        self._for_each_active(self._start, "reset")

    def step(self) -> None:
        """Steps the environments of the active worlds."""
        self._for_each_active(self._step, "stepped")

    def adopt(self, world: int, env: gymnasium.Env, task: Task) -> None:
        """Takes over an environment that has this task, as that of a world."""
        self._own(world, env)
        self._envs[world], self._env_tasks[world] = env, task

    def env(self, world: int) -> gymnasium.Env:
        """Returns the environment of a world that has been reset."""
        env = self._envs[world]
        assert env is not None
        return env

    def picture(self, world: int) -> Any:
        """Returns the result of `render` of a world that has been reset."""
        return self.env(world).render()

    def close(self) -> None:
        """Closes the environments; errors of one do not stop the others.

        One that exists once stays open.
        """
        for env in self._envs:
            if env is not None and self._family.worlds is None:
                with contextlib.suppress(Exception):  # the other environments must still be closed
                    env.close()
        self._envs = [None] * len(self._envs)
        self._owners.clear()

    def _for_each_active(self, call: Callable[[int], None], verb: str) -> None:
        """Calls a function for each active world; raises WorldError with the traceback."""
        at = self.rows.at
        for world in self.rows.active.nonzero()[0].tolist():
            at[0] = world
            try:
                call(world)
            except WorldError:
                raise
            except ResultError as error:
                raise WorldError(world, f"does not fit when it is {verb}. {error}") from None
            except (Exception, SystemExit) as error:
                trace = "".join(traceback.format_exception(error)).rstrip()
                raise WorldError(world, f"failed when it was {verb}.\n{trace}") from error

    def _start(self, world: int) -> None:
        env, rows = self._with_task(world), self.rows
        result: Any = env.reset(seed=int(rows.seed[world]))
        rows.observation[world] = self._flat(observation_of(result))
        rows.reward[world] = 0
        rows.terminated[world] = rows.truncated[world] = False
        rows.metrics[world] = np.nan
        self._unreported[world] = 0

    def _step(self, world: int) -> None:
        env, rows = self._envs[world], self.rows
        assert env is not None
        result: Any = env.step(self._to_env_action(rows.action[world]))
        observation, reward, terminated, truncated, info = step_result(result)
        rows.observation[world] = self._flat(observation)
        rows.reward[world] = reward
        rows.terminated[world] = terminated
        rows.truncated[world] = truncated
        if world == 0 and isinstance(info, Mapping):
            self.reported = tuple(info)
        if self._measures:
            self._read_metrics(world, info)

    def _read_metrics(self, world: int, info: Any) -> None:
        """Reads the numbers of a step; raises ResultError if an episode does not report one."""
        info = {} if info is None else info
        if not isinstance(info, Mapping):
            raise ResultError(f"Expected a dict `info` of a step, got {short_repr(info)}.")
        rows, unreported = self.rows, self._unreported[world]
        ended = rows.terminated[world] or rows.truncated[world]
        for index, name in enumerate(self._family.metrics):
            number = np.nan if info.get(name) is None else _metric(name, info[name])
            rows.metrics[world, index] = number
            if not np.isnan(number):
                unreported[index] = -LONGEST  # this episode has reported it
            else:
                unreported[index] += 1
                if unreported[index] > 0 and (ended or unreported[index] >= self._family.horizon):
                    last = (
                        f" Its last step has {short_repr(info[name])}."
                        if name in info
                        else f"{did_you_mean(name, map(str, info))} Its last step has "
                        f"{', '.join(map(str, info)) or 'nothing'}."
                    )
                    raise ResultError(
                        f"Expected a number {name!r} in `info` of a step of each episode, for the "
                        f"metric of that name, such as 0 where it did not happen; this episode had "
                        f"none.{last}"
                    )

    def _with_task(self, world: int) -> gymnasium.Env:
        """Returns the world's environment with its task set; builds it if necessary."""
        current = self._envs[world]
        given = env = self._new() if current is None else current
        task, old_task = {n: rows[world] for n, rows in self._tasks.items()}, self._env_tasks[world]
        if old_task is None or any(not np.array_equal(task[n], old_task[n]) for n in task):
            env = self._family.apply_task(env, task)
            self._env_tasks[world] = task
        else:
            self._family.restore_task(env, task)
        if env is not given:  # built again, with the task's keyword arguments
            given.close()
        if env is not current:
            self._own(world, env)
        self._check_spaces(world, env)
        self._envs[world] = env
        return env

    def _check_spaces(self, world: int, env: gymnasium.Env) -> None:
        """Raises ResultError where a task changes what actions or entries of observations mean."""
        observed, acted = env.observation_space, env.action_space
        seen = self._checked[world]
        if observed is not seen[0] or acted is not seen[1]:
            check_same_spaces(self._spaces, (observed, acted))
            self._checked[world] = observed, acted

    def _new(self) -> gymnasium.Env:
        return self._family.build() if self._family.worlds is None else self._family.probe

    def _own(self, world: int, env: gymnasium.Env) -> None:
        """Records whose environment this is; raises WorldError if it is another world's too."""
        if self._family.worlds == 1:
            return
        old, core = self._envs[world], env.unwrapped
        if old is not None:
            self._owners.pop(id(old.unwrapped), None)
        owner = self._owners.setdefault(id(core), world)
        if owner != world or core is self._family.probe.unwrapped:
            other = "the one that the family inspects" if owner == world else f"world {owner}"
            raise WorldError(
                world,
                f"has the same environment object as {other}, a {type(core).__name__}: one would "
                f"be stepped for several worlds. Expected {self._family.title!r} to build a new "
                "environment at each call; build it inside of the function.",
            )


def _metric(name: str, value: Any) -> float:
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "biuf":
        raise ResultError(f"Expected one number {name!r} in `info`, got {short_repr(value)}.")
    if (np.abs(number) > LARGEST_NUMBER).any():
        raise ResultError(
            f"Expected a finite number {name!r} in `info`, at most {LARGEST_NUMBER:.2g}, got "
            f"{short_repr(value)}."
        )
    return float(number.reshape(()))
