"""Task families of the four-legged ant: velocities, directions and goal positions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.ranges import is_number
from metarl.sim import Card, ControlTasks, Fact, Tasks, WorldState
from metarl.tasks.base import Split
from metarl.tasks.disjoint_splits import split_uniform
from metarl_envs.locomotion import Direction, Locomotion, Velocity, uniform_draws
from metarl_envs.models import gymnasium_model
from metarl_envs.robot import Robot

ANT = Robot("Ant-v5", gymnasium_model("ant.xml"), 5, hidden=2, height=2, heights=(0.2, 1.0))
PAPER = "Finn et al. 2017, arXiv:1703.03400; code: github.com/cbfinn/maml_rl"
CONTACTS = "the paper uses rllab's ant and adds a contact-force cost, which is omitted here"


@dataclass(frozen=True)
class AntVelocity(Velocity):
    """Target velocities g ~ U(0, 3) m/s along x (Finn et al. 2017, arXiv:1703.03400, sec. 5.3)."""

    name = "AntVelocity-v1"
    robot = ANT
    alive = 1.05
    control_cost = 0.005
    paper = PAPER
    reward_note = CONTACTS


@dataclass(frozen=True)
class AntDirection(Direction):
    """Running forwards or backwards along x (Finn et al. 2017, arXiv:1703.03400, sec. 5.3)."""

    name = "AntDirection-v1"
    robot = ANT
    alive = 0.05
    control_cost = 0.005
    paper = PAPER
    reward_note = CONTACTS


@dataclass(frozen=True)
class AntGoal(Locomotion):
    """Goal positions in the plane; the ant observes its own position.

    Tasks hold "goal", [T, 2] float32 in m. Rothfuss et al. 2019 (ProMP, arXiv:1810.06784), Rakelly
    et al. 2019 (PEARL, arXiv:1903.08254).

    Attributes:
        square: Samples goals uniformly in a square, as in MAML's code, instead of a disc.
        radius: Radius of the disc, or half the side of the square, in m; above 0.
        horizon: Steps per episode.
        integrator: MuJoCo's integrator; see `MujocoFamily`.
        part: The split that goals are sampled from.
    """

    square: bool = False
    radius: float = 3.0
    horizon: int = 200
    integrator: str = "xml"
    part: Split = "train"

    name = "AntGoal-v1"
    robot = replace(ANT, hidden=0, height=None)
    control_cost = 0.1
    paper = "Rothfuss et al. 2019 (ProMP), arXiv:1810.06784; Rakelly et al. 2019, arXiv:1903.08254"
    speed = ""
    reward_note = "the papers also subtract 0.0005 times the squared contact forces"
    observation_note = "the papers also observe 84 contact forces"

    def __post_init__(self) -> None:
        """Checks the settings."""
        if is_number(self.radius) and not 0 < self.radius < math.inf:
            raise SettingsError(f"Expected a radius above 0 m, got {self.radius}.")
        super().__post_init__()

    def card(self) -> Card:
        r = f"{self.radius:g}"
        law = f"goal g ~ U(-{r}, {r})^2 m" if self.square else f"goal g, in a disc of {r} m"
        source = "MAML's code; its reward differs" if self.square else "r = 3 sqrt(u)"
        summary = "Ant walks to a goal position that it does not observe"
        return self._card(summary, Fact("tasks", law, source), "-||(x', y') - g||_1", True)

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Samples goals; splits have disjoint distances, or disjoint x coordinates in a square."""
        cell, inside, other = uniform_draws(3, num_tasks, generator)
        u = split_uniform(cell, inside, self.part)
        if self.square:
            goals = 2 * torch.stack((u, other), 1) - 1  # g ~ U(-1, 1)^2, in units of the radius
        else:
            # (r, w) = (sqrt(u), 2 pi u') is uniform in the unit disc.
            angle = 2 * torch.pi * other
            goals = u.sqrt().unsqueeze(1) * torch.stack((angle.cos(), angle.sin()), 1)
        return ControlTasks({"goal": self.radius * goals})

    def pay(self, before: WorldState, after: WorldState, tasks: Tasks) -> Tensor:
        # -||(x', y') - g||_1
        return -(after["qpos"][:, :2] - tasks["goal"]).abs().sum(1)

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the goals, [W, 2]."""
        return tasks["goal"]
