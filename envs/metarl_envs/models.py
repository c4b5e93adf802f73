"""The robots' MuJoCo models: gymnasium's, copies of our own, and both with attributes changed."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

Change = tuple[str, str, str]
"""Path of elements below <mujoco>, as "actuator/*", an attribute of them, and its value."""

ASSETS = Path(__file__).parent / "assets"


def gymnasium_model(name: str) -> str:
    """Returns the path of a model that gymnasium ships, without importing its environments."""
    spec = find_spec("gymnasium")
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).parent / "envs" / "mujoco" / "assets" / name)


def own_model(name: str) -> str:
    """Returns the path of a model of ours: those of gymnasium's that MuJoCo would warn of."""
    return str(ASSETS / name)


@lru_cache(maxsize=64)
def changed_model(path: str, changes: tuple[Change, ...]) -> str:
    """Returns the text of a model with attributes changed, or its path if none is.

    Args:
        path: Path of an MJCF file.
        changes: What is changed.
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


def told_changes(changes: tuple[Change, ...]) -> str:
    """Returns what was changed in a model, for a card."""
    told = ", ".join(f"{where} {attribute}={value}" for where, attribute, value in changes)
    return f" with {told}" if told else ""
