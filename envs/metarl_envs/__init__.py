"""The control task families that ship with MetaRL, registered as entry points."""

from metarl_envs.ant import (
    AntDirection,
    AntGoal,
    AntVelocity,
)
from metarl_envs.bandit import Bandit
from metarl_envs.cart_pole import CartPole
from metarl_envs.changed_robots import (
    AntActuator,
    AntLeg,
    AntSlope,
    HalfCheetahActuator,
    HalfCheetahFriction,
    HalfCheetahLatency,
    HalfCheetahPayload,
    HalfCheetahSlope,
    HalfCheetahStrength,
    HopperPayload,
    HopperSlope,
    HopperStrength,
    Walker2dActuator,
    Walker2dPayload,
    Walker2dSlope,
)
from metarl_envs.half_cheetah import HalfCheetahDirection, HalfCheetahVelocity
from metarl_envs.humanoid import (
    HumanoidDirection,
)
from metarl_envs.metaworld_tensors import MetaWorldPickPlace, MetaWorldPush, MetaWorldReach
from metarl_envs.navigation import Navigation2D, Navigation2DCorner, Navigation2DSparse
from metarl_envs.random_parameters import HopperRandomParameters, Walker2dRandomParameters
from metarl_envs.rllab import (
    AntDirectionRllab,
    AntVelocityRllab,
    HalfCheetahDirectionRllab,
    HalfCheetahVelocityRllab,
)
from metarl_envs.tabular_mdp import TabularMDP
from metarl_envs.walker2d import Walker2dDirection, Walker2dVelocity

__all__ = [
    "AntActuator",
    "AntDirection",
    "AntDirectionRllab",
    "AntGoal",
    "AntLeg",
    "AntSlope",
    "AntVelocity",
    "AntVelocityRllab",
    "Bandit",
    "CartPole",
    "HalfCheetahActuator",
    "HalfCheetahDirection",
    "HalfCheetahDirectionRllab",
    "HalfCheetahFriction",
    "HalfCheetahLatency",
    "HalfCheetahPayload",
    "HalfCheetahSlope",
    "HalfCheetahStrength",
    "HalfCheetahVelocity",
    "HalfCheetahVelocityRllab",
    "HopperPayload",
    "HopperRandomParameters",
    "HopperSlope",
    "HopperStrength",
    "HumanoidDirection",
    "MetaWorldPickPlace",
    "MetaWorldPush",
    "MetaWorldReach",
    "Navigation2D",
    "Navigation2DCorner",
    "Navigation2DSparse",
    "TabularMDP",
    "Walker2dActuator",
    "Walker2dDirection",
    "Walker2dPayload",
    "Walker2dRandomParameters",
    "Walker2dSlope",
    "Walker2dVelocity",
]
