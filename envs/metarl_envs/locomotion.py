"""Robots of gymnasium that walk at a task's speed or in its direction."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim import Card, ControlTasks, Fact, MujocoFamily, Tasks, WorldState, normal
from metarl.tasks.base import Split, check_num_tasks, check_split
from metarl.tasks.cells import split_uniform

GYMNASIUM = "gymnasium v5"


@dataclass(frozen=True)
class Robot:
    """What a robot is, whatever its task: numbers of gymnasium's environments, version 5.

    Attributes:
        title: What it is called in gymnasium, "HalfCheetah-v5".
        model: Path of its model.
        frame_skip: MuJoCo's steps in one step.
        hidden: How many leading positions, x or x and y, are not observed.
        noise: Scale of what is added to positions and velocities at the start.
        normal_velocities: Whether that is normal for velocities; it is uniform for positions.
        speed_limit: Observed velocities are clipped to it.
        height: Which position is the height, where heights end an episode.
        heights: The lowest and the highest height of a robot that stands.
        lean: The greatest angle, position 2, of one that stands, rad.
    """

    title: str
    model: str
    frame_skip: int
    hidden: int = 1
    noise: float = 0.1
    normal_velocities: bool = True
    speed_limit: float = math.inf
    height: int | None = None
    heights: tuple[float, float] = (-math.inf, math.inf)
    lean: float = math.inf

    def start(self) -> str:
        """Returns what is added at the start, for a card."""
        uniform = f"U(-{self.noise}, {self.noise})"
        kick = f"{self.noise} N(0, 1)" if self.normal_velocities else uniform
        return f"the model's pose at rest, + {uniform} on positions and {kick} on velocities"


def gymnasium_model(name: str) -> str:
    """Returns the path of a model that gymnasium ships, without importing its environments."""
    spec = find_spec("gymnasium")
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).parent / "envs" / "mujoco" / "assets" / name)


class Locomotion(MujocoFamily):
    """Interface of families in which a robot runs along x.

    The reward of a step is `pay`, plus `alive`, minus `control_cost` times the sum of the squared
    controls.

    Attributes:
        robot: Who runs.
        part: The split that tasks are drawn from.
        alive: Paid in every step.
        control_cost: What a control of 1 costs in every step.
        paper: Where the tasks and rewards are from.
        range_note: What else is known of the range of tasks, for the card.
        reward_note: What the authors' reward has and this one has not, for the card.
    """

    robot: Robot
    part: Split
    paper: str
    range_note: str = ""
    reward_note: str = ""
    alive: float = 0.0
    control_cost: float

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)

    @property
    def model(self) -> str:
        """Path of the robot's model."""
        return self.robot.model

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
        """See `Family.split`."""
        settings: Any = self  # the families derived from this are dataclasses
        return replace(settings, part=check_split(name))

    @abstractmethod
    def pay(self, velocity: Tensor, tasks: Tasks) -> Tensor:
        """Returns what velocities along x are worth to the tasks, [W] float64.

        Args:
            velocity: Metres per second, [W] float64.
            tasks: The task of each world.
        """

    def initial(self, noise: Tensor, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """See `MujocoFamily.initial`."""
        robot, positions = self.robot, self.compiled.nq
        shift, kick = 2 * noise[:, :positions] - 1, noise[:, positions:]
        kick = normal(kick) if robot.normal_velocities else 2 * kick - 1
        return self.default("qpos0", noise) + robot.noise * shift, robot.noise * kick

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        """See `Family.observe`."""
        velocities, limit = state["qvel"], self.robot.speed_limit
        if math.isfinite(limit):
            velocities = velocities.clamp(-limit, limit)
        return torch.cat((state["qpos"][:, self.robot.hidden :], velocities), 1).float()

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        """See `Family.reward`."""
        velocity = (after["qpos"][:, 0] - before["qpos"][:, 0]) / self.dt
        effort = after["ctrl"].square().sum(1)
        pay = torch.sub(self.pay(velocity, tasks), effort, alpha=self.control_cost)
        return (pay + self.alive if self.alive else pay).float()

    def terminated(self, state: WorldState, tasks: Tasks) -> Tensor:
        """See `Family.terminated`."""
        robot, qpos = self.robot, state["qpos"]
        if robot.height is None:
            return super().terminated(state, tasks)
        low, high = robot.heights
        height = qpos[:, robot.height]
        stands = (height > low) & (height < high)
        if math.isfinite(robot.lean):
            stands = stands & (qpos[:, 2].abs() < robot.lean)
        return ~stands

    def _card(self, summary: str, tasks: Fact, pay: str, disjoint: bool) -> Card:
        robot, model = self.robot, self.compiled
        seen = f"positions from number {robot.hidden} on, velocities"
        if math.isfinite(robot.speed_limit):
            seen += f" clipped to +-{robot.speed_limit}"
        alive = f" + {self.alive}" if self.alive else ""
        seen += f"; {self.reset_noise - robot.hidden} numbers"
        steps = f"{robot.frame_skip} steps of {model.opt.timestep} s, dt = {self.dt:.4g} s"
        cost = f"{self.control_cost} ||clip(a)||^2"
        fall = Fact("termination", _fall(robot), GYMNASIUM if robot.height is not None else "")
        return Card(
            self.name,
            summary,
            self.paper,
            (
                tasks,
                Fact("start", robot.start(), GYMNASIUM),
                Fact("observation", seen, GYMNASIUM),
                Fact("action", f"a, {model.nu} numbers, clipped to the model's [-1, 1]", GYMNASIUM),
                Fact("dynamics", f"MuJoCo, {Path(self.model).name} of {robot.title}; {steps}"),
                Fact("integrator", _integrator(self.integrator), GYMNASIUM),
                Fact("reward", f"{pay}{alive} - {cost}", self.reward_note),
                fall,
                Fact("horizon", f"{self.horizon} steps"),
            ),
            disjoint,
        )


class Velocity(Locomotion):
    """Interface of families whose tasks are speeds; "velocity" [T] in m/s tells them apart.

    Attributes:
        fastest: The greatest velocity, m/s; they are uniform between 0 and it.
    """

    fastest: float

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        if not 0 < self.fastest < math.inf:
            raise SettingsError(f"Expected a fastest velocity above 0 m/s, got {self.fastest}.")

    def card(self) -> Card:
        """See `Family.card`."""
        robot = self.robot.title.partition("-")[0]
        return self._card(
            f"{robot} runs at a velocity that only the reward tells",
            Fact("tasks", f"velocity g ~ U(0, {self.fastest:g}) m/s", self.range_note),
            "-|(x' - x) / dt - g|",
            True,
        )

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """See `Family.sample`; no two splits share a velocity."""
        cell, inside = _draws(num_tasks, generator)
        return ControlTasks({"velocity": split_uniform(cell, inside, self.part, 0.0, self.fastest)})

    def pay(self, velocity: Tensor, tasks: Tasks) -> Tensor:
        """See `Locomotion.pay`: how far the velocity is from the task's, negative."""
        return -(velocity - tasks["velocity"]).abs()

    def task_vector(self, tasks: Tasks) -> Tensor:
        """See `Family.task_vector`: the velocity."""
        return tasks["velocity"].unsqueeze(1)


class Direction(Locomotion):
    """Interface of families with two tasks, forwards and backwards: "direction" [T], 1 or -1."""

    def card(self) -> Card:
        """See `Family.card`."""
        robot = self.robot.title.partition("-")[0]
        return self._card(
            f"{robot} runs forwards or backwards, which only the reward tells",
            Fact("tasks", "direction d in {-1, 1}, each as likely"),
            "d (x' - x) / dt",
            False,
        )

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """See `Family.sample`; all splits have the same two tasks."""
        first, _ = _draws(num_tasks, generator)
        return ControlTasks({"direction": torch.where(first < 0.5, -1.0, 1.0)})

    def pay(self, velocity: Tensor, tasks: Tasks) -> Tensor:
        """See `Locomotion.pay`: the velocity in the task's direction."""
        return tasks["direction"] * velocity

    def task_vector(self, tasks: Tasks) -> Tensor:
        """See `Family.task_vector`: the direction."""
        return tasks["direction"].unsqueeze(1)


def _draws(num_tasks: int, generator: torch.Generator) -> Tensor:
    check_num_tasks(num_tasks)
    return torch.rand(2, num_tasks, generator=generator, device=generator.device)


def _integrator(name: str) -> str:
    return "the model's own, as gymnasium" if name == "xml" else f"{name}, which gymnasium has not"


def _fall(robot: Robot) -> str:
    if robot.height is None:
        return "never"
    low, high = robot.heights
    lean = f" or |angle| {robot.lean} rad and more" if math.isfinite(robot.lean) else ""
    return f"height outside ({low}, {high}) m{lean}"
