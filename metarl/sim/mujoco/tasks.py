"""Families of a user's own MuJoCo model whose parameters differ between tasks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError, short_repr
from metarl.ranges import NOT_NEGATIVE, check_int, check_number, check_type
from metarl.registry import check_choice
from metarl.sim.card import Card, Fact
from metarl.sim.disturbed_parameters import DisturbedFamily
from metarl.sim.family import ControlTasks, Tasks, WorldState
from metarl.sim.gymnasium.descriptions import describe_space
from metarl.sim.gymnasium.ranges import Range, splits_are_disjoint
from metarl.sim.mujoco.changes import ModelFactor
from metarl.sim.mujoco.frictions import check_frictions
from metarl.sim.mujoco.physics import MujocoFamily, mj, reread_changed
from metarl.tasks.base import Split, check_sampling, check_split

TURNS_OR_SLIDES = {int(mj.mjtJoint.mjJNT_HINGE), int(mj.mjtJoint.mjJNT_SLIDE)}


class MujocoTasks(DisturbedFamily, MujocoFamily):
    """Family of a MuJoCo model with parameters that are drawn for each task.

    A subclass names the model and what differs between tasks, and computes the reward. Episodes
    start at the model's `qpos0` or a keyframe, plus U(-start_noise, start_noise) on the positions
    of hinges and slides and on all velocities. Positions and velocities are observed.

    Example:
        >>> class Poles(MujocoTasks):
        ...     name, model, frame_skip, horizon = "Poles-v1", "pole.xml", 5, 100
        ...     parameters = {
        ...         "load": Mass("pole", Ranges(Uniform(0.5, 1.5), test=Uniform(1.5, 3))),
        ...         "motor": Gain("*", Uniform(0.7, 1.0)),
        ...         "late": Latency(0, 3),
        ...         "goal": Uniform(-1, 1),
        ...     }
        ...
        ...     def reward(self, before, actions, after, tasks):
        ...         return -(after["qpos"][:, 0] - tasks["goal"]).abs().float()

    Args:
        **settings: Other values of the class attributes, such as `horizon=50`.

    Attributes:
        name: The name with a version, such as "Poles-v1".
        model: Path of an MJCF or URDF file, or its text. A file that changed is read again when a
            family is constructed.
        frame_skip: The number of MuJoCo steps per environment step.
        horizon: The number of steps of an episode.
        parameters: Name -> what it changes: a factor on the model (`Mass`, `Friction`, `Gain`,
            ...), a `Latency`, a `SensorNoise`, or a range of numbers that `reward`, `observe` and
            others read as `tasks[name]`, [W]. The first with continuous values has disjoint values
            in the splits; `Ranges` gives tests another range.
        keyframe: Name of the keyframe of the model at which episodes start, with its activations
            and mocap poses; "" for `qpos0`. Its controls act until the first late action arrives.
        start_noise: Half the width of the noise on the initial positions and velocities.
        reward_note: The reward in words, for the card.
        part: The split that tasks are drawn from.

    Raises:
        SettingsError: A setting is unknown or invalid, or the model has no part of a name.
    """

    name: str
    horizon: int
    parameters: Mapping[str, Range | ModelFactor] = MappingProxyType({})
    keyframe: str = ""
    start_noise: float = 0.05
    reward_note: str = "see `reward` of the class"
    part: Split = "train"

    SETTINGS: ClassVar[tuple[str, ...]] = (
        "name", "model", "frame_skip", "integrator", "horizon", "parameters", "keyframe",
        "start_noise", "reward_note", "part", "metrics", "published_units",
    )  # fmt: skip
    """What the constructor sets, besides the numbers and texts that a subclass defines."""

    def __init__(self, **settings: Any) -> None:
        for name, value in settings.items():
            check_choice(f"setting of {type(self).__name__}", name, self._settings())
            setattr(self, name, value)
        for name in ("name", "model", "frame_skip", "horizon"):
            if not hasattr(self, name):
                raise SettingsError(
                    f"{type(self).__name__} has no `{name}`: write it below the class line, as "
                    "`horizon = 100`."
                )
        check_int("horizon", self.horizon)
        check_int("frame_skip", self.frame_skip)
        check_number("start_noise", self.start_noise, NOT_NEGATIVE)
        check_split(self.part)
        reread_changed(self.model)
        self._check_model()
        self._check_parameters()

    def with_settings(self, **settings: Any) -> Self:
        """Returns the same family with other settings; see the constructor."""
        own = {name: value for name, value in vars(self).items() if name in self._settings()}
        return type(self)(**{**own, **settings})

    def split(self, name: Split) -> Self:
        other = copy.copy(self)
        other.part = check_split(name)
        return other

    def card(self) -> Card:
        laws = "; ".join(f"{name}: {self._describe(p)}" for name, p in self.parameters.items())
        noise, model, start = self.start_noise, self.compiled, self.keyframe or "qpos0"
        names = ", ".join(model.actuator(i).name or f"number {i}" for i in range(model.nactuator))
        return Card(
            self.name,
            f"a MuJoCo model whose tasks differ in {', '.join(self.parameters)}",
            f"{type(self).__module__}.{type(self).__name__}",
            (
                Fact("tasks", laws),
                Fact("start", f"{start}, + U(-{noise:g}, {noise:g}) on positions and velocities"),
                Fact("observation", describe_space(self.observation_space)),
                Fact("action", f"controls of {names}, clipped to their ranges"),
                Fact("dynamics", f"{self.frame_skip} steps of {model.opt.timestep:g} s"),
                Fact("reward", self.reward_note),
                Fact("termination", "see `terminated`" if self.may_terminate else "never"),
                Fact("horizon", f"{self.horizon} steps"),
            ),
            splits_are_disjoint(self.range_of(name) for name in self.parameters),
        )

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        check_sampling(num_tasks, generator)
        split, sizes = self._split_parameter, self._sizes()
        shape = (sum(sizes.values()), 2, num_tasks)
        draws = torch.rand(shape, generator=generator, device=generator.device)
        values: Tasks = {}
        for name, rows in zip(sizes, draws.split(list(sizes.values())), strict=True):
            own = self.range_of(name).of(self.part)
            drawn = own.draw(rows[:, 0], rows[:, 1], self.part if name == split else None)
            values[name] = drawn.T if self._is_each(name) else drawn[0]
        return ControlTasks(values)

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns all parameters, encoded by `Range.encode` and concatenated."""
        columns = [
            self.range_of(name).encode(value)
            for name in self.parameters
            for value in tasks[name].view(len(tasks[name]), -1).unbind(1)
        ]
        return torch.cat(columns, 1)

    def model_fields(self, tasks: Tasks) -> dict[str, Tensor]:
        """Returns the fields that the parameters scale; factors on the same field multiply."""
        changed: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            if isinstance(parameter, ModelFactor):
                factors = parameter.factors(self.compiled, tasks[name])
                for field in parameter.fields_of(self.compiled):
                    value = changed.get(field, self.default(field, factors).unsqueeze(0))
                    changed[field] = value * factors.view(*factors.shape, *[1] * (value.dim() - 2))
        return changed

    def initial(self, noise: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """Returns the positions and velocities of the start with uniform noise.

        Args:
            noise: Uniform numbers, [W, nq + nv] float64.
            tasks: The task of each world.
        """
        shift = self.start_noise * (2 * noise - 1)
        positions, velocities = shift.split([self.compiled.nq, self.compiled.nv], 1)
        moves = self._moves.to(noise.device)
        if not self.keyframe:
            return self.default("qpos0", noise) + moves * positions, velocities
        row = self.compiled.key(self.keyframe).id
        start, speed = self.default("key_qpos", noise)[row], self.default("key_qvel", noise)[row]
        return start + moves * positions, speed + velocities

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """Returns the start; of a keyframe also the poses of mocap bodies and the activations."""
        state = super().reset(tasks, noise[:, : self.start_numbers])
        if not self.keyframe:
            return state
        row, worlds = self.compiled.key(self.keyframe).id, len(noise)
        sources = {"mocap_pos": "key_mpos", "mocap_quat": "key_mquat", "act": "key_act"}
        for name, field in sources.items():
            value = self.default(field, state["qpos"])[row]
            if value.numel():
                value = value.view(self.compiled.nmocap, -1) if name != "act" else value
                state[name] = value.repeat(worlds, *[1] * value.dim())
        return state

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        """Returns the positions and velocities, [W, nq + nv]."""
        return torch.cat([state["qpos"], state["qvel"]], 1).float()

    @property
    def observation_space(self) -> spaces.Box:
        """Unbounded numbers, as many as `observe` returns."""
        bound = np.full(self._observed, np.inf, np.float32)
        return spaces.Box(-bound, bound, dtype=np.float32)

    @property
    def idle_action(self) -> np.ndarray:
        """The controls of the keyframe, where actions are controls; else as in other families."""
        space = self.action_space
        if not self.keyframe or type(self).controls is not MujocoFamily.controls:
            return super().idle_action
        controls = self.compiled.key(self.keyframe).ctrl.astype(np.float32)
        return controls.clip(space.low, space.high)

    @property
    def world_settings(self) -> dict[str, Any]:
        """Adds the start, and what the factors of a task scale."""
        start = {"keyframe": self.keyframe, "start_noise": self.start_noise}
        changes = {
            f"change of {name!r}": parameter.target
            for name, parameter in self.parameters.items()
            if isinstance(parameter, ModelFactor)
        }
        return {**super().world_settings, **start, **changes}

    @property
    def start_numbers(self) -> int:
        """The number of random numbers that `initial` takes: nq + nv."""
        return self.compiled.nq + self.compiled.nv

    @property
    def reset_noise(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The numbers of `initial`, and those of the sensors."""
        return self.start_numbers + self.step_noise

    def range_of(self, name: str) -> Range:
        """Returns the distribution of a parameter."""
        parameter = self.parameters[name]
        return parameter.values if isinstance(parameter, ModelFactor) else parameter

    # Helpers

    @property
    def _moves(self) -> Tensor:
        """Which positions are those of hinges and slides, [nq] float64 of 0 and 1."""
        model, moves = self.compiled, torch.zeros(self.compiled.nq, dtype=torch.float64)
        for kind, address in zip(model.jnt_type, model.jnt_qposadr, strict=True):
            moves[address] = float(int(kind) in TURNS_OR_SLIDES)
        return moves

    @property
    def _observed(self) -> int:
        """The number of observed numbers, O."""
        if "observed" not in vars(self):
            tasks = self.sample(1, torch.Generator()).values
            noise = torch.full((1, self.start_numbers), 0.5)
            state = self.completed(MujocoFamily.reset(self, tasks, noise), tasks)
            vars(self)["observed"] = self.observe(state, tasks).shape[1]
        return vars(self)["observed"]

    @property
    def _split_parameter(self) -> str | None:
        """The name of the parameter whose values are disjoint between the splits."""
        return next((n for n in self.parameters if self.range_of(n).continuous), None)

    def _is_each(self, name: str) -> bool:
        parameter = self.parameters[name]
        return isinstance(parameter, ModelFactor) and parameter.each

    def _sizes(self) -> dict[str, int]:
        """Returns how many numbers of a task each parameter has."""
        return {
            name: len(p.parts(self.compiled)) if isinstance(p, ModelFactor) and p.each else 1
            for name, p in self.parameters.items()
        }

    def _describe(self, parameter: Range | ModelFactor) -> str:
        return parameter.describe() if isinstance(parameter, ModelFactor) else str(parameter)

    def _settings(self) -> list[str]:
        own = [
            name
            for kind in type(self).__mro__
            if kind not in MujocoTasks.__mro__
            for name, value in vars(kind).items()
            if not name.startswith("_") and isinstance(value, bool | int | float | str | tuple)
        ]
        return list(dict.fromkeys((*self.SETTINGS, *own)))

    def _check_model(self) -> None:
        if not self.compiled.nu:
            raise SettingsError(
                f"The model of {self.name} has no actuators, so nothing can move it: add an "
                "<actuator> to the MJCF, or `motors` or `servos` to a URDF by `from_urdf`."
            )
        check_type("keyframe", self.keyframe, str)
        if self.keyframe:
            names = [self.compiled.key(i).name for i in range(self.compiled.nkey)]
            check_choice(f"keyframe of {self.name}", self.keyframe, names)

    def _check_parameters(self) -> None:
        """Checks that the parameters are some, and that the model has what they name."""
        if not self.parameters or not isinstance(self.parameters, Mapping):
            raise SettingsError(
                f"Expected `parameters` of {self.name} that tell tasks apart, as "
                f'{{"load": Mass("arm", Uniform(0.5, 2))}}, got {short_repr(self.parameters)}.'
            )
        for name, parameter in self.parameters.items():
            if not isinstance(parameter, Range | ModelFactor):
                raise SettingsError(
                    f"Expected the parameter {name!r} to be a range such as Uniform(0, 1), or a "
                    f'change such as Mass("arm", Uniform(0.5, 2)), got {short_repr(parameter)}.'
                )
            if isinstance(parameter, ModelFactor):
                parameter.parts(self.compiled)
        if type(self).model_fields is MujocoTasks.model_fields:  # else other geoms may change too
            check_frictions(self.name, self.compiled, self.parameters)
        if self.noisy_sensors:
            self.sensor_deviation(self.sample(1, torch.Generator()).values)
