"""Task families of the planar two-legged walker: velocities and directions."""

from __future__ import annotations

from dataclasses import dataclass

from metarl_envs.locomotion import Direction, Velocity
from metarl_envs.models import gymnasium_model
from metarl_envs.robot import Robot

WALKER2D = Robot(
    "Walker2d-v5", gymnasium_model("walker2d_v5.xml"), 4, noise=5e-3, normal_velocities=False,
    speed_limit=10.0, height=1, heights=(0.8, 2.0), lean=1.0,
)  # fmt: skip
PAPER = "Rothfuss et al. 2019 (ProMP), arXiv:1810.06784; code: github.com/jonasrothfuss/ProMP"
FRAME_SKIP = "the paper uses a frame skip of 8, twice this one"


@dataclass(frozen=True)
class Walker2dVelocity(Velocity):
    """Target velocities g ~ U(0, 10) m/s (Rothfuss et al. 2019, appendix; arXiv:1810.06784)."""

    fastest: float = 10.0

    name = "Walker2dVelocity-v1"
    robot = WALKER2D
    alive = 15.0
    control_cost = 1e-3
    paper = PAPER
    reward_note = FRAME_SKIP


@dataclass(frozen=True)
class Walker2dDirection(Direction):
    """Running forwards or backwards (Rothfuss et al. 2019, appendix; arXiv:1810.06784)."""

    name = "Walker2dDirection-v1"
    robot = WALKER2D
    alive = 1.0
    control_cost = 1e-3
    paper = PAPER
    reward_note = FRAME_SKIP
