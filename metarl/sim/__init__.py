"""Families of control tasks and the vectorised environments that run them.

An engine and its libraries are imported with the first name that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metarl.sim.card import Card, Fact
from metarl.sim.check_family import check_family
from metarl.sim.check_vector_env import check_vector_env
from metarl.sim.family import ControlTasks, TaskFamily, Tasks, TorchFamily, WorldState, normal
from metarl.sim.family_renderer import WorldRenderer
from metarl.sim.make import FAMILIES, make_family, make_vec
from metarl.sim.rendering import make_renderer
from metarl.sim.torch_engine import TorchVectorEnv
from metarl.sim.vector_env import TensorVectorEnv
from metarl.sim.world_noise import WorldNoise

if TYPE_CHECKING:
    from metarl.sim.batched.engine import BatchedVectorEnv
    from metarl.sim.batched.tasks import VectorEnvTasks
    from metarl.sim.disturbed_parameters import Latency, SensorNoise
    from metarl.sim.gymnasium.engine import GymVectorEnv
    from metarl.sim.gymnasium.family import GymFamily
    from metarl.sim.gymnasium.ranges import Choice, Integers, LogUniform, Range, Ranges, Uniform
    from metarl.sim.gymnasium.suites import make_env
    from metarl.sim.gymnasium.task_pool import GymTaskPool
    from metarl.sim.gymnasium.tasks import GymTasks
    from metarl.sim.mujoco.changes import (
        Armature,
        Damping,
        Friction,
        Gain,
        JointFriction,
        Mass,
        Stiffness,
    )
    from metarl.sim.mujoco.engine import MujocoVectorEnv
    from metarl.sim.mujoco.physics import MujocoFamily
    from metarl.sim.mujoco.tasks import MujocoTasks
    from metarl.sim.mujoco.urdf import from_urdf
    from metarl.sim.warp.engine import WarpVectorEnv

_MODULES = {
    "Armature": "metarl.sim.mujoco.changes",
    "BatchedVectorEnv": "metarl.sim.batched.engine",
    "Choice": "metarl.sim.gymnasium.ranges",
    "Damping": "metarl.sim.mujoco.changes",
    "Friction": "metarl.sim.mujoco.changes",
    "Gain": "metarl.sim.mujoco.changes",
    "GymFamily": "metarl.sim.gymnasium.family",
    "GymTaskPool": "metarl.sim.gymnasium.task_pool",
    "GymTasks": "metarl.sim.gymnasium.tasks",
    "GymVectorEnv": "metarl.sim.gymnasium.engine",
    "Integers": "metarl.sim.gymnasium.ranges",
    "JointFriction": "metarl.sim.mujoco.changes",
    "Latency": "metarl.sim.disturbed_parameters",
    "LogUniform": "metarl.sim.gymnasium.ranges",
    "Mass": "metarl.sim.mujoco.changes",
    "MujocoFamily": "metarl.sim.mujoco.physics",
    "MujocoTasks": "metarl.sim.mujoco.tasks",
    "MujocoVectorEnv": "metarl.sim.mujoco.engine",
    "Range": "metarl.sim.gymnasium.ranges",
    "Ranges": "metarl.sim.gymnasium.ranges",
    "SensorNoise": "metarl.sim.disturbed_parameters",
    "Stiffness": "metarl.sim.mujoco.changes",
    "Uniform": "metarl.sim.gymnasium.ranges",
    "VectorEnvTasks": "metarl.sim.batched.tasks",
    "WarpVectorEnv": "metarl.sim.warp.engine",
    "from_urdf": "metarl.sim.mujoco.urdf",
    "make_env": "metarl.sim.gymnasium.suites",
}

__all__ = [
    "FAMILIES",
    "Armature",
    "BatchedVectorEnv",
    "Card",
    "Choice",
    "ControlTasks",
    "Damping",
    "Fact",
    "Friction",
    "Gain",
    "GymFamily",
    "GymTaskPool",
    "GymTasks",
    "GymVectorEnv",
    "Integers",
    "JointFriction",
    "Latency",
    "LogUniform",
    "Mass",
    "MujocoFamily",
    "MujocoTasks",
    "MujocoVectorEnv",
    "Range",
    "Ranges",
    "SensorNoise",
    "Stiffness",
    "TaskFamily",
    "Tasks",
    "TensorVectorEnv",
    "TorchFamily",
    "TorchVectorEnv",
    "Uniform",
    "VectorEnvTasks",
    "WarpVectorEnv",
    "WorldNoise",
    "WorldRenderer",
    "WorldState",
    "check_family",
    "check_vector_env",
    "from_urdf",
    "make_env",
    "make_family",
    "make_renderer",
    "make_vec",
    "normal",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
