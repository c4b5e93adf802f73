"""The base class of families whose worlds are gymnasium environments."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import CloudpickleWrapper
from torch import Tensor

from metarl.errors import SettingsError, short_repr
from metarl.ranges import ANY, ANY_INT, LARGEST, MOST_THREADS, Range, check_int, check_number
from metarl.sim.card import Card, Fact
from metarl.sim.episode_metrics import Reduction, check_metrics
from metarl.sim.family import ActionSpace, Tasks, WorldState
from metarl.sim.gymnasium.descriptions import default_name, describe_space
from metarl.sim.gymnasium.observations import check_spaces, flattener, observation_of
from metarl.sim.gymnasium.pickling import picklable
from metarl.sim.gymnasium.rates import step_seconds, time_limit
from metarl.sim.gymnasium.suites import make_env, reason_of
from metarl.sim.reported_states import ReportedFamily
from metarl.sim.spaces import flat_actions, flat_observations
from metarl.tasks.base import Split, check_split

Task = Mapping[str, np.ndarray]
"""One task: name -> value, without the task dimension."""

SEEDS = 2**24  # the number of values of torch.rand in float32


@dataclass(frozen=True, kw_only=True)
class GymFamily(ReportedFamily):
    """A family whose worlds are gymnasium environments, optionally stepped by worker processes.

    States are those of a `ReportedFamily`. Actions are clipped to the action space of the
    environment. Every reset is seeded with a number in 0, ..., 2^24 - 1, computed from the one
    uniform number that the reset consumes. Environments must therefore draw all their random
    numbers from `self.np_random`.

    The horizon limits the episodes: environments that are built from an id get no time limit. An
    environment may truncate an episode before the horizon, which is no termination.

    Attributes:
        env: The id of an environment, such as "Pendulum-v1", with the package that registers it in
            front, "minigrid:MiniGrid-FourRooms-v0"; or a function or class that builds one.
        horizon: Steps of an episode; 0 takes the time limit of the environment.
        name: Name with a version. By default the name of the environment and, in parentheses,
            `note`.
        settings: Keyword arguments for building the environment.
        workers: Number of worker processes; 0 steps the environments in this process.
        time_limit: Seconds that a worker may take for one step, or one reset, of all its worlds.
            It has no effect without workers.
        part: The split that tasks are drawn from.
        metrics: Numbers of the environment's `info` that become metrics: name in `info` -> "any",
            "last" or "mean" of the steps of an episode; `{"success": "any"}`. A step may leave one
            out; an episode that reports none is an error.
        worlds: 1 for an environment that exists once (a robot, a server, a licence): `env` is
            called once, episodes are run one after another with a reset before each, and the caller
            closes the environment. None for as many as are needed.
        rate: Steps per second, in Hz, that are kept by waiting; needs `worlds=1`; see `Clock`.
    """

    engine: ClassVar[str] = "gymnasium"
    env: str | Callable[..., gymnasium.Env] = field(kw_only=False)
    horizon: int = 0
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 0
    time_limit: float = 60.0
    part: Split = "train"
    metrics: Mapping[str, Reduction] = field(default_factory=dict)
    worlds: int | None = None
    rate: float | None = None
    reset_noise = 1

    @property
    @abstractmethod
    def note(self) -> str:
        """What differs between tasks, for the name: "g,m" in "Pendulum(g,m)-v1"."""

    def __post_init__(self) -> None:
        """Builds an environment and checks its spaces, the horizon and the settings.

        Raises:
            SettingsError: The environment does not exist, cannot be built or has unsupported
                spaces, neither it nor `horizon` limits the episodes, or a setting is out of range.
        """
        check_split(self.part)
        check_int("workers", self.workers, Range(-LARGEST, MOST_THREADS))
        check_int("horizon", self.horizon, ANY_INT)
        check_number("time_limit", self.time_limit, ANY)
        if self.workers < 0 or not self.time_limit > 0 or self.horizon < 0:
            raise SettingsError(
                "Expected `workers` and `horizon` of at least 0 and a `time_limit` above 0, got "
                f"{self.workers}, {self.horizon} and {self.time_limit}."
            )
        check_metrics(self.metrics)
        if isinstance(self.env, str) and "max_episode_steps" in self.settings:
            raise SettingsError(
                "Expected the length of episodes as `horizon`, which replaces the time limit of "
                f"{self.title!r}, got `max_episode_steps` in the settings."
            )
        if self.worlds not in (None, 1) or (self.worlds == 1 and self.workers):
            raise SettingsError(
                "Expected `worlds` of None (as many as are needed) or 1, without workers, got "
                f"{self.worlds} and {self.workers} workers."
            )
        if self.rate is not None:
            check_number("rate", self.rate)
            if self.worlds is None:
                raise SettingsError(
                    "A `rate` is kept for one environment: set `worlds` to 1, or `rate` to None."
                )
        if not self.name:
            object.__setattr__(self, "name", default_name(self.title, self.note))
        check_spaces(self.probe)
        _ = self.env_observations  # before a task is set, which may change its bounds
        object.__setattr__(self, "horizon", self._checked_horizon(self.horizon))

    @abstractmethod
    def apply_task(self, env: gymnasium.Env, task: Task) -> gymnasium.Env:
        """Sets the task of an environment; the caller resets it afterwards.

        Args:
            env: An environment with any task.
            task: The new task.

        Returns:
            The same environment, or a new one that replaces it.
        """

    def restore_task(self, env: gymnasium.Env, task: Task) -> None:
        """Restores what an episode may have changed of an environment's task; by default nothing.

        Called before a reset with the same task as before.

        Args:
            env: An environment that has the task.
            task: The task.
        """

    @property
    def title(self) -> str:
        """The id of the environment, or the name of the function or class that builds it."""
        if isinstance(self.env, str):
            return self.env.rpartition(":")[2]
        return self._builder.__name__

    @property
    def step_seconds(self) -> float | None:
        said = step_seconds(self.probe)
        if said is not None:  # the rate of films may be another one
            return said
        rate = _metadata(self.probe).get("render_fps")
        if not isinstance(rate, int | float) or not 0 < rate < math.inf:
            return None
        return 1 / rate

    @property
    def world_settings(self) -> dict[str, Any]:
        own = {"environment": self.title, "settings": dict(self.settings)}
        return {**super().world_settings, **own}

    def build(self, **keywords: Any) -> gymnasium.Env:
        """Builds an environment from `settings` and further keyword arguments.

        Raises:
            SettingsError: The environment does not exist or cannot be built.
        """
        keywords = {**self._needed_keywords, **self.settings, **keywords}
        if not isinstance(self.env, str) and not callable(self.env):
            once = isinstance(self.env, gymnasium.Env)
            raise SettingsError(
                "Expected the id of an environment, or a class or function that builds one"
                f"{', lambda: env, with worlds=1 if it exists once' if once else ''}, got "
                f"{short_repr(self.env)}."
            )
        try:
            make = partial(make_env, self.env) if isinstance(self.env, str) else self.env
            env = make(**keywords)
        except SettingsError:
            raise
        except Exception as error:
            raise SettingsError(
                f"The environment {self.title!r} cannot be built with {keywords or 'no settings'}: "
                f"{reason_of(error, self.env)}"
            ) from error
        if not isinstance(env, gymnasium.Env):
            raise SettingsError(
                f"Expected {self.title!r} to build a gymnasium.Env of one world, got "
                f"{type(env).__name__}. The package shimmy wraps those of dm_env and the older gym."
            )
        return env

    @cached_property
    def probe(self) -> gymnasium.Env:
        """An environment for inspecting spaces and attributes; no world uses it."""
        return self.build()

    @cached_property
    def env_observations(self) -> spaces.Box:
        """The observation space of a new environment, flattened to float32 numbers."""
        return flat_observations(self.probe.observation_space)

    @property
    def observation_space(self) -> spaces.Box:
        """That of a new environment, unless `observe` of a subclass returns other numbers."""
        return self.env_observations

    @property
    def action_space(self) -> ActionSpace:
        """The action space: a Box of A float32 numbers, or a Discrete that starts at 0.

        Other spaces are flattened to a Box; each of their discrete values is one entry, counted
        from 0.
        """
        return flat_actions(self.probe.action_space)

    def split(self, name: Split) -> Self:
        return self._with_fields(part=check_split(name))

    def painting(self) -> Self:
        """Returns the same family with environments in render mode "rgb_array".

        Raises:
            SettingsError: The environment does not support this mode.
        """
        mode, offered = "rgb_array", _metadata(self.probe).get("render_modes") or ()
        if self.probe.render_mode == mode:
            return self
        if self.worlds == 1:
            raise SettingsError(
                f"{self.title!r} exists once, in render mode {self.probe.render_mode!r}: build it "
                f"in render mode {mode!r} to film it."
            )
        if mode not in offered:
            raise SettingsError(
                f"Expected {self.title!r} to offer the render mode {mode!r}, its metadata has "
                f"{', '.join(map(str, offered)) or 'none'}."
            )
        other = self._with_fields(settings={**self.settings, "render_mode": mode})
        vars(other).pop("probe")
        return other

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """Resets `probe` with each task in turn."""
        flat, rows = flattener(self.probe.observation_space), []
        for task, seed in zip(each_task(tasks), seeds(noise), strict=True):
            env = self.apply_task(self.probe, task)
            result: Any = env.reset(seed=int(seed))
            rows.append(np.asarray(flat(observation_of(result)), np.float32))
            if env is not self.probe:
                env.close()
        return self.first_state(torch.from_numpy(np.stack(rows)).to(noise.device))

    def __getstate__(self) -> dict[str, Any]:
        """Omits `probe`, so that the environment need not be picklable.

        A local function or lambda that builds environments is pickled by value.

        Raises:
            SettingsError: It cannot be pickled.
        """
        return {**self._fields(), "env": picklable(self.env, self.title)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores what `__getstate__` returned."""
        env = state["env"]
        vars(self).update({**state, "env": env.fn if isinstance(env, CloudpickleWrapper) else env})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Leaves out `probe`; shares the fields, which nothing changes and may hold handles."""
        other = object.__new__(type(self))
        vars(other).update(self._fields())
        return other

    def _fields(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "probe"}

    @property
    def _needed_keywords(self) -> Mapping[str, Any]:
        """Values of keyword arguments without which no environment can be built."""
        return {}

    @property
    def _builder(self) -> Any:
        """The function or class that builds environments; `env` is not an id."""
        builder: Any = getattr(self.env, "func", self.env)  # unwraps functools.partial
        return builder if hasattr(builder, "__name__") else type(builder)

    def _with_fields(self, **fields: Any) -> Self:
        """Returns a copy with some fields replaced; cached properties are copied too."""
        other = object.__new__(type(self))
        vars(other).update(vars(self) | fields)  # the dataclass is frozen
        return other

    def _make_card(self, summary: str, tasks: Fact, disjoint: bool) -> Card:
        own, env = "the environment's own", self.probe
        settings = ", ".join(f"{n}={v!r}" for n, v in self.settings.items())
        source = "" if isinstance(self.env, str) else f" of {self._builder.__module__}"
        size = self.env_observations.shape[0]
        is_box = isinstance(env.action_space, spaces.Box)
        units = ", clipped to it" if is_box else ""
        units += "; policies act in -1..1" if is_box and not self.published_units else ""
        observation = f"{describe_space(env.observation_space)}; {size} entries when flat"
        return Card(
            self.name,
            summary,
            f"gymnasium environment {self.title}{source}",
            (
                tasks,
                Fact("start", f"{own}, of a seed below 2^24"),
                Fact("observation", observation),
                Fact("action", f"{describe_space(env.action_space)}{units}"),
                Fact("dynamics", f"{own}{f', with {settings}' if settings else ''}"),
                Fact("reward", own),
                Fact("termination", own),
                Fact("horizon", f"{self.horizon} steps, or the environment's own truncation"),
            ),
            disjoint,
        )

    def _checked_horizon(self, horizon: int) -> int:
        """Returns the horizon, where 0 stands for the time limit of the environment."""
        limit = time_limit(self.probe)
        default = (
            gymnasium.spec(self.title).max_episode_steps if isinstance(self.env, str) else limit
        )
        horizon = horizon or default or 0
        if not horizon:
            raise SettingsError(
                f"Neither the family nor {self.title!r} limits episodes: expected `horizon`, the "
                "steps of one."
            )
        if limit is not None and limit < horizon:
            raise SettingsError(
                f"A TimeLimit of {self.title!r} ends episodes after {limit} steps, before the "
                f"horizon of {horizon}: choose horizon={limit}, or build it without."
            )
        return horizon


# Spaces and values


def each_task(tasks: Tasks) -> Iterator[Task]:
    """Yields the task of each world."""
    arrays = {name: value.cpu().numpy() for name, value in tasks.items()}
    for world in range(len(next(iter(arrays.values())))):
        yield {name: value[world] for name, value in arrays.items()}


def seeds(noise: Tensor) -> np.ndarray:
    """Returns reset seeds, [W] int64 in 0, ..., 2^24 - 1, for uniform numbers [W, 1] in [0, 1)."""
    return (noise[:, 0].cpu() * SEEDS).long().numpy()


def _metadata(env: gymnasium.Env) -> Mapping[str, Any]:
    """Returns an environment's metadata; empty where it is not a dict."""
    metadata: Any = env.metadata
    return metadata if isinstance(metadata, Mapping) else {}
