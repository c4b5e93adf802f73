"""Finds the robots' MuJoCo models and changes attributes of them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

Change = tuple[str, str, str]
"""(path of elements below <mujoco>, such as "actuator/*", attribute name, attribute value)."""

ASSETS = Path(__file__).parent / "assets"


def gymnasium_model(name: str) -> str:
    """Returns the path of a model that gymnasium ships, without importing its environments."""
    spec = find_spec("gymnasium")
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).parent / "envs" / "mujoco" / "assets" / name)


def own_model(name: str) -> str:
    """Returns the path of a model of this package: gymnasium's, without MuJoCo's warnings."""
    return str(ASSETS / name)


@lru_cache(maxsize=64)
def changed_model(path: str, changes: tuple[Change, ...]) -> str:
    """Returns the MJCF text of a model with changed attributes, or its path without changes.

    Args:
        path: Path of an MJCF file.
        changes: The attributes to change; each path must match at least one element.
    """
    if not changes:
        return path
    root = ElementTree.parse(path).getroot()
    for where, attribute, value in changes:
        elements = root.findall(where)
        assert elements, f"{path} has no {where}"
        for element in elements:
            element.set(attribute, value)
    return ElementTree.tostring(root, encoding="unicode")


def describe_changes(changes: tuple[Change, ...]) -> str:
    """Returns a text of the changes of a model for a card."""
    text = ", ".join(f"{where} {attribute}={value}" for where, attribute, value in changes)
    return f" with {text}" if text else ""
