"""Families of control tasks and the vectorised environments that run them."""

from metarl.sim.card import Card, Fact
from metarl.sim.check import check_vector_env
from metarl.sim.check_family import check_family
from metarl.sim.drawing import WorldRenderer
from metarl.sim.family import ControlTasks, Family, Tasks, TorchFamily, WorldState, normal
from metarl.sim.gym.engine import GymnasiumVectorEnv
from metarl.sim.gym.family import GymnasiumFamily
from metarl.sim.gym.ranges import Choice, LogUniform, Range, Uniform
from metarl.sim.gym.task_pool import GymTaskPool
from metarl.sim.gym.tasks import GymTasks
from metarl.sim.make import FAMILIES, make_family, make_vec
from metarl.sim.mujoco_engine import MujocoVectorEnv
from metarl.sim.physics import MujocoFamily
from metarl.sim.rendering import make_renderer
from metarl.sim.torch_engine import TorchVectorEnv
from metarl.sim.vector_env import TensorVectorEnv, WorldNoise
from metarl.sim.warp.engine import WarpVectorEnv

__all__ = [
    "FAMILIES",
    "Card",
    "Choice",
    "ControlTasks",
    "Fact",
    "Family",
    "GymTaskPool",
    "GymTasks",
    "GymnasiumFamily",
    "GymnasiumVectorEnv",
    "LogUniform",
    "MujocoFamily",
    "MujocoVectorEnv",
    "Range",
    "Tasks",
    "TensorVectorEnv",
    "TorchFamily",
    "TorchVectorEnv",
    "Uniform",
    "WarpVectorEnv",
    "WorldNoise",
    "WorldRenderer",
    "WorldState",
    "check_family",
    "check_vector_env",
    "make_family",
    "make_renderer",
    "make_vec",
    "normal",
]
