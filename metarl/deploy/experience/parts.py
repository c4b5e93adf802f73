"""Columns of logs that are parts of composite observations and actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from metarl.deploy.robot.spaces import ControlSpaces
from metarl.sim.spaces import source_of

SEPARATORS = "./"
"""What joins names: "." in LeRobot and in tables, "/" in HDF5 and in flattened archives."""


def gathered(log: Any, aliases: Mapping[str, tuple[str, ...]], own: ControlSpaces) -> Any:
    """Returns a log in which the parts of a Dict, such as `observation.NAME`, have become one.

    Files have columns, and no dicts. A log that lacks a part is returned as it is.

    Args:
        log: The log, or an episode or a step of one.
        aliases: What logs call its parts.
        own: The spaces of training.
    """
    if not isinstance(log, Mapping):
        return log
    observed, acted = source_of(own.observation), source_of(own.action)
    found = dict(log)
    for name, space in (
        ("observations", observed), ("next_observations", observed), ("actions", acted)
    ):  # fmt: skip
        prefixes = [alias + separator for alias in aliases[name] for separator in SEPARATORS]
        columns = (_columns(log, prefix, space) for prefix in prefixes)
        parts = next((one for one in columns if one is not None), None)
        if parts is not None:
            found[name] = parts
    return found


def _columns(log: Mapping[Any, Any], prefix: str, space: spaces.Space[Any]) -> Any:
    """Returns the columns of all parts of a Dict by name; None if one is missing."""
    if not isinstance(space, spaces.Dict):
        return None
    parts = {}
    for name, part in space.spaces.items():
        column = log.get(f"{prefix}{name}")
        if column is None:
            column = _columns(log, f"{prefix}{name}{prefix[-1]}", part)
        if column is None:
            return None
        parts[name] = column
    return parts
