"""Families of control tasks and the vectorised environments that run them."""

from metarl.sim.card import Card, Fact
from metarl.sim.check_family import check_family
from metarl.sim.check_vector_env import check_vector_env
from metarl.sim.family import ControlTasks, TaskFamily, Tasks, TorchFamily, WorldState, normal
from metarl.sim.family_renderer import WorldRenderer
from metarl.sim.gymnasium.engine import GymVectorEnv
from metarl.sim.gymnasium.family import GymFamily
from metarl.sim.gymnasium.ranges import Choice, LogUniform, Range, Uniform
from metarl.sim.gymnasium.task_pool import GymTaskPool
from metarl.sim.gymnasium.tasks import GymTasks
from metarl.sim.make import FAMILIES, make_family, make_vec
from metarl.sim.mujoco.engine import MujocoVectorEnv
from metarl.sim.mujoco.physics import MujocoFamily
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
    "GymFamily",
    "GymTaskPool",
    "GymTasks",
    "GymVectorEnv",
    "LogUniform",
    "MujocoFamily",
    "MujocoVectorEnv",
    "Range",
    "TaskFamily",
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
