"""Task family of the humanoid: directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from metarl.registry import check_choice
from metarl.sim import WorldState
from metarl_envs.kinematics import skeleton
from metarl_envs.locomotion import Direction
from metarl_envs.models import Change, gymnasium_model
from metarl_envs.robot import Robot

HUMANOID = Robot(
    "Humanoid-v5", gymnasium_model("humanoid.xml"), 5, hidden=2, noise=1e-2,
    normal_velocities=False, height=2, heights=(1.0, 2.0),
    physics="the model's own solver is PGS; MuJoCo Warp uses Newton instead",
)  # fmt: skip

Solver = Literal["xml", "Newton", "CG"]


@dataclass(frozen=True)
class HumanoidDirection(Direction):
    """Running forwards or backwards along x (Rothfuss et al. 2019, appendix; arXiv:1810.06784).

    The reward uses the velocity of the centre of mass, computed from positions.

    Attributes:
        solver: MuJoCo's constraint solver: "xml" for the model's own (PGS), "Newton" or "CG".
    """

    solver: Solver = "xml"

    name = "HumanoidDirection-v1"
    robot = HUMANOID
    weight = 1.25
    alive = 5.0
    control_cost = 0.1
    paper = "Rothfuss et al. 2019 (ProMP), arXiv:1810.06784; code: github.com/jonasrothfuss/ProMP"
    speed = "v = (c' - c) / dt of the centre of mass c"
    reward_note = "the paper also subtracts min(5e-7 times the squared contact forces, 10)"
    observation_note = "the paper also observes inertias, velocities and forces computed by MuJoCo"

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_choice("solver", self.solver, get_args(Solver))
        super().__post_init__()

    @property
    def changes(self) -> tuple[Change, ...]:
        """The change of the solver, or no change for the model's own."""
        return () if self.solver == "xml" else (("option", "solver", self.solver),)

    def velocity(self, before: WorldState, after: WorldState) -> Tensor:
        """Returns the velocity of the centre of mass along x, [W] float64 in m/s."""
        # v = (c' - c) / dt
        positions = torch.cat((before["qpos"], after["qpos"]))
        start, end = skeleton(self.robot.model, positions).centre(positions)[:, 0].chunk(2)
        return (end - start) / self.dt
