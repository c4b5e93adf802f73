"""A batched simulator of the user's, with Gymnasium's interface of vector environments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from metarl.errors import SettingsError, SimulationError, short_repr
from metarl.ranges import check_int
from metarl.registry import check_choice
from metarl.sim.arguments import AUTORESET_MODES
from metarl.sim.batched.arrays import flattener, rows
from metarl.sim.family import ActionSpace, WorldState
from metarl.sim.gymnasium.observations import flattener as flattener_of_one
from metarl.sim.spaces import flat_actions, flat_observations

RESETS = ("same_step", "next_step")
"""When a simulator may start the next episode of a world that has ended."""
FINAL = ("final_obs", "final_observation")
"""Where `info` has the observations before a reset within the step: gymnasium's and ManiSkill's."""


class Simulator:
    """Builds a simulator when it is first needed, and converts what goes in and comes out.

    The N worlds of the simulator are always reset and stepped together. It receives arrays of the
    kind that it returns as observations, tensors on its device or arrays of NumPy: one further
    reset before the first one shows it.

    Args:
        source: The simulator, or a function that builds it.
        title: Its name, for messages.
        autoreset: When it resets a world that has ended, "same_step" or "next_step"; "" for what
            its `metadata` says.
        observed: The part of a Dict observation that policies see; "" for all of it.
        metrics: Names of numbers in `info`.

    Attributes:
        user: The vector environment whose episode is running.
        reported: Names in `info` and `final_info` of the last step.
        unmeasured: Metrics that no step since the last reset has reported.
    """

    reported: tuple[Any, ...] = ()

    def __init__(
        self, source: Any, title: str, autoreset: str, observed: str, metrics: Sequence[str]
    ) -> None:
        self._source, self._title = source, title
        self._given_mode, self._part_seen, self._metrics = autoreset, observed, tuple(metrics)
        self.user: object | None = None
        self.unmeasured = list(self._metrics)

    @cached_property
    def env(self) -> Any:
        """The simulator.

        Raises:
            SettingsError: It cannot be built, or lacks a part of the interface.
        """
        is_built = hasattr(self._source, "step") and not isinstance(self._source, type)
        env = self._source if is_built else self._build()
        for name in ("reset", "step", "num_envs", "single_observation_space"):
            if _attribute(env, name) is None:
                raise SettingsError(
                    f"Expected {self._title!r} to have Gymnasium's interface of vector "
                    f"environments, a {type(env).__name__} has no `{name}`. GymTasks takes "
                    "environments of one world."
                )
        return env

    @cached_property
    def num_worlds(self) -> int:
        """The number of its worlds, N."""
        return check_int(f"num_envs of {self._title!r}", _attribute(self.env, "num_envs"))

    @cached_property
    def resets_within_step(self) -> bool:
        """Whether it resets a world within the step that ends its episode.

        Raises:
            SettingsError: It does not say when it resets worlds, or does not reset them.
        """
        mode = self._given_mode
        if not mode:
            metadata = _attribute(self.env, "metadata")
            said = metadata.get("autoreset_mode") if isinstance(metadata, Mapping) else None
            known = {m: name for name, own in AUTORESET_MODES.items() for m in (own, own.value)}
            mode = known.get(said, "") if isinstance(said, AutoresetMode | str) else ""
        if not mode:
            raise SettingsError(
                f"{self._title!r} does not say when it resets worlds whose episode has ended: set "
                '`autoreset` to "same_step" (Isaac Lab, ManiSkill, Brax) or "next_step" (EnvPool, '
                "gymnasium, and one that never does)."
            )
        check_choice(f"autoreset of {self._title!r}", mode, RESETS)
        return mode == "same_step"

    @cached_property
    def _seen(self) -> spaces.Space[Any]:
        """The observation space of one world, or the part of it that policies see."""
        space = _attribute(self.env, "single_observation_space")
        if not self._part_seen:
            return space
        if not isinstance(space, spaces.Dict):
            raise SettingsError(
                f"Expected observations of {self._title!r} that are a Dict, of which "
                f"`observed` names one, got {space}."
            )
        check_choice(f"part of the observations of {self._title!r}", self._part_seen, space.spaces)
        return space[self._part_seen]

    @cached_property
    def observation_space(self) -> spaces.Box:
        """The observation space of one world, flattened to O float32 numbers."""
        return flat_observations(self._seen)

    @cached_property
    def action_space(self) -> ActionSpace:
        """The action space of one world: a Box of A float32 numbers, or a Discrete from 0.

        Raises:
            SettingsError: It is another space.
        """
        space = _attribute(self.env, "single_action_space")
        if not isinstance(space, spaces.Box | spaces.Discrete):
            raise SettingsError(
                f"Expected {self._title!r} to have the actions of a Box or Discrete, got "
                f"{short_repr(space)}. Wrap it in one that has."
            )
        return flat_actions(space)

    def reset(self, seed: int, tasks: Mapping[str, Any], set_tasks: Callable[..., Any]) -> Tensor:
        """Starts an episode in all worlds.

        Args:
            seed: The seed.
            tasks: What `set_tasks` gets: name -> a value for each world.
            set_tasks: Sets the tasks; called as set_tasks(env, tasks).

        Returns:
            The observations, [N, O] float32.

        Raises:
            SimulationError: The simulator raises, or returns something else than observations and
                a dict.
        """
        self.unmeasured = list(self._metrics)
        given = {name: self._like(values) for name, values in tasks.items()}
        with self._described("set_tasks"):
            set_tasks(self.env, given)
        return self._observed(self._begun(seed))

    def step(self, actions: Tensor, before: Tensor) -> WorldState:
        """Steps all worlds.

        Args:
            actions: Flat actions in their bounds, [N, A] float32 or [N] int64.
            before: The observations before the step, [N, O] float32. They stand for those of the
                end of an episode, where the simulator resets within the step and returns none.

        Returns:
            A state of a `ReportedFamily`, [N, *] per name.

        Raises:
            SimulationError: The simulator raises, or returns values that do not fit.
        """
        with self._described("step"):
            result = self.env.step(self._env_actions(actions))
        if not isinstance(result, tuple | list) or len(result) != 5:
            raise SimulationError(
                f"Expected `step` of {self._title!r} to return observations, rewards, terminated, "
                f"truncated and info, got {short_repr(result)}."
            )
        seen, reward, terminated, truncated, info = result
        info = self._read_info("info", info)
        last = info.get("final_info")
        self.reported = tuple({**info, **last} if isinstance(last, Mapping) else info)
        shape = (self.num_worlds,)
        state = {
            "observation": self._observed(seen),
            "reward": rows("rewards", reward, shape, torch.float32),
            "terminated": rows("`terminated`", terminated, shape, torch.bool),
            "truncated": rows("`truncated`", truncated, shape, torch.bool),
        }
        state = {name: value.to(before.device) for name, value in state.items()}
        ended = state["terminated"] | state["truncated"]
        if self.resets_within_step:
            last = self._final(info, ended, before)
            state["observation"] = torch.where(ended.unsqueeze(1), last, state["observation"])
        if self._metrics:
            state["metrics"] = self._measured(info, ended)
        return state

    # Parts

    def _build(self) -> Any:
        if not callable(self._source):
            raise SettingsError(
                "Expected a batched simulator, or a function that builds one, got "
                f"{short_repr(self._source)}."
            )
        try:
            return self._source()
        except Exception as error:
            raise SettingsError(
                f"The simulator {self._title!r} cannot be built: {type(error).__name__}: {error}"
            ) from error

    def _begun(self, seed: int) -> Any:
        """Resets all worlds and returns the simulator's observations."""
        with self._described("reset"):
            result = self.env.reset(seed=seed)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise SimulationError(
                f"Expected `reset` of {self._title!r} to return observations and a dict `info`, "
                f"got {short_repr(result)}."
            )
        return result[0]

    @cached_property
    def _device(self) -> torch.device | None:
        """The device of its tensors; None for arrays of NumPy."""
        leaf = self._begun(0)
        while isinstance(leaf, Mapping | tuple | list):
            leaf = next(iter(leaf.values())) if isinstance(leaf, Mapping) else leaf[0]
        return leaf.device if isinstance(leaf, Tensor) else None

    def _like(self, values: Any) -> Any:
        """Returns a tensor as the simulator has its arrays; other values as they are."""
        if not isinstance(values, Tensor):
            return values
        return values.cpu().numpy() if self._device is None else values.to(self._device)

    def _env_actions(self, actions: Tensor) -> Any:
        """Returns flat actions in the shape of the simulator's; integers for a Box of integers."""
        space = _attribute(self.env, "single_action_space")
        if isinstance(space, spaces.Discrete):
            return self._like(actions + int(space.start))
        actions = actions.reshape(self.num_worlds, *space.shape)
        actions = actions.round().long() if space.dtype.kind in "iu" else actions
        given = self._like(actions)
        return given if isinstance(given, Tensor) else given.astype(space.dtype)

    @cached_property
    def _flat(self) -> Callable[[Any], Tensor]:
        return flattener(self._seen, self.num_worlds)

    def _observed(self, seen: Any) -> Tensor:
        """Returns observations of the simulator, [N, O] float32."""
        if self._part_seen and isinstance(seen, Mapping):
            seen = seen.get(self._part_seen)
        return self._flat(seen)

    def _final(self, info: Mapping[str, Any], ended: Tensor, before: Tensor) -> Tensor:
        """Returns the observations before the reset of the worlds that have ended, [N, O]."""
        found = [info[name] for name in FINAL if info.get(name) is not None]
        if not found:
            return before
        if not (isinstance(found[0], np.ndarray) and found[0].dtype == object):
            return self._observed(found[0]).to(before.device)
        last, flat = before.clone(), flattener_of_one(self._seen)
        for world in ended.nonzero().flatten().tolist():
            seen = found[0][world]
            seen = seen[self._part_seen] if self._part_seen else seen
            last[world] = torch.from_numpy(np.asarray(flat(seen), np.float32)).to(last.device)
        return last

    def _measured(self, info: Mapping[str, Any], ended: Tensor) -> Tensor:
        """Returns the numbers of `info` of each metric, [N, M] float32; NaN where there is none."""
        final, columns = self._read_info("final_info", info.get("final_info")), []
        self.unmeasured = [name for name in self.unmeasured if name not in {*info, *final}]
        for name in self._metrics:
            values, last = (self._numbers(part, name, ended.device) for part in (info, final))
            # `info` may be that of the resets alone; ManiSkill's `final_info` is of all worlds.
            from_last = ended | (name not in info)
            columns.append(torch.where(from_last & ~last.isnan(), last, values))
        return torch.stack(columns, 1)

    def _read_info(self, name: str, info: Any) -> Mapping[str, Any]:
        """Returns what `step` reports of all worlds; SimulationError unless it is a dict or None.

        Lists and arrays of dicts, one of each world, would hide observations and metrics of ends.
        """
        if not isinstance(info, Mapping | None):
            raise SimulationError(
                f"Expected `{name}` of `step` of {self._title!r} as a dict of arrays, a row for "
                f"each world, got {short_repr(info)}: leave out wrappers that make a list of it."
            )
        return info or {}

    def _numbers(self, info: Mapping[str, Any], name: str, device: torch.device) -> Tensor:
        """Returns a number of each world, [N] float32; NaN for those that gymnasium masks."""
        if name not in info:
            return torch.full((self.num_worlds,), torch.nan, device=device)
        shape = (self.num_worlds,)
        values = rows(f"{name!r} in `info`", info[name], shape, torch.float32).to(device)
        if f"_{name}" not in info:
            return values
        has_one = rows(f"'_{name}' in `info`", info[f"_{name}"], shape, torch.bool).to(device)
        return values.masked_fill(~has_one, torch.nan)

    @contextmanager
    def _described(self, what: str) -> Iterator[None]:
        """Raises SimulationError from an error of the simulator."""
        try:
            yield
        except Exception as error:
            raise SimulationError(
                f"`{what}` of {self._title!r} raises {type(error).__name__}: {error}"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the simulator: a copy in another process builds its own."""
        kept = ("_source", "_title", "_given_mode", "_part_seen", "_metrics")
        return {**{name: vars(self)[name] for name in kept}, "user": None, "unmeasured": []}


def _attribute(env: Any, name: str) -> Any:
    """Returns an attribute of an environment, or that of what it wraps; None without one."""
    value = getattr(env, name, None)
    return getattr(getattr(env, "unwrapped", None), name, None) if value is None else value
