"""URDF files as MuJoCo models: URDF has no actuators, no floor, and fixes the base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl.errors import SettingsError, short_repr
from metarl.ranges import check_number, user_path
from metarl.registry import did_you_mean
from metarl.sim.mujoco.physics import mj, quiet

COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
MACRO = re.compile(r"<xacro:[\w.-]+")


def from_urdf(
    urdf: Path | str,
    *,
    motors: Mapping[str, float] | None = None,
    servos: Mapping[str, float] | None = None,
    timestep: float = 0.002,
    floating: bool = False,
    floor: bool = False,
) -> str:
    """Returns a URDF as MJCF text, with actuators: a `model` of a family.

    MuJoCo reads links, joints, inertias, collision shapes, limits and damping. It merges links
    that fixed joints connect; the first link is fixed to the world. Meshes named by
    "package://NAME/PATH" are looked for in the folders above the file. In the text, numbers have
    the six digits that MuJoCo writes.

    Args:
        urdf: Path of a URDF file, or its text, which starts with "<".
        motors: Joint -> the force in N, or torque in Nm, of an action of 1, within the `effort`
            limit of the joint. Actions are -1..1.
        servos: Joint -> the gain in N/m or Nm/rad of a position servo. Actions are positions in the
            range of the joint, which needs one. The servo is critically damped, for the inertia
            that the joint has in the initial position.
        timestep: MuJoCo's time step in s.
        floating: Whether the first link moves freely, as that of a legged robot or a vehicle.
        floor: Whether there is a floor at z = 0.

    Raises:
        SettingsError: The URDF does not exist or compile, it has no joint of a name, or a number
            is not positive.
    """
    check_number("timestep", timestep)
    for name, actuators in (("motors", motors), ("servos", servos)):
        if actuators is not None and not isinstance(actuators, Mapping):
            raise SettingsError(
                f"Expected `{name}` to map names of joints to numbers, as {{'knee': 20}}, got "
                f"{short_repr(actuators)}."
            )
    try:
        with quiet():
            spec = _read(urdf)
            spec.option.timestep = timestep
            if floating:
                _free_base(spec)
            if floor:
                spec.worldbody.add_geom(
                    name="floor", type=mj.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.05]
                )
            for joint, force in (motors or {}).items():
                actuator = _actuator(spec, joint, force)
                actuator.set_to_motor()
                actuator.gear[0] = force
                actuator.ctrlrange, actuator.ctrllimited = [-1, 1], True
            for joint, gain in (servos or {}).items():
                actuator = _actuator(spec, joint, gain)
                actuator.set_to_position(kp=gain, dampratio=1)
                actuator.ctrlrange, actuator.ctrllimited = _limits(spec, joint), True
            spec.compile()
            return spec.to_xml()
    except ValueError as error:
        if isinstance(error, SettingsError):
            raise
        reason = " ".join(str(error).split())
        raise SettingsError(f"The URDF does not compile: {reason}") from error


def _read(urdf: Path | str) -> Any:
    urdf = str(urdf)
    if urdf.lstrip().startswith("<"):
        _check_expanded(urdf)
        return mj.MjSpec.from_string(urdf)
    path = user_path(urdf)
    if not path.is_file():
        raise SettingsError(
            f"Expected the path of a URDF file or its text, found no file {urdf!r}."
        )
    _check_expanded(path.read_text(errors="replace"))
    spec = mj.MjSpec.from_file(str(path))
    for mesh in spec.meshes:
        mesh.file = _mesh_file(mesh.file, path.resolve().parent)
    # The text that is returned has no folder.
    spec.meshdir = str((path.parent / spec.meshdir).resolve())
    return spec


def _check_expanded(text: str) -> None:
    """Raises SettingsError for macros, which MuJoCo passes over: the robot would lack parts."""
    found = MACRO.search(COMMENT.sub("", text))
    if found:
        raise SettingsError(
            f"The URDF has {found[0]!r}, a macro, whose links and joints would be missing. Expand "
            "it by ROS's xacro: `xacro robot.urdf.xacro > robot.urdf`."
        )


def _mesh_file(name: str, folder: Path) -> str:
    """Returns the path of a mesh; of "package://PACKAGE/PATH" below the folders of the URDF.

    The package is the folder of that name, or the one that the URDF is in.
    """
    scheme, separator, rest = name.partition("://")
    if not separator:
        return name
    if scheme == "file":
        return "/" + rest.lstrip("/")
    inside = rest.partition("/")[2]
    parents = (folder, *folder.parents)
    tried = [parent / part for parent in parents for part in (rest, inside)]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise SettingsError(
            f"The mesh {name!r} of the URDF is in no folder above {folder}: write its path in "
            "place of the URI, relative to the URDF."
        )
    return str(found)


def _free_base(spec: Any) -> None:
    """Lets the first link move."""
    base = spec.worldbody.first_body()
    if base is None or not (base.mass or list(base.geoms)):
        name = "" if base is None else base.name
        raise SettingsError(
            f"The first link {name!r} has no mass, so it cannot move freely: give it an "
            "<inertial>, or leave it out, so that the next link is the first."
        )
    base.add_freejoint(name="base")


def _actuator(spec: Any, joint: str, number: float) -> Any:
    names = [j.name for j in spec.joints if j.name]
    if joint not in names:
        raise SettingsError(
            f"The URDF has no joint {joint!r} that moves.{did_you_mean(joint, names)} It has "
            f"{', '.join(names) or 'none'}."
        )
    check_number(f"actuator of {joint}", number)
    return spec.add_actuator(name=joint, target=joint, trntype=mj.mjtTrn.mjTRN_JOINT)


def _limits(spec: Any, joint: str) -> list[float]:
    low, high = spec.joint(joint).range
    if not low < high:
        raise SettingsError(
            f"The joint {joint!r} has no limits, between which a position servo acts: give it a "
            "<limit> in the URDF, or a motor."
        )
    return [float(low), float(high)]
