"""The half cheetah and the ant of rllab, which the MAML paper used.

Finn et al. 2017 (arXiv:1703.03400) ran github.com/cbfinn/maml_rl on rllab. Its robots differ from
gymnasium's in time step, initial state, observation and reward, which uses the velocity of the
centre of mass. Only returns of these families are comparable with the published ones. Two
differences remain: the MuJoCo version (1.31 in the paper), and contact forces, which differ between
engines. The ant observes 84 zeros in their place and its reward has no contact cost.
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
OLD_MUJOCO = "rllab uses MuJoCo 1.31"
RLLAB_CHEETAH = Robot(
    "HalfCheetah-rllab", HALF_CHEETAH.model, 1, noise=0.01, kick=0.1, normal_positions=True,
    source=RLLAB, physics=OLD_MUJOCO,
)  # fmt: skip
# rllab has torques of +-150 N m behind its `normalize`; this model has a gear of 150 and controls
# of +-1, which is the same.
RLLAB_ANT = Robot(
    "Ant-rllab", ANT.model, 1, hidden=0, noise=0.01, kick=0.1, normal_positions=True,
    height=2, heights=(0.2, 1.0), source=RLLAB, physics=OLD_MUJOCO,
    pose=(0.0, 0.0, 0.55, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, -1.0, 0.0, 1.0),
    changes=(("option", "timestep", "0.02"), ("default/geom", "solimp", ".8 .8 .01")),
)  # fmt: skip
CONTACT_FORCES = 84  # 6 numbers for each of 14 bodies
NO_CONTACT_COST = (
    "rllab also subtracts 0.0005 ||contact forces clipped to +-1||^2, at most 0.042 a step"
)


class Rllab(Locomotion):
    """Base class of rllab's families, which observe the centre of mass and reward its velocity."""

    speed = "v of the centre of mass after the step"
    paper = PAPER

    def velocity(self, before: WorldState, after: WorldState) -> Tensor:
        """Returns the velocity of the centre of mass along x after the step, [W] float64 in m/s."""
        positions = after["qpos"]
        _, velocity = skeleton(self.model, positions).motion(positions, after["qvel"])
        return velocity[:, 0]

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        positions = state["qpos"]
        centre = skeleton(self.model, positions).centre(positions)
        parts = (positions[:, self.robot.hidden :], state["qvel"], *self.extra(positions), centre)
        return torch.cat(parts, 1).float()

    def extra(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Returns the observations between velocities and centre of mass, [W, *] each."""
        return ()


class CheetahRllab(Rllab):
    """Base class of the families of rllab's half cheetah."""

    robot = RLLAB_CHEETAH
    control_cost = 0.05

    @property
    def observation_space(self) -> spaces.Box:
        """Positions without x, velocities, centre of mass."""
        return spaces.Box(-np.inf, np.inf, (20,), np.float32)

    def seen(self) -> str:
        return f"{super().seen()}, the centre of mass"


class AntRllab(Rllab):
    """Base class of the families of rllab's ant."""

    robot = RLLAB_ANT
    control_cost = 0.005
    reward_note = NO_CONTACT_COST
    observation_note = f"{RLLAB}; rllab observes contact forces instead of the zeros"

    @property
    def observation_space(self) -> spaces.Box:
        """Positions, velocities, 84 zeros for contact forces, torso rotation, centre of mass."""
        return spaces.Box(-np.inf, np.inf, (125,), np.float32)

    def extra(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Returns zeros for the contact forces and the torso's rotation matrix, [W, 84], [W, 9]."""
        forces = positions.new_zeros(len(positions), CONTACT_FORCES)
        return forces, rotation(positions[:, 3:7]).flatten(1)

    def seen(self) -> str:
        others = f"{CONTACT_FORCES} zeros, the torso's rotation matrix, the centre of mass"
        return f"{super().seen()}, {others}"


@dataclass(frozen=True)
class HalfCheetahVelocityRllab(CheetahRllab, Velocity):
    """Target velocities g ~ U(0, 2) m/s of rllab's half cheetah (Finn et al. 2017, section 5.3)."""

    fastest: float = 2.0

    name = "HalfCheetahVelocityRllab-v1"


@dataclass(frozen=True)
class HalfCheetahDirectionRllab(CheetahRllab, Direction):
    """Running forwards or backwards with rllab's half cheetah (Finn et al. 2017, section 5.3)."""

    name = "HalfCheetahDirectionRllab-v1"


@dataclass(frozen=True)
class AntVelocityRllab(AntRllab, Velocity):
    """Target velocities g ~ U(0, 3) m/s of rllab's ant (Finn et al. 2017, section 5.3)."""

    name = "AntVelocityRllab-v1"
    alive = 1.05


@dataclass(frozen=True)
class AntDirectionRllab(AntRllab, Direction):
    """Running forwards or backwards with rllab's ant (Finn et al. 2017, section 5.3)."""

    name = "AntDirectionRllab-v1"
    alive = 0.05
