"""Families of a batched simulator whose worlds have different parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError, short_repr
from metarl.ranges import check_int, check_type
from metarl.sim.batched.simulator import Simulator
from metarl.sim.card import Card, Fact
from metarl.sim.disturbed_parameters import disturbs
from metarl.sim.episode_metrics import Reduction, check_metrics
from metarl.sim.family import ActionSpace, Tasks, WorldState
from metarl.sim.gymnasium.descriptions import default_name, describe_space
from metarl.sim.gymnasium.family import seeds
from metarl.sim.gymnasium.ranges import Range, splits_are_disjoint
from metarl.sim.gymnasium.rates import step_seconds
from metarl.sim.reported_states import ReportedFamily
from metarl.sim.sampled_parameters import SampledFamily, check_parameters
from metarl.tasks.base import Split, check_split

OF_SIMULATOR = frozenset({"env", "autoreset", "observed", "metrics"})
"""Settings with which a simulator is built and read."""


@dataclass(frozen=True)
class VectorEnvTasks(SampledFamily, ReportedFamily):
    """Family of a simulator that steps many worlds at once and keeps their state itself.

    Isaac Lab, ManiSkill, Brax, EnvPool and vector environments of gymnasium are such simulators.
    One that has Gymnasium's interface of vector environments is enough: `num_envs`,
    `single_observation_space`, `single_action_space`, `reset(seed=...)` and `step`, with tensors
    of torch on any device, or arrays of NumPy or JAX. It exists once and is shared by all splits
    and copies of the family. Rollouts take as many of its worlds as they need; if it has fewer,
    they are played in several parts.

    Its own resets are ignored: an episode ends with the first end that the simulator reports, or
    after `horizon` steps, and all worlds are reset together before the next one, with one seed. The
    return of an episode that is cut off may continue with the value of its last observation. A
    simulator that resets within the step has it in `info["final_obs"]`; if it is not there, the
    observation before the last step stands for it.

    Example:
        >>> def build():
        ...     return gymnasium.make_vec(
        ...         "CartPole-v1", num_envs=256, vectorization_mode="vector_entry_point"
        ...     )
        >>> def set_tasks(env, tasks):
        ...     env.unwrapped.force_mag = tasks["force"]
        >>> carts = VectorEnvTasks(build, set_tasks, {"force": Uniform(5, 20)}, horizon=100)
        >>> check_family(carts)

    Attributes:
        env: A function that builds the simulator, or the simulator.
        set_tasks: Sets the tasks of all N worlds before a reset. Called as set_tasks(env, tasks),
            where tasks is name -> values [N], arrays of the kind that the simulator returns as
            observations; a list, for a `Choice` among values that are no numbers.
        parameters: Name -> distribution. The first one with continuous values has disjoint values
            in the splits. A `Latency` and a `SensorNoise` are not in the `tasks` of `set_tasks`:
            MetaRL delays the actions and adds the noise.
        horizon: The number of steps of an episode.
        name: Name with a version; by default that of `env` and the parameters.
        autoreset: When the simulator resets a world that has ended: "same_step", or "next_step",
            also for one that never does; "" for what its `metadata["autoreset_mode"]` says.
        part: The split that tasks are drawn from.
        observed: The part of a Dict observation that policies see, such as "policy" of Isaac Lab;
            "" for all parts.
        metrics: Numbers [N] of `info`, or of its dict "final_info", that become metrics: name ->
            "any", "last" or "mean" of the steps of an episode.
    """

    engine: ClassVar[str] = "batched"
    env: Callable[[], Any] | Any
    set_tasks: Callable[[Any, dict[str, Any]], Any]
    parameters: Mapping[str, Range]
    horizon: int
    name: str = ""
    autoreset: Literal["", "same_step", "next_step"] = ""
    part: Split = "train"
    observed: str = ""
    metrics: Mapping[str, Reduction] = field(default_factory=dict)
    simulator: Simulator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Builds the simulator and checks it and the settings.

        Raises:
            SettingsError: The simulator cannot be built or has unsupported spaces, or a setting is
                not usable.
        """
        check_split(self.part)
        check_int("horizon", self.horizon)
        for name, kind in (("autoreset", Literal["", "same_step", "next_step"]), ("observed", str)):
            check_type(name, getattr(self, name), kind)
        check_metrics(self.metrics)
        check_parameters(self.parameters, self.title, "Parameters are what adaptation is for.")
        if not callable(self.set_tasks):
            raise SettingsError(
                "Expected `set_tasks` to be a function of the simulator and the tasks, got "
                f"{short_repr(self.set_tasks)}."
            )
        if not self.name:
            object.__setattr__(self, "name", default_name(self.title, ",".join(self.parameters)))
        if not hasattr(self, "simulator"):  # a copy with other settings has it
            simulator = Simulator(
                self.env, self.title, self.autoreset, self.observed, tuple(self.metrics)
            )
            object.__setattr__(self, "simulator", simulator)
        _ = self.observation_space, self.action_space, self.simulator.resets_within_step
        if self.noisy_sensors:
            self.sensor_deviation(self.sample(1, torch.Generator()).values)  # checks the entries

    @property
    def title(self) -> str:
        """The name of the simulator, or of the function that builds it."""
        built: Any = getattr(self.env, "func", self.env)  # unwraps functools.partial
        return getattr(built, "__name__", type(built).__name__)

    @property
    def worlds(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The number of worlds of the simulator, N."""
        return self.simulator.num_worlds

    @property
    def observation_space(self) -> spaces.Box:
        return self.simulator.observation_space

    @property
    def action_space(self) -> ActionSpace:
        return self.simulator.action_space

    @property
    def step_seconds(self) -> float | None:
        return step_seconds(self.simulator.env)

    @property
    def world_settings(self) -> dict[str, Any]:
        return {**super().world_settings, "simulator": self.title, "observed": self.observed}

    def with_settings(self, **settings: Any) -> Self:
        """Returns the same family with other settings; see the class.

        It shares the simulator, unless `env`, `autoreset`, `observed` or `metrics` are among them.
        """
        shared = {f.name for f in fields(self) if f.init} - OF_SIMULATOR
        if not settings.keys() <= shared:
            return replace(self, **settings)
        other = copy.copy(self)
        for name, value in settings.items():
            object.__setattr__(other, name, value)
        other.__post_init__()
        return other

    def split(self, name: Split) -> Self:
        """Returns the family restricted to a split; it shares the simulator."""
        other = copy.copy(self)
        object.__setattr__(other, "part", check_split(name))
        return other

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """Resets all worlds of the simulator, of which the first W have these tasks."""
        rows = torch.arange(self.worlds, device=noise.device) % len(noise)
        values = self.env_values({name: value[rows] for name, value in tasks.items()})
        observation = self.simulator.reset(int(seeds(noise[:1])[0]), values, self.set_tasks)
        return self.first_state(observation[: len(noise)].to(noise.device))

    def env_values(self, tasks: Tasks) -> dict[str, Any]:
        """Returns what `set_tasks` gets for tasks [N], before it has the simulator's kind."""
        return {name: _values(r, tasks[name]) for name, r in self.own.items()}

    def card(self) -> Card:
        own, parameters = "the simulator's own", self.parameters
        laws = "; ".join(
            f"{name}: {r}" if disturbs(r) else f"{name} ~ {r}" for name, r in parameters.items()
        )
        start = f"{own}, of a seed below 2^24 for all worlds"
        action = describe_space(self.action_space)
        if isinstance(self.action_space, spaces.Box):
            action = f"{action}, clipped to it"
        end = f"{self.horizon} steps, or the simulator's own truncation"
        return Card(
            self.name,
            f"{self.worlds} worlds of {self.title} with other values of {', '.join(parameters)}",
            f"simulator {self.title}",
            (
                Fact("tasks", laws),
                Fact("start", start),
                Fact("observation", describe_space(self.observation_space)),
                Fact("action", action),
                Fact("dynamics", own),
                Fact("reward", own),
                Fact("termination", own),
                Fact("horizon", end),
            ),
            splits_are_disjoint(parameters.values()),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Shares the simulator, which exists once."""
        del memo
        return copy.copy(self)


def _values(values: Range, drawn: Tensor) -> Any:
    """Returns the values [N] of a parameter: a tensor, or a list of what are no numbers."""
    if values.continuous:
        return drawn.clone()
    chosen = np.array([values.value(number) for number in drawn.tolist()])
    return torch.from_numpy(chosen) if chosen.dtype.kind in "bif" else chosen.tolist()
