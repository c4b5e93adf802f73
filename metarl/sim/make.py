"""Families and their vector environments by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import FunctionType, MethodType
from typing import Any

import gymnasium
import torch

from metarl.devices import resolve_device
from metarl.errors import SettingsError, UnknownNameError, short_repr
from metarl.gymnasium_ids import FAMILY_GROUP
from metarl.registry import PluginRegistry, Registry, did_you_mean
from metarl.sim.family import TaskFamily, check_is_family
from metarl.sim.vector_env import TensorVectorEnv

FAMILIES: PluginRegistry[Callable[..., TaskFamily]] = PluginRegistry("task family", FAMILY_GROUP)
"""Name with version -> constructor of the family. Those that ship with MetaRL are plug-ins too."""

ENGINES: Registry[Callable[..., TensorVectorEnv]] = Registry("engine")
"""Name -> constructor of the vector environment of a family with a number of worlds."""


def _imported(module: str, name: str) -> Callable[..., TensorVectorEnv]:
    """Returns a constructor that imports its module when it is called."""
    return lambda *args, **kwargs: getattr(import_module(module), name)(*args, **kwargs)


ENGINES.register("torch", _imported("metarl.sim.torch_engine", "TorchVectorEnv"))
ENGINES.register("mujoco", _imported("metarl.sim.mujoco.engine", "MujocoVectorEnv"))
ENGINES.register("warp", _imported("metarl.sim.warp.engine", "WarpVectorEnv"))
ENGINES.register("batched", _imported("metarl.sim.batched.engine", "BatchedVectorEnv"))
ENGINES.register("gymnasium", _imported("metarl.sim.gymnasium.engine", "GymVectorEnv"))


def make_family(name: str, **settings: Any) -> TaskFamily:
    """Builds the family of that name.

    Args:
        name: A name such as "Navigation2D-v1", or `module:Name` of a family or its constructor.
        **settings: Arguments of the constructor, such as `arms=10` for "Bandit-v1".

    Raises:
        UnknownNameError: No family has the name; the message suggests the nearest name.
        SettingsError: A setting is not usable; the name is not that of a family, a class of
            families or a function, and is not called; or the function returns no family.
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
    _check_builder(name, build)
    try:
        family = _changed(build, settings) if isinstance(build, TaskFamily) else build(**settings)
    except TypeError as error:
        raise SettingsError(
            f"The task family {name!r} cannot be built: {error}.{_known_settings(build, settings)}"
        ) from error
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
        device: The device of the tensors; "auto" is CUDA if it is available, else the CPU.
        engine: Name of the engine; "auto" for that of the family. For a `MujocoFamily` on CUDA it
            is "warp" if the extra `metarl[warp]` is installed and finds the device, else "mujoco",
            whose physics run on the CPU.
        **settings: Arguments of `TensorVectorEnv` (`autoreset`, `observe_task`, `seed`) or of the
            engine: `threads` (mujoco), `workers` (gymnasium), those of `WarpVectorEnv`.

    Raises:
        UnknownNameError: No family or no engine has the name.
        SettingsError: A setting is not usable, the device does not exist, or the engine cannot
            run the family.
    """
    if isinstance(family, str):
        family = make_family(family)
    check_is_family(family)
    device = resolve_device(device)
    name = _engine_for(family, device) if engine == "auto" else engine
    return ENGINES.get(name)(family, num_envs, device=device, **settings)


def _changed(family: Any, settings: dict[str, Any]) -> TaskFamily:
    if not settings:
        return family
    change = getattr(family, "with_settings", None)
    return replace(family, **settings) if change is None else change(**settings)


def _known_settings(build: Any, settings: dict[str, Any]) -> str:
    """Returns a sentence with the settings of a family if one that was given is none of them."""
    try:
        parameters = inspect.signature(
            type(build) if isinstance(build, TaskFamily) else build
        ).parameters
    except (TypeError, ValueError):  # a builder of C code
        return ""
    unknown = [name for name in settings if name not in parameters]
    if not unknown or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return ""
    return f"{did_you_mean(unknown[0], list(parameters))} Its settings: {', '.join(parameters)}."


def _check_builder(name: str, build: Any) -> None:
    """Raises SettingsError unless a name is that of a family, a class of families or a function."""
    function = build.func if isinstance(build, partial) else build
    if isinstance(function, type):
        fits = issubclass(function, TaskFamily)
    else:
        fits = isinstance(function, TaskFamily | FunctionType | MethodType)
    if not fits:
        raise SettingsError(
            f"Expected {name!r} to be a TaskFamily, a class of them or a function that returns "
            f"one, got {short_repr(build)}, which was not called."
        )


def _engine_for(family: TaskFamily, device: torch.device) -> str:
    if family.engine == "mujoco" and device.type == "cuda":
        from metarl.sim.warp.engine import runs_on

        return "warp" if runs_on(device) else "mujoco"
    if not family.engine:
        raise SettingsError(
            f"No engine runs {type(family).__name__}; derive it from TorchFamily and give it "
            "`step`, or from MujocoFamily and give it a `model`. GymTasks makes one of any "
            "environment."
        )
    return family.engine
