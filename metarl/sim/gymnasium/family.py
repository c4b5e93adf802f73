"""Families whose worlds are gymnasium environments of any kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim.card import Card, Fact
from metarl.sim.family import ActionSpace, TaskFamily, Tasks, WorldState
from metarl.tasks.base import Split, check_split

Task = Mapping[str, np.ndarray]
"""One task: name -> its value, without the dimension of tasks."""

SEEDS = 2**24  # a float32 number in [0, 1) has so many values


@dataclass(frozen=True, kw_only=True)
class GymFamily(TaskFamily):
    """A family whose worlds are gymnasium environments; other processes may step them.

    A `WorldState` holds what they gave last: "observation" [W, O] float32, flattened as
    `gymnasium.spaces.flatten` does; "reward" [W] float32; "terminated" [W] bool. Actions are
    clipped to the environments' space. Every reset is given a seed, made of the one uniform number
    that it consumes: an environment must draw from `self.np_random` only.

    The horizon governs: environments made from an id have no time limit of their own. One that
    cuts an episode off by itself before has ended it, as if it had terminated.

    Attributes:
        env: An environment's id, or what builds one.
        horizon: Steps of an episode; where it is 0 at first, the environment's own time limit.
        name: With a version; by default the environment's, with a note of what tasks change.
        settings: Keyword arguments for what builds the environment, those that it cannot do
            without among them.
        workers: Processes that step the environments; 0 steps them in this one.
        time_limit: Seconds that a worker may take for one step, or one reset, of all its worlds;
            without workers nothing limits it.
        part: The split that tasks are drawn from.
    """

    env: str | Callable[..., gymnasium.Env] = field(kw_only=False)
    horizon: int = 0
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 0
    time_limit: float = 60.0
    part: Split = "train"
    reset_noise = 1

    @property
    @abstractmethod
    def note(self) -> str:
        """What tasks change, for the name: "g,m" of "Pendulum(g,m)-v1"."""

    def __post_init__(self) -> None:
        """Builds an environment, and checks it and the settings.

        Raises:
            SettingsError: There is no such environment, it cannot be built, has spaces of another
                kind or no time limit where none is set; or a setting is out of its range.
        """
        check_split(self.part)
        if self.workers < 0 or not self.time_limit > 0 or self.horizon < 0:
            raise SettingsError(
                "Expected `workers` and `horizon` of at least 0 and a `time_limit` above 0, got "
                f"{self.workers}, {self.horizon} and {self.time_limit}."
            )
        if not self.name:
            object.__setattr__(self, "name", _versioned(self.title, self.note))
        check_spaces(self.probe)
        object.__setattr__(self, "horizon", self._governing(self.horizon))

    @abstractmethod
    def given(self, env: gymnasium.Env, task: Task) -> gymnasium.Env:
        """Gives an environment a task; a reset follows.

        Args:
            env: The environment, of whatever task.
            task: Its next task.

        Returns:
            The same environment, or another one that takes its place.
        """

    @property
    def title(self) -> str:
        """The environment's id, or the name of what builds it."""
        if isinstance(self.env, str):
            return self.env
        return self._builder.__name__

    def build(self, **keywords: Any) -> gymnasium.Env:
        """Builds an environment of the settings, and of other keyword arguments if there are any.

        Raises:
            SettingsError: There is no such environment, or it cannot be built.
        """
        keywords = {**self.settings, **keywords}
        try:
            if isinstance(self.env, str):
                # The family's horizon is the limit, and a checker would warn, not tell.
                env = gymnasium.make(
                    self.env, max_episode_steps=-1, disable_env_checker=True, **keywords
                )
            else:
                env = self.env(**keywords)
        except Exception as error:
            raise SettingsError(
                f"The environment {self.title!r} cannot be built with {keywords or 'no settings'}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(env, gymnasium.Env):
            raise SettingsError(
                f"Expected {self.title!r} to build a gymnasium.Env, got {type(env).__name__}."
            )
        return env

    @cached_property
    def probe(self) -> gymnasium.Env:
        """An environment to look at; the worlds have others."""
        return self.build()

    @property
    def observation_space(self) -> spaces.Box:
        """What the environment observes, flattened to O numbers."""
        flat = spaces.flatten_space(self.probe.observation_space)
        assert isinstance(flat, spaces.Box)
        with np.errstate(over="ignore"):  # bounds beyond float32 are none
            low, high = flat.low.astype(np.float32), flat.high.astype(np.float32)
        return spaces.Box(low, high, dtype=np.float32)

    @property
    def action_space(self) -> ActionSpace:
        """What the environment takes, flattened to A numbers or counted from 0."""
        space = self.probe.action_space
        if isinstance(space, spaces.Discrete):
            return spaces.Discrete(int(space.n))
        assert isinstance(space, spaces.Box)
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return spaces.Box(low.ravel(), high.ravel(), dtype=np.float32)

    def split(self, name: Split) -> Self:
        """See `TaskFamily.split`."""
        return self._changed(part=check_split(name))

    def painting(self) -> Self:
        """Returns the family of the same tasks whose environments' `render` gives pictures.

        Raises:
            SettingsError: They have no pictures, or cannot be built with `render_mode`.
        """
        mode, offered = "rgb_array", self.probe.metadata.get("render_modes") or ()
        if self.probe.render_mode == mode:
            return self
        if mode not in offered:
            raise SettingsError(
                f"Expected {self.title!r} to offer the render mode {mode!r}, its metadata has "
                f"{', '.join(map(str, offered)) or 'none'}."
            )
        other = self._changed(settings={**self.settings, "render_mode": mode})
        vars(other).pop("probe")
        return other

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """See `TaskFamily.reset`; one environment after another."""
        flat, rows = flattener(self.probe.observation_space), []
        for task, seed in zip(each_task(tasks), seeds(noise), strict=True):
            env = self.given(self.probe, task)
            rows.append(np.asarray(flat(env.reset(seed=int(seed))[0]), np.float32))
            if env is not self.probe:
                env.close()
        observation = torch.from_numpy(np.stack(rows)).to(noise.device)
        nothing = torch.zeros(len(rows), device=noise.device)
        return {"observation": observation, "reward": nothing, "terminated": nothing.bool()}

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        """See `TaskFamily.observe`."""
        return state["observation"].clone()

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        """See `TaskFamily.reward`; the environment's own."""
        return after["reward"]

    def terminated(self, state: WorldState, tasks: Tasks) -> Tensor:
        """See `TaskFamily.terminated`; the environment's own."""
        return state["terminated"]

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the environment behind: what a worker gets need not be picklable then."""
        return {name: value for name, value in self.__dict__.items() if name != "probe"}

    @property
    def _builder(self) -> Any:
        """The function or class that builds environments, where that is not an id."""
        builder: Any = getattr(self.env, "func", self.env)  # of a functools.partial
        return builder if hasattr(builder, "__name__") else type(builder)

    def _changed(self, **fields: Any) -> Self:
        """Returns a copy with other fields, and with what took time to build or draw."""
        other = object.__new__(type(self))
        vars(other).update(vars(self) | fields)  # frozen: attributes cannot be set
        return other

    def _card(self, summary: str, tasks: Fact, disjoint: bool) -> Card:
        own, env = "the environment's own", self.probe
        settings = ", ".join(f"{n}={v!r}" for n, v in self.settings.items())
        source = "" if isinstance(self.env, str) else f" of {self._builder.__module__}"
        seen = f"{_told(env.observation_space)}; {self.observation_space.shape[0]} numbers"
        return Card(
            self.name,
            summary,
            f"gymnasium environment {self.title}{source}",
            (
                tasks,
                Fact("start", f"{own}, of a seed below 2^24"),
                Fact("observation", seen),
                Fact("action", f"{_told(env.action_space)}, clipped to it"),
                Fact("dynamics", f"{own}{f', with {settings}' if settings else ''}"),
                Fact("reward", own),
                Fact("termination", f"{own}, cutting off before the horizon included"),
                Fact("horizon", f"{self.horizon} steps"),
            ),
            disjoint,
        )

    def _governing(self, horizon: int) -> int:
        limit = _time_limit(self.probe)
        known = gymnasium.spec(self.env).max_episode_steps if isinstance(self.env, str) else limit
        horizon = horizon or known or 0
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


def check_spaces(env: gymnasium.Env) -> None:
    """Raises SettingsError for spaces that cannot be flattened to numbers, or chosen from."""
    try:
        flat = spaces.flatten_space(env.observation_space)
    except NotImplementedError:
        flat = None
    if not isinstance(flat, spaces.Box) or not flat.shape[0]:
        raise SettingsError(
            "Expected observations of fixed size, a Box, Discrete or the like or a Dict or Tuple "
            f"of such, got {env.observation_space}; wrap the environment in a "
            "gymnasium.ObservationWrapper."
        )
    space = env.action_space
    whole = isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating)
    if whole or not isinstance(space, spaces.Box | spaces.Discrete):
        raise SettingsError(
            f"Expected actions from a Box of real numbers or a Discrete, got {space}; wrap the "
            "environment in a gymnasium.ActionWrapper."
        )


def flattener(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """Returns what makes O numbers of an observation, and raises ValueError for others."""
    if not isinstance(space, spaces.Box):
        return lambda value: spaces.flatten(space, value)
    shape = space.shape
    is_flat = len(shape) == 1

    def flat(value: Any) -> Any:
        found = value.shape if isinstance(value, np.ndarray) else np.shape(value)
        if found != shape:
            raise ValueError(
                f"Expected an observation of shape {shape}, that of the observation space, got "
                f"{found}."
            )
        return value if is_flat else np.ravel(value)

    return flat


def each_task(tasks: Tasks) -> Iterator[Task]:
    """Yields the task of each world."""
    arrays = {name: value.cpu().numpy() for name, value in tasks.items()}
    for world in range(len(next(iter(arrays.values())))):
        yield {name: value[world] for name, value in arrays.items()}


def seeds(noise: Tensor) -> np.ndarray:
    """Returns the seeds of resets, [W] int64, that uniform numbers [W, 1] give."""
    return (noise[:, 0].cpu() * SEEDS).long().numpy()


def _time_limit(env: gymnasium.Env) -> int | None:
    """Returns after how many steps the first TimeLimit ends an episode; None: there is none."""
    limits = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            limits.append(env._max_episode_steps)  # `spec` lacks it for unregistered environments
        env = env.env
    return min(limits, default=None)


def _versioned(title: str, note: str) -> str:
    stem, _, version = title.rpartition("-v")
    if not stem or not version.isdigit():
        stem, version = title, "1"
    return f"{stem}({note})-v{version}"


def _told(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Box) and space.shape:
        low, high = float(space.low.min()), float(space.high.max())
        return f"{' x '.join(map(str, space.shape))} numbers in [{low:g}, {high:g}]"
    return str(space)
