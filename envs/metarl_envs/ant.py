"""The four-legged ant that runs at a velocity, forwards or backwards, or to a goal."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim import Card, ControlTasks, Fact, Tasks, WorldState
from metarl.tasks.base import Split
from metarl.tasks.disjoint_splits import split_uniform
from metarl_envs.locomotion import Direction, Locomotion, Velocity, uniform_draws
from metarl_envs.models import gymnasium_model
from metarl_envs.robot import Robot

ANT = Robot("Ant-v5", gymnasium_model("ant.xml"), 5, hidden=2, height=2, heights=(0.2, 1.0))
PAPER = "Finn et al. 2017, arXiv:1703.03400; code: github.com/cbfinn/maml_rl"
CONTACTS = "there with rllab's ant and costs of contact forces, which this one has not"


@dataclass(frozen=True)
class AntVelocity(Velocity):
    """Velocities of U(0, 3) m/s along x: Finn et al. 2017, section 5.3 (arXiv:1703.03400)."""

    name = "AntVelocity-v1"
    robot = ANT
    alive = 1.05
    control_cost = 0.005
    paper = PAPER
    reward_note = CONTACTS


@dataclass(frozen=True)
class AntDirection(Direction):
    """Forwards or backwards along x: Finn et al. 2017, section 5.3 (arXiv:1703.03400)."""

    name = "AntDirection-v1"
    robot = ANT
    alive = 0.05
    control_cost = 0.005
    paper = PAPER
    reward_note = CONTACTS


@dataclass(frozen=True)
class AntGoal(Locomotion):
    """Goals in the plane; "goal" [T, 2] in m tells tasks apart. The ant sees where it is.

    Rothfuss et al. 2019 (ProMP, arXiv:1810.06784), Rakelly et al. 2019 (PEARL, arXiv:1903.08254).

    Attributes:
        square: Whether goals are uniform in a square, as MAML's code has them, not in a disc.
        radius: The disc's, or half of the square's side, m.
        horizon: Steps of an episode.
        integrator: See `MujocoFamily`.
        part: The split that goals are drawn from.
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
    reward_note = "there also 0.0005 times the squared contact forces"
    observation_note = "there also 84 contact forces"

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        if not 0 < self.radius < math.inf:
            raise SettingsError(f"Expected a radius above 0 m, got {self.radius}.")

    def card(self) -> Card:
        """See `TaskFamily.card`."""
        r = f"{self.radius:g}"
        law = f"goal g ~ U(-{r}, {r})^2 m" if self.square else f"goal g, in a disc of {r} m"
        source = "MAML's code; its rewards are others" if self.square else "r = 3 sqrt(u)"
        summary = "Ant walks to a goal that only the reward tells"
        return self._card(summary, Fact("tasks", law, source), "-||(x', y') - g||_1", True)

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """See `TaskFamily.sample`; no two splits share a distance, or a place along x."""
        cell, inside, other = uniform_draws(3, num_tasks, generator)
        own = split_uniform(cell, inside, self.part)
        if self.square:
            goals = 2 * torch.stack((own, other), 1) - 1
        else:
            angle = 2 * torch.pi * other
            goals = own.sqrt().unsqueeze(1) * torch.stack((angle.cos(), angle.sin()), 1)
        return ControlTasks({"goal": self.radius * goals})

    def pay(self, before: WorldState, after: WorldState, tasks: Tasks) -> Tensor:
        """See `Locomotion.pay`: the distance to the goal, negative."""
        return -(after["qpos"][:, :2] - tasks["goal"]).abs().sum(1)

    def task_vector(self, tasks: Tasks) -> Tensor:
        """See `TaskFamily.task_vector`: the goal."""
        return tasks["goal"]
