"""The four-legged ant that runs at a velocity, or forwards or backwards."""

from __future__ import annotations

from dataclasses import dataclass

from metarl.tasks.base import Split
from metarl_envs.locomotion import Direction, Velocity
from metarl_envs.models import gymnasium_model
from metarl_envs.robot import Robot

ANT = Robot("Ant-v5", gymnasium_model("ant.xml"), 5, hidden=2, height=2, heights=(0.2, 1.0))
PAPER = "Finn et al. 2017, arXiv:1703.03400; code: github.com/cbfinn/maml_rl"
CONTACTS = "there with rllab's ant and costs of contact forces, which this one has not"


@dataclass(frozen=True)
class AntVelocity(Velocity):
    """Velocities of U(0, 3) m/s along x: Finn et al. 2017, section 5.3 (arXiv:1703.03400).

    Attributes:
        fastest: The greatest velocity, m/s.
        horizon: Steps of an episode.
        integrator: See `MujocoFamily`.
        part: The split that velocities are drawn from.
    """

    fastest: float = 3.0
    horizon: int = 200
    integrator: str = "xml"
    part: Split = "train"

    name = "AntVelocity-v1"
    robot = ANT
    alive = 1.05
    control_cost = 0.005
    paper = PAPER
    reward_note = CONTACTS


@dataclass(frozen=True)
class AntDirection(Direction):
    """Forwards or backwards along x: Finn et al. 2017, section 5.3 (arXiv:1703.03400).

    Attributes:
        horizon: Steps of an episode.
        integrator: See `MujocoFamily`.
        part: The split, which makes no difference.
    """

    horizon: int = 200
    integrator: str = "xml"
    part: Split = "train"

    name = "AntDirection-v1"
    robot = ANT
    alive = 0.05
    control_cost = 0.005
    paper = PAPER
    reward_note = CONTACTS
