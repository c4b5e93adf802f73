"""Gymnasium environments side by side in one process, and the rows by which they are told."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.sim.gymnasium.family import GymFamily, Task, flattener

TaskRows = Mapping[str, np.ndarray]
"""Tasks of W worlds: name -> [W, *]."""

Allocate = Callable[[tuple[int, ...], Any], np.ndarray]
"""Makes an array of zeros of a shape and a type."""


class WorldError(Exception):
    """Something went wrong in a world.

    Attributes:
        world: Its number.
        what: What it did, to follow "World 3 ".
    """

    def __init__(self, world: int, what: str) -> None:
        super().__init__(world, what)
        self.world, self.what = world, what


@dataclass(frozen=True)
class Rows:
    """What W environments are told and tell, one row each; processes may share it.

    Attributes:
        active: Which worlds the next call starts or steps, [W] bool.
        seed: What their resets are given, [W] int64.
        action: Inside the space, [W, A] float32 or [W] int64 counted from 0.
        observation: Flattened, [W, O] float32.
        reward: Of the last step, [W] float32.
        terminated: Whether the episode has ended, [W] bool.
        at: In the first row, the world that is being worked at; [W] int64.
    """

    active: np.ndarray
    seed: np.ndarray
    action: np.ndarray
    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    at: np.ndarray

    @classmethod
    def of(cls, family: GymFamily, worlds: int, allocate: Allocate = np.zeros) -> Self:
        """Makes rows for so many worlds of a family."""
        space = family.action_space
        kind = np.int64 if isinstance(space, spaces.Discrete) else np.float32
        observed = family.observation_space.shape
        return cls(
            active=allocate((worlds,), np.bool_),
            seed=allocate((worlds,), np.int64),
            action=allocate((worlds, *(space.shape or ())), kind),
            observation=allocate((worlds, *observed), np.float32),
            reward=allocate((worlds,), np.float32),
            terminated=allocate((worlds,), np.bool_),
            at=allocate((worlds,), np.int64),
        )

    def cut(self, low: int, high: int) -> Rows:
        """Returns the rows of worlds low, ..., high - 1, in the same memory."""
        return Rows(**{name: rows[low:high] for name, rows in vars(self).items()})


class Host(Protocol):
    """Where environments live: in this process (`Environments`) or in others (`Workers`).

    Attributes:
        rows: What the environments are told and tell.
    """

    @property
    def rows(self) -> Rows:
        """What the environments are told and tell."""
        ...

    def start(self, tasks: TaskRows | None) -> None:
        """Starts episodes of the active worlds.

        Args:
            tasks: The tasks of all worlds from now on; None: they stay.

        Raises:
            WorldError: An environment raised, or gave what does not fit its spaces.
        """
        ...

    def step(self) -> None:
        """Steps the active worlds; raises as `start` does."""
        ...

    def close(self) -> None:
        """Closes the environments."""
        ...


class Environments:
    """A `Host` in this process; environments are built when they first start.

    Args:
        family: What the worlds are.
        rows: Their rows.
    """

    def __init__(self, family: GymFamily, rows: Rows) -> None:
        self.rows = rows
        self._family = family
        self._tasks: TaskRows = {}
        self._envs: list[gymnasium.Env | None] = [None] * len(rows.active)
        self._held: list[Task | None] = [None] * len(rows.active)
        self._flat = flattener(family.probe.observation_space)
        self._action = _action_maker(family.probe.action_space)

    def start(self, tasks: TaskRows | None) -> None:
        """See `Host.start`."""
        if tasks is not None:
            self._tasks = tasks
        self._each(self._start, "reset")

    def step(self) -> None:
        """See `Host.step`."""
        self._each(self._step, "stepped")

    def picture(self, world: int) -> Any:
        """Returns what the `render` of a world that has started gives."""
        env = self._envs[world]
        assert env is not None
        return env.render()

    def close(self) -> None:
        """See `Host.close`."""
        for env in self._envs:
            if env is not None:
                with contextlib.suppress(Exception):  # it must not stop the others' closing
                    env.close()
        self._envs = [None] * len(self._envs)

    def _each(self, work: Callable[[int], None], done: str) -> None:
        at = self.rows.at
        for world in self.rows.active.nonzero()[0].tolist():
            at[0] = world
            try:
                work(world)
            except Exception as error:
                told = "".join(traceback.format_exception(error)).rstrip()
                raise WorldError(world, f"failed when it was {done}.\n{told}") from error

    def _start(self, world: int) -> None:
        env, rows = self._with_task(world), self.rows
        observation, _ = env.reset(seed=int(rows.seed[world]))
        rows.observation[world] = self._flat(observation)
        rows.reward[world] = 0
        rows.terminated[world] = False

    def _step(self, world: int) -> None:
        env, rows = self._envs[world], self.rows
        assert env is not None
        result: Any = env.step(self._action(rows.action[world]))
        if len(result) != 5:
            raise ValueError(
                "Expected `step` to return observation, reward, terminated, truncated and info, "
                f"got {len(result)} values."
            )
        observation, reward, terminated, truncated, _ = result
        if not isinstance(reward, float) and np.ndim(reward):  # NumPy's are floats too
            raise ValueError(f"Expected one number as reward, got the shape {np.shape(reward)}.")
        rows.observation[world] = self._flat(observation)
        rows.reward[world] = reward
        rows.terminated[world] = terminated or truncated

    def _with_task(self, world: int) -> gymnasium.Env:
        present = self._envs[world]
        env = self._family.build() if present is None else present
        task, held = {n: rows[world] for n, rows in self._tasks.items()}, self._held[world]
        if held is None or any(not np.array_equal(task[n], held[n]) for n in task):
            env = self._family.given(env, task)
            self._held[world] = task
        if env is not present:
            if present is not None:
                present.close()
            _check_sizes(env, self._family.probe)
        self._envs[world] = env
        return env


def _check_sizes(env: gymnasium.Env, other: gymnasium.Env) -> None:
    found, expected = ((e.observation_space, e.action_space) for e in (env, other))
    if list(map(spaces.flatdim, found)) != list(map(spaces.flatdim, expected)):
        raise ValueError(
            f"Expected all tasks to have spaces of the same sizes, {expected[0]} and {expected[1]}"
            f", got {found[0]} and {found[1]}."
        )


def _action_maker(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """Returns what makes an environment's action of a row: one of its own, in its type."""
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return lambda row: int(row) + first
    shape, kind = space.shape, space.dtype
    if len(shape or ()) == 1:
        return lambda row: row.astype(kind)
    return lambda row: row.astype(kind).reshape(shape)
