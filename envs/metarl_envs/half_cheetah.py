"""Task families of the half cheetah: velocities and directions."""

from __future__ import annotations

from dataclasses import dataclass

from metarl_envs.locomotion import Direction, Velocity
from metarl_envs.models import own_model
from metarl_envs.robot import Robot

HALF_CHEETAH = Robot("HalfCheetah-v5", own_model("half_cheetah.xml"), 5)
PAPER = "Finn et al. 2017, arXiv:1703.03400; code: github.com/cbfinn/maml_rl"
PHYSICS = "the paper uses rllab's cheetah with a step of 0.01 s: returns are not comparable"


@dataclass(frozen=True)
class HalfCheetahVelocity(Velocity):
    """Target velocities g ~ U(0, 2) m/s (Finn et al. 2017, section 5.3; arXiv:1703.03400)."""

    fastest: float = 2.0

    name = "HalfCheetahVelocity-v1"
    robot = HALF_CHEETAH
    control_cost = 0.05
    paper = PAPER
    range_note = "U(0, 3) in ProMP, arXiv:1810.06784, and PEARL, arXiv:1903.08254"
    reward_note = PHYSICS


@dataclass(frozen=True)
class HalfCheetahDirection(Direction):
    """Running forwards or backwards (Finn et al. 2017, section 5.3; arXiv:1703.03400)."""

    name = "HalfCheetahDirection-v1"
    robot = HALF_CHEETAH
    control_cost = 0.05
    paper = PAPER
    reward_note = PHYSICS
