"""Base classes of locomotion families: target velocities and directions of MuJoCo robots."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError
from metarl.ranges import COUNT, check_fields, is_number
from metarl.sim import Card, ControlTasks, Fact, MujocoFamily, Tasks, WorldState, normal
from metarl.tasks.base import Split, check_sampling, check_split
from metarl.tasks.disjoint_splits import split_uniform
from metarl_envs.models import Change, changed_model, describe_changes
from metarl_envs.robot import Robot


class Locomotion(MujocoFamily):
    """Base class of families in which a robot runs.

    The reward of a step is r = pay + alive - control_cost * effort.

    Attributes:
        robot: The robot.
        part: The split that tasks are sampled from.
        alive: Reward for staying alive, per step.
        control_cost: Factor on `effort`, the sum of squared controls, per step.
        paper: Source of the tasks and rewards, for the card.
        range_note: Remark on the range of tasks, for the card.
        reward_note: Terms of the paper's reward that are omitted here, for the card.
        observation_note: Parts of the paper's observation that are omitted here, for the card.
        speed: Equation of the velocity, for the card.
    """

    robot: Robot
    part: Split
    paper: str
    range_note: str = ""
    reward_note: str = ""
    observation_note: str = ""
    speed: str = "v = (x' - x) / dt"
    alive: float = 0.0
    control_cost: float
    published_units = True

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)
        check_fields(self, horizon=COUNT)

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes of attributes of the robot's model."""
        return self.robot.changes

    @property
    def model(self) -> str:
        """Path of the robot's model, or its MJCF text if it is changed."""
        return changed_model(self.robot.model, self.changes)

    @property
    def frame_skip(self) -> int:
        """Number of MuJoCo steps per environment step."""
        return self.robot.frame_skip

    @property
    def reset_noise(self) -> int:
        """Number of uniform random numbers per reset: one per position and velocity."""
        return self.compiled.nq + self.compiled.nv

    @property
    def observation_space(self) -> spaces.Box:
        """Positions without the first `robot.hidden`, then velocities."""
        size = self.reset_noise - self.robot.hidden
        return spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def split(self, name: Split) -> Self:
        settings: Any = self  # subclasses are dataclasses
        return replace(settings, part=check_split(name))

    @abstractmethod
    def pay(self, before: WorldState, after: WorldState, tasks: Tasks) -> Tensor:
        """Returns the task's part of the reward of a step, [W] float64.

        Args:
            before: The state before the step.
            after: The state after the step.
            tasks: The task of each world.
        """

    def velocity(self, before: WorldState, after: WorldState) -> Tensor:
        """Returns the velocity of the torso along x, [W] float64 in m/s."""
        # v = (x' - x) / dt
        return (after["qpos"][:, 0] - before["qpos"][:, 0]) / self.dt

    def effort(self, actions: Tensor, after: WorldState) -> Tensor:
        """Returns the sum of squared controls, ||clip(a)||^2, [W] float64."""
        return after["ctrl"].square().sum(1)

    def initial(self, noise: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
        robot, positions = self.robot, self.compiled.nq
        shift = _centred(noise[:, :positions], robot.normal_positions)
        kick = _centred(noise[:, positions:], robot.normal_velocities)
        if robot.pose is None:
            pose = self.default("qpos0", noise)
        else:
            pose = _constant(robot.pose, noise.dtype, noise.device)
        return pose + robot.noise * shift, robot.speed_noise * kick

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        velocities, limit = state["qvel"], self.robot.speed_limit
        if math.isfinite(limit):
            velocities = velocities.clamp(-limit, limit)
        return torch.cat((state["qpos"][:, self.robot.hidden :], velocities), 1).float()

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        # r = pay + alive - control_cost ||clip(a)||^2
        effort = self.effort(actions, after)
        pay = torch.sub(self.pay(before, after, tasks), effort, alpha=self.control_cost)
        return (pay + self.alive if self.alive else pay).float()

    def terminated(self, state: WorldState, tasks: Tasks) -> Tensor:
        robot, qpos = self.robot, state["qpos"]
        if robot.height is None:
            return super().terminated(state, tasks)
        low, high = robot.heights
        height = qpos[:, robot.height]
        healthy = (height > low) & (height < high)
        if math.isfinite(robot.lean):
            healthy = healthy & (qpos[:, 2].abs() < robot.lean)
        return ~healthy

    def seen(self) -> str:
        """Returns a description of the observation for a card."""
        robot = self.robot
        text = f"positions from index {robot.hidden}, velocities"
        if math.isfinite(robot.speed_limit):
            text += f" clipped to +-{robot.speed_limit}"
        return text

    def _card(self, summary: str, tasks: Fact, pay: str, disjoint: bool) -> Card:
        robot, model = self.robot, self.compiled
        observation = f"{self.seen()}; {self.observation_space.shape[0]} numbers"
        low, high = (f"{limit:g}" for limit in model.actuator_ctrlrange[0])
        plural = "s" if robot.frame_skip > 1 else ""
        steps = f"{robot.frame_skip} step{plural} of {model.opt.timestep} s, dt = {self.dt:.4g} s"
        changes = describe_changes(self.changes)
        alive = f" + {self.alive}" if self.alive else ""
        cost = f"{self.control_cost} ||clip(a)||^2"
        speed = f"; {self.speed}" if self.speed else ""
        return Card(
            self.name,
            summary,
            self.paper,
            (
                tasks,
                Fact("start", robot.start(), robot.source),
                Fact("observation", observation, self.observation_note or robot.source),
                Fact(
                    "action",
                    f"a, {model.nu} numbers, clipped to [{low}, {high}], the units of policies",
                    robot.source,
                ),
                Fact(
                    "dynamics",
                    f"MuJoCo, {Path(robot.model).name} of {robot.title}{changes}; {steps}",
                    robot.physics,
                ),
                Fact("integrator", _integrator(self.integrator, robot.source), robot.source),
                Fact("reward", f"{pay}{alive} - {cost}{speed}", self.reward_note),
                Fact("termination", robot.fall(), "" if robot.height is None else robot.source),
                Fact("horizon", f"{self.horizon} steps"),
            ),
            disjoint,
        )


@dataclass(frozen=True)
class Velocity(Locomotion):
    """Base class of families whose tasks are target velocities: "velocity", [T] float32 in m/s.

    Attributes:
        fastest: The greatest target velocity in m/s, above 0; targets are g ~ U(0, fastest).
        horizon: Steps per episode.
        integrator: MuJoCo's integrator; see `MujocoFamily`.
        part: The split that velocities are sampled from.
    """

    fastest: float = 3.0
    horizon: int = 200
    integrator: str = "xml"
    part: Split = "train"

    def __post_init__(self) -> None:
        """Checks the settings."""
        if is_number(self.fastest) and not 0 < self.fastest < math.inf:
            raise SettingsError(f"Expected a fastest velocity above 0 m/s, got {self.fastest}.")
        super().__post_init__()

    def card(self) -> Card:
        return self._card(
            f"{self.robot.name} runs at a target velocity that it does not observe",
            Fact("tasks", f"velocity g ~ U(0, {self.fastest:g}) m/s", self.range_note),
            "-|v - g|",
            True,
        )

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Samples target velocities; the velocities of different splits are disjoint."""
        cell, inside = uniform_draws(2, num_tasks, generator)
        return ControlTasks({"velocity": split_uniform(cell, inside, self.part, 0.0, self.fastest)})

    def pay(self, before: WorldState, after: WorldState, tasks: Tasks) -> Tensor:
        # -|v - g|
        return -(self.velocity(before, after) - tasks["velocity"]).abs()

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the target velocities, [W, 1]."""
        return tasks["velocity"].unsqueeze(1)


@dataclass(frozen=True)
class Direction(Locomotion):
    """Base class of families with two tasks: "direction", [T] float32, 1 forwards, -1 backwards.

    Attributes:
        weight: Reward per m/s in the task's direction.
        horizon: Steps per episode.
        integrator: MuJoCo's integrator; see `MujocoFamily`.
        part: The split; all splits contain the same two tasks.
    """

    horizon: int = 200
    integrator: str = "xml"
    part: Split = "train"

    weight: ClassVar[float] = 1.0

    def card(self) -> Card:
        weight = "" if self.weight == 1 else f"{self.weight:g} "
        return self._card(
            f"{self.robot.name} runs forwards or backwards; the direction is not observed",
            Fact("tasks", "direction d in {-1, 1}, equally likely"),
            f"{weight}d v",
            False,
        )

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Samples directions, the same two in all splits."""
        first, _ = uniform_draws(2, num_tasks, generator)
        return ControlTasks({"direction": torch.where(first < 0.5, -1.0, 1.0)})

    def pay(self, before: WorldState, after: WorldState, tasks: Tasks) -> Tensor:
        # weight * d * v
        return self.weight * tasks["direction"] * self.velocity(before, after)

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the directions, [W, 1]."""
        return tasks["direction"].unsqueeze(1)


def uniform_draws(count: int, num_tasks: int, generator: torch.Generator) -> Tensor:
    """Samples uniform numbers in [0, 1), [count, num_tasks], on the generator's device.

    Raises:
        SettingsError: `num_tasks` is below 1.
    """
    check_sampling(num_tasks, generator)
    return torch.rand(count, num_tasks, generator=generator, device=generator.device)


@lru_cache(maxsize=64)  # copying the values at every reset would synchronise with the GPU
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def _centred(uniform: Tensor, is_normal: bool) -> Tensor:
    """Maps uniform numbers in [0, 1) to standard normal ones or to U[-1, 1)."""
    return normal(uniform) if is_normal else 2 * uniform - 1


def _integrator(name: str, source: str) -> str:
    reference = source.partition(" ")[0]
    if name == "xml":
        return f"the model's own, as in {reference}"
    return f"{name}, which differs from {reference}"
