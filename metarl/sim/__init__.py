"""Families of control tasks and the vectorised environments that run them."""

from metarl.sim.card import Card, Fact
from metarl.sim.family import ControlTasks, Family, Tasks, TorchFamily, WorldState, normal
from metarl.sim.make import FAMILIES, make_family, make_vec
from metarl.sim.torch_engine import TorchVectorEnv
from metarl.sim.vector_env import TensorVectorEnv, WorldNoise

__all__ = [
    "FAMILIES",
    "Card",
    "ControlTasks",
    "Fact",
    "Family",
    "Tasks",
    "TensorVectorEnv",
    "TorchFamily",
    "TorchVectorEnv",
    "WorldNoise",
    "WorldState",
    "make_family",
    "make_vec",
    "normal",
]
