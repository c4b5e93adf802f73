"""The half cheetah and the ant of MAML's paper, as rllab had them.

Finn et al. 2017 (arXiv:1703.03400) ran github.com/cbfinn/maml_rl on rllab, whose robots are not
gymnasium's: other steps of time, starts, observations, and rewards of the centre of mass. Published
returns compare with these families only. What cannot be had is the MuJoCo of that time (1.31), and
contact forces, which engines do not give alike: the ant observes 0 in their 84 places and does not
pay for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.sim import Tasks, WorldState
from metarl_envs.ant import ANT
from metarl_envs.half_cheetah import HALF_CHEETAH, PAPER
from metarl_envs.kinematics import rotation, skeleton
from metarl_envs.locomotion import Direction, Locomotion, Velocity
from metarl_envs.robot import Robot

RLLAB = "rllab (github.com/rll/rllab)"
OLD_MUJOCO = "MuJoCo 1.31 there"
RLLAB_CHEETAH = Robot(
    "HalfCheetah-rllab", HALF_CHEETAH.model, 1, noise=0.01, kick=0.1, normal_positions=True,
    source=RLLAB, physics=OLD_MUJOCO,
)  # fmt: skip
# There torques of +-150 N m under rllab's `normalize`; here a gear of 150 and controls of +-1.
RLLAB_ANT = Robot(
    "Ant-rllab", ANT.model, 1, hidden=0, noise=0.01, kick=0.1, normal_positions=True,
    height=2, heights=(0.2, 1.0), source=RLLAB, physics=OLD_MUJOCO,
    pose=(0.0, 0.0, 0.55, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0),
    changes=(("option", "timestep", "0.02"), ("default/geom", "solimp", ".8 .8 .01")),
)  # fmt: skip
CONTACT_FORCES = 84  # of 14 bodies, 6 each
NO_CONTACT_COST = "there also 0.0005 ||contact forces clipped to +-1||^2, at most 0.042 a step"


class Rllab(Locomotion):
    """Interface of families in rllab's manner: the centre of mass is seen, and its speed pays."""

    speed = "v of the centre of mass after the step"
    paper = PAPER

    def velocity(self, before: WorldState, after: WorldState) -> Tensor:
        """See `Locomotion.velocity`: that of the centre of mass after the step."""
        positions = after["qpos"]
        _, velocity = skeleton(self.model, positions).motion(positions, after["qvel"])
        return velocity[:, 0]

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        """See `TaskFamily.observe`."""
        positions = state["qpos"]
        centre = skeleton(self.model, positions).centre(positions)
        seen = (positions[:, self.robot.hidden :], state["qvel"], *self.extra(positions), centre)
        return torch.cat(seen, 1).float()

    def extra(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Returns what is observed before the centre of mass, [W, *] each."""
        return ()


class CheetahRllab(Rllab):
    """Interface of the families of rllab's half cheetah."""

    robot = RLLAB_CHEETAH
    control_cost = 0.05

    @property
    def observation_space(self) -> spaces.Box:
        """Positions but x, velocities, the centre of mass."""
        return spaces.Box(-np.inf, np.inf, (20,), np.float32)

    def seen(self) -> str:
        """See `Locomotion.seen`."""
        return f"{super().seen()}, the centre of mass"


class AntRllab(Rllab):
    """Interface of the families of rllab's ant."""

    robot = RLLAB_ANT
    control_cost = 0.005
    reward_note = NO_CONTACT_COST
    observation_note = f"{RLLAB}; there contact forces in place of the zeros"

    @property
    def observation_space(self) -> spaces.Box:
        """Positions, velocities, no contact forces, the torso's rotation, the centre of mass."""
        return spaces.Box(-np.inf, np.inf, (125,), np.float32)

    def extra(self, positions: Tensor) -> tuple[Tensor, ...]:
        """See `Rllab.extra`: zeros for contact forces, the torso's rotation matrix."""
        forces = positions.new_zeros(len(positions), CONTACT_FORCES)
        return forces, rotation(positions[:, 3:7]).flatten(1)

    def seen(self) -> str:
        """See `Locomotion.seen`."""
        others = f"{CONTACT_FORCES} zeros, the torso's rotation matrix, the centre of mass"
        return f"{super().seen()}, {others}"


@dataclass(frozen=True)
class HalfCheetahVelocityRllab(CheetahRllab, Velocity):
    """Velocities of U(0, 2) m/s with rllab's half cheetah: Finn et al. 2017, section 5.3."""

    fastest: float = 2.0

    name = "HalfCheetahVelocityRllab-v1"


@dataclass(frozen=True)
class HalfCheetahDirectionRllab(CheetahRllab, Direction):
    """Forwards or backwards with rllab's half cheetah: Finn et al. 2017, section 5.3."""

    name = "HalfCheetahDirectionRllab-v1"


@dataclass(frozen=True)
class AntVelocityRllab(AntRllab, Velocity):
    """Velocities of U(0, 3) m/s with rllab's ant: Finn et al. 2017, section 5.3."""

    name = "AntVelocityRllab-v1"
    alive = 1.05


@dataclass(frozen=True)
class AntDirectionRllab(AntRllab, Direction):
    """Forwards or backwards with rllab's ant: Finn et al. 2017, section 5.3."""

    name = "AntDirectionRllab-v1"
    alive = 0.05
