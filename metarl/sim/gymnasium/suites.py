"""Packages of gymnasium environments: imported by name, and mended for newer MuJoCo."""

from __future__ import annotations

import enum
import importlib
import traceback
import types
from typing import Any

import gymnasium
import mujoco
import numpy as np

from metarl.errors import SettingsError

INSTALL = {
    "gymnasium_robotics": "pip install gymnasium-robotics",
    "highway_env": "pip install highway-env",
    "minigrid": "pip install minigrid",
    "panda_gym": "pip install panda-gym",
    "shimmy": 'pip install "shimmy[dm-control]"',
}
"""Package -> how it is installed."""
MENDED = {"gymnasium_robotics": "gymnasium_robotics", "shimmy": "dm_control"}
"""Package that registers ids -> package that `load_suite` mends."""


def load_suite(package: str) -> None:
    """Imports a package that registers environments, and mends it for this version of MuJoCo.

    Nothing on disk changes. `GymTasks("gymnasium_robotics:FetchReach-v4", ...)` calls it, in worker
    processes too.

    Args:
        package: The name of the package, such as "minigrid".

    Raises:
        SettingsError: The package is not installed, or something that it imports is not.
    """
    try:
        if package == "gymnasium_robotics":
            importlib.import_module(package)
            mend_gymnasium_robotics()
        elif package == "shimmy":
            mend_dm_control()
        importlib.import_module(package)
    except ImportError as error:
        install = INSTALL.get(package, f"install the package of {package}")
        raise SettingsError(
            f"The environments of {package!r} cannot be imported: {error}. Install them: {install}"
        ) from error


def make_env(name: str, **settings: Any) -> gymnasium.Env:
    """Builds an environment of gymnasium without a time limit: the horizon of a family replaces it.

    Args:
        name: An id, or "package:Id-v1" with the package that registers it; see `load_suite`.
        **settings: Arguments of the environment.

    Raises:
        SettingsError: The package is not installed, or the id has no version.
        Exception: Any error of building the environment.
    """
    package, _, title = name.rpartition(":")
    if package:
        load_suite(package)
    versions = [known for known in gymnasium.registry if known.rpartition("-v")[0] == title]
    if versions and title not in gymnasium.registry:
        raise SettingsError(
            f"Expected the id of an environment with its version ({', '.join(versions)}), got "
            f"{title!r}."
        )
    # The environment checker only warns; this package raises errors.
    return gymnasium.make(title, max_episode_steps=-1, disable_env_checker=True, **settings)


def mend_gymnasium_robotics() -> None:
    """Lets gymnasium-robotics 1.4 compare types of joints with MuJoCo's.

    Members of MuJoCo's enumerations no longer equal the integers of NumPy that a model holds, so
    `set_joint_qpos` and others fail an assertion. They get enumerations of integers.
    """
    utilities: Any = importlib.import_module("gymnasium_robotics.utils.mujoco_utils")
    library: Any = mujoco
    if library.mjtJoint.mjJNT_FREE == np.int32(0) or utilities.mujoco is not mujoco:
        return
    mended: Any = types.ModuleType("mujoco")
    vars(mended).update(vars(mujoco))
    for name in ("mjtEq", "mjtJoint", "mjtObj", "mjtTrn"):
        members = getattr(library, name).__members__.items()
        setattr(mended, name, enum.IntEnum(name, {key: int(value) for key, value in members}))
    utilities.mujoco = mended


def mend_dm_control() -> None:
    """Lets dm_control leave out fields that MuJoCo's models and data no longer have.

    Some are gone in MuJoCo 4, and dm_control 1.0.50 reads every field of its own list.
    """
    sizes: Any = importlib.import_module("dm_control.mujoco.wrapper.mjbindings.sizes")
    library: Any = mujoco
    for kind, owner in (("mjmodel", library.MjModel), ("mjdata", library.MjData)):
        fields = sizes.array_sizes[kind]
        for name in [name for name in fields if not hasattr(owner, name)]:
            del fields[name]


def reason_of(error: Exception, env: Any) -> str:
    """Returns why an environment cannot be built, and what to do if `load_suite` would mend it.

    Args:
        error: What building raised.
        env: The id of the environment, or what builds it.
    """
    package = env.rpartition(":")[0] if isinstance(env, str) else ""
    frames = traceback.extract_tb(error.__traceback__)
    text = f"{type(error).__name__}: {error}"
    if not str(error) and frames:
        text = f"{type(error).__name__} in {frames[-1].filename}: {frames[-1].line}"
    for suite, mended in MENDED.items():
        if suite != package and any(f"/{mended}/" in frame.filename for frame in frames):
            text += (
                f". {mended} may not fit MuJoCo {mujoco.__version__}: write the id as "
                f'"{suite}:...", or build it with make_env("{suite}:..."), which mends it'
            )
    return text
