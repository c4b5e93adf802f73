"""Families and their vector environments by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import torch

from metarl.devices import resolve_device
from metarl.errors import SettingsError, UnknownNameError
from metarl.gymnasium_ids import FAMILY_GROUP
from metarl.registry import PluginRegistry, Registry
from metarl.sim.family import TaskFamily, TorchFamily
from metarl.sim.gymnasium.engine import GymVectorEnv
from metarl.sim.gymnasium.family import GymFamily
from metarl.sim.mujoco.engine import MujocoVectorEnv
from metarl.sim.mujoco.physics import MujocoFamily
from metarl.sim.torch_engine import TorchVectorEnv
from metarl.sim.vector_env import TensorVectorEnv
from metarl.sim.warp.engine import WarpVectorEnv, runs_on

FAMILIES: PluginRegistry[Callable[..., TaskFamily]] = PluginRegistry("task family", FAMILY_GROUP)
"""Name with version -> what builds the family. Those that ship with MetaRL are plug-ins too."""

ENGINES: Registry[Callable[..., TensorVectorEnv]] = Registry("engine")
"""Name -> what builds the vector environment of a family and a number of worlds."""

ENGINES.register("torch", TorchVectorEnv)
ENGINES.register("mujoco", MujocoVectorEnv)
ENGINES.register("warp", WarpVectorEnv)
ENGINES.register("gymnasium", GymVectorEnv)


def make_family(name: str, **settings: Any) -> TaskFamily:
    """Builds the family of that name, with settings of its own if there are any.

    Args:
        name: A name such as "Navigation2D-v1", or `module:Name` of what builds a family, or of one.
        **settings: What the family takes, as `arms=10` for "Bandit-v1".

    Raises:
        UnknownNameError: No family has the name; the message suggests the nearest one.
        SettingsError: A setting is not usable, or what was built is no family.
    """
    try:
        build: Any = FAMILIES.get(name)
    except UnknownNameError as error:
        if name not in gymnasium.registry:
            raise
        raise UnknownNameError(
            f"{name!r} is an environment of gymnasium, not a family of tasks: say what differs "
            f'between tasks, as tasks = GymTasks({name!r}, {{"g": Uniform(5, 15)}}) does in '
            "my_module.py, and name my_module:tasks. See docs/families.md."
        ) from error
    try:
        family = _changed(build, settings) if isinstance(build, TaskFamily) else build(**settings)
    except TypeError as error:
        raise SettingsError(f"The task family {name!r} cannot be built: {error}.") from error
    if not isinstance(family, TaskFamily):
        raise SettingsError(
            f"Expected {name!r} to build a TaskFamily, got {type(family).__name__}."
        )
    return family


def make_vec(
    family: TaskFamily | str,
    num_envs: int,
    device: torch.device | str = "auto",
    engine: str = "auto",
    **settings: Any,
) -> TensorVectorEnv:
    """Builds the vector environment of a family.

    Args:
        family: A family, or the name of one with its default settings.
        num_envs: The number of worlds.
        device: Where tensors are; "auto" is CUDA where there is one, else the CPU.
        engine: What computes the dynamics; "auto" takes what the family has been written for. For
            a `MujocoFamily` that is "warp" on CUDA where the extra `metarl[warp]` is installed and
            finds the device, else "mujoco", which is on the CPU wherever tensors are.
        **settings: As of `TensorVectorEnv`: `autoreset`, `observe_task`, `seed`; `threads` of the
            mujoco engine, `workers` of the gymnasium engine, those of `WarpVectorEnv`.

    Raises:
        UnknownNameError: No family or no engine has the name.
        SettingsError: A setting is not usable, the device is not there, or the engine cannot run
            the family.
    """
    if isinstance(family, str):
        family = make_family(family)
    device = resolve_device(str(device))
    name = _engine_for(family, device) if engine == "auto" else engine
    return ENGINES.get(name)(family, num_envs, device=device, **settings)


def _changed(family: Any, settings: dict[str, Any]) -> TaskFamily:
    return replace(family, **settings) if settings else family


def _engine_for(family: TaskFamily, device: torch.device) -> str:
    if isinstance(family, TorchFamily):
        return "torch"
    if isinstance(family, MujocoFamily):
        return "warp" if device.type == "cuda" and runs_on(device) else "mujoco"
    if isinstance(family, GymFamily):
        return "gymnasium"
    raise SettingsError(
        f"No engine runs {type(family).__name__}; derive it from TorchFamily and give it `step`, "
        "or from MujocoFamily and give it a `model`. GymTasks makes one of any environment."
    )
