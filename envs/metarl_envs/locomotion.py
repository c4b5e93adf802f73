"""Robots of gymnasium that walk at a task's speed or in its direction."""

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
from metarl.sim import Card, ControlTasks, Fact, MujocoFamily, Tasks, WorldState, normal
from metarl.tasks.base import Split, check_num_tasks, check_split
from metarl.tasks.disjoint_splits import split_uniform
from metarl_envs.models import Change, changed_model, told_changes
from metarl_envs.robot import Robot


class Locomotion(MujocoFamily):
    """Interface of families in which a robot runs.

    The reward of a step is `pay`, plus `alive`, minus `control_cost` times `effort`.

    Attributes:
        robot: Who runs.
        part: The split that tasks are drawn from.
        alive: Paid in every step.
        control_cost: What a control of 1 costs in every step.
        paper: Where the tasks and rewards are from.
        range_note: What else is known of the range of tasks, for the card.
        reward_note: What the authors' reward has and this one has not, for the card.
        observation_note: What the robot's own observation has and this one has not, for the card.
        speed: How the velocity is found, for the card.
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

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)

    @property
    def changes(self) -> tuple[Change, ...]:
        """What is changed in the robot's model."""
        return self.robot.changes

    @property
    def model(self) -> str:
        """Path of the robot's model, or its text if it is changed."""
        return changed_model(self.robot.model, self.changes)

    @property
    def frame_skip(self) -> int:
        """MuJoCo's steps in one step of the robot."""
        return self.robot.frame_skip

    @property
    def reset_noise(self) -> int:
        """One number for each position and each velocity."""
        return self.compiled.nq + self.compiled.nv

    @property
    def observation_space(self) -> spaces.Box:
        """Positions but those that only say where the robot is, then velocities."""
        size = self.reset_noise - self.robot.hidden
        return spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def split(self, name: Split) -> Self:
        """See `TaskFamily.split`."""
        settings: Any = self  # the families derived from this are dataclasses
        return replace(settings, part=check_split(name))

    @abstractmethod
    def pay(self, before: WorldState, after: WorldState, tasks: Tasks) -> Tensor:
        """Returns what a step is worth to the tasks, [W] float64.

        Args:
            before: The state that it started in.
            after: The state that it led to.
            tasks: The task of each world.
        """

    def velocity(self, before: WorldState, after: WorldState) -> Tensor:
        """Returns the velocity of a step along x, [W] float64 in m/s: the torso's."""
        return (after["qpos"][:, 0] - before["qpos"][:, 0]) / self.dt

    def effort(self, actions: Tensor, after: WorldState) -> Tensor:
        """Returns what costs are in proportion to, [W] float64: the sum of squared controls."""
        return after["ctrl"].square().sum(1)

    def initial(self, noise: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """See `MujocoFamily.initial`."""
        robot, positions = self.robot, self.compiled.nq
        shift = _centred(noise[:, :positions], robot.normal_positions)
        kick = _centred(noise[:, positions:], robot.normal_velocities)
        if robot.pose is None:
            pose = self.default("qpos0", noise)
        else:
            pose = _constant(robot.pose, noise.dtype, noise.device)
        return pose + robot.noise * shift, robot.speed_noise * kick

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        """See `TaskFamily.observe`."""
        velocities, limit = state["qvel"], self.robot.speed_limit
        if math.isfinite(limit):
            velocities = velocities.clamp(-limit, limit)
        return torch.cat((state["qpos"][:, self.robot.hidden :], velocities), 1).float()

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        """See `TaskFamily.reward`."""
        effort = self.effort(actions, after)
        pay = torch.sub(self.pay(before, after, tasks), effort, alpha=self.control_cost)
        return (pay + self.alive if self.alive else pay).float()

    def terminated(self, state: WorldState, tasks: Tasks) -> Tensor:
        """See `TaskFamily.terminated`."""
        robot, qpos = self.robot, state["qpos"]
        if robot.height is None:
            return super().terminated(state, tasks)
        low, high = robot.heights
        height = qpos[:, robot.height]
        stands = (height > low) & (height < high)
        if math.isfinite(robot.lean):
            stands = stands & (qpos[:, 2].abs() < robot.lean)
        return ~stands

    def seen(self) -> str:
        """Returns what is observed, for a card."""
        robot = self.robot
        seen = f"positions from number {robot.hidden} on, velocities"
        if math.isfinite(robot.speed_limit):
            seen += f" clipped to +-{robot.speed_limit}"
        return seen

    def _card(self, summary: str, tasks: Fact, pay: str, disjoint: bool) -> Card:
        robot, model = self.robot, self.compiled
        seen = f"{self.seen()}; {self.observation_space.shape[0]} numbers"
        low, high = (f"{limit:g}" for limit in model.actuator_ctrlrange[0])
        many = "s" if robot.frame_skip > 1 else ""
        steps = f"{robot.frame_skip} step{many} of {model.opt.timestep} s, dt = {self.dt:.4g} s"
        changed = told_changes(self.changes)
        alive = f" + {self.alive}" if self.alive else ""
        cost = f"{self.control_cost} ||clip(a)||^2"
        given = f"; {self.speed}" if self.speed else ""
        return Card(
            self.name,
            summary,
            self.paper,
            (
                tasks,
                Fact("start", robot.start(), robot.source),
                Fact("observation", seen, self.observation_note or robot.source),
                Fact("action", f"a, {model.nu} numbers, clipped to [{low}, {high}]", robot.source),
                Fact(
                    "dynamics",
                    f"MuJoCo, {Path(robot.model).name} of {robot.title}{changed}; {steps}",
                    robot.physics,
                ),
                Fact("integrator", _integrator(self.integrator, robot.source), robot.source),
                Fact("reward", f"{pay}{alive} - {cost}{given}", self.reward_note),
                Fact("termination", robot.fall(), "" if robot.height is None else robot.source),
                Fact("horizon", f"{self.horizon} steps"),
            ),
            disjoint,
        )


@dataclass(frozen=True)
class Velocity(Locomotion):
    """Interface of families whose tasks are speeds; "velocity" [T] in m/s tells them apart.

    Attributes:
        fastest: The greatest velocity, m/s; they are uniform between 0 and it.
        horizon: Steps of an episode.
        integrator: See `MujocoFamily`.
        part: The split that velocities are drawn from.
    """

    fastest: float = 3.0
    horizon: int = 200
    integrator: str = "xml"
    part: Split = "train"

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        if not 0 < self.fastest < math.inf:
            raise SettingsError(f"Expected a fastest velocity above 0 m/s, got {self.fastest}.")

    def card(self) -> Card:
        """See `TaskFamily.card`."""
        return self._card(
            f"{self.robot.name} runs at a velocity that only the reward tells",
            Fact("tasks", f"velocity g ~ U(0, {self.fastest:g}) m/s", self.range_note),
            "-|v - g|",
            True,
        )

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """See `TaskFamily.sample`; no two splits share a velocity."""
        cell, inside = uniform_draws(2, num_tasks, generator)
        return ControlTasks({"velocity": split_uniform(cell, inside, self.part, 0.0, self.fastest)})

    def pay(self, before: WorldState, after: WorldState, tasks: Tasks) -> Tensor:
        """See `Locomotion.pay`: how far the velocity is from the task's, negative."""
        return -(self.velocity(before, after) - tasks["velocity"]).abs()

    def task_vector(self, tasks: Tasks) -> Tensor:
        """See `TaskFamily.task_vector`: the velocity."""
        return tasks["velocity"].unsqueeze(1)


@dataclass(frozen=True)
class Direction(Locomotion):
    """Interface of families with two tasks, forwards and backwards: "direction" [T], 1 or -1.

    Attributes:
        weight: What 1 m/s in the task's direction is paid.
        horizon: Steps of an episode.
        integrator: See `MujocoFamily`.
        part: The split, which makes no difference.
    """

    horizon: int = 200
    integrator: str = "xml"
    part: Split = "train"

    weight: ClassVar[float] = 1.0

    def card(self) -> Card:
        """See `TaskFamily.card`."""
        weight = "" if self.weight == 1 else f"{self.weight:g} "
        return self._card(
            f"{self.robot.name} runs forwards or backwards, which only the reward tells",
            Fact("tasks", "direction d in {-1, 1}, each as likely"),
            f"{weight}d v",
            False,
        )

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """See `TaskFamily.sample`; all splits have the same two tasks."""
        first, _ = uniform_draws(2, num_tasks, generator)
        return ControlTasks({"direction": torch.where(first < 0.5, -1.0, 1.0)})

    def pay(self, before: WorldState, after: WorldState, tasks: Tasks) -> Tensor:
        """See `Locomotion.pay`: the velocity in the task's direction."""
        return self.weight * tasks["direction"] * self.velocity(before, after)

    def task_vector(self, tasks: Tasks) -> Tensor:
        """See `TaskFamily.task_vector`: the direction."""
        return tasks["direction"].unsqueeze(1)


def uniform_draws(count: int, num_tasks: int, generator: torch.Generator) -> Tensor:
    """Returns uniform numbers in [0, 1), [count, num_tasks]; checks the number of tasks."""
    check_num_tasks(num_tasks)
    return torch.rand(count, num_tasks, generator=generator, device=generator.device)


@lru_cache(maxsize=64)  # resets need them at every step, and a GPU would be waited for
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def _centred(uniform: Tensor, is_normal: bool) -> Tensor:
    """Returns normal numbers, or uniform ones in [-1, 1), for uniform ones in [0, 1)."""
    return normal(uniform) if is_normal else 2 * uniform - 1


def _integrator(name: str, source: str) -> str:
    others = source.partition(" ")[0]
    return f"the model's own, as {others}" if name == "xml" else f"{name}, which {others} has not"
