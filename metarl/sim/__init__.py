"""Families of control tasks and the vectorised environments that run them."""

from metarl.sim.card import Card, Fact
from metarl.sim.check import check_vector_env
from metarl.sim.check_family import check_family
from metarl.sim.family import ControlTasks, Family, Tasks, TorchFamily, WorldState, normal
from metarl.sim.make import FAMILIES, make_family, make_vec
from metarl.sim.mujoco_engine import MujocoVectorEnv
from metarl.sim.physics import MujocoFamily
from metarl.sim.torch_engine import TorchVectorEnv
from metarl.sim.vector_env import TensorVectorEnv, WorldNoise

__all__ = [
    "FAMILIES",
    "Card",
    "ControlTasks",
    "Fact",
    "Family",
    "MujocoFamily",
    "MujocoVectorEnv",
    "Tasks",
    "TensorVectorEnv",
    "TorchFamily",
    "TorchVectorEnv",
    "WorldNoise",
    "WorldState",
    "check_family",
    "check_vector_env",
    "make_family",
    "make_vec",
    "normal",
]
