"""Finds the installed Meta-World, whose models and environments MetaRL uses but does not copy."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from metarl.errors import SettingsError

NEEDED = "3.1"
INSTALL = "pip install --no-deps 'metaworld>=3.1,<3.2' && pip install scipy 'gymnasium[mujoco]'"
REASON = "it asks for MuJoCo 3.3.0, which --no-deps ignores"


def check_installed() -> str:
    """Returns the version of the installed Meta-World.

    Raises:
        SettingsError: It is not installed, or has another version.
    """
    try:
        found = version("metaworld")
    except PackageNotFoundError:
        raise SettingsError(
            f"This needs Meta-World {NEEDED}, which is not installed: {INSTALL} ({REASON})."
        ) from None
    if not re.match(rf"{re.escape(NEEDED)}(\.|$)", found):
        raise SettingsError(
            f"Expected Meta-World {NEEDED}, found {found}, whose rewards and goals may differ: "
            f"{INSTALL} ({REASON})."
        )
    return found


def is_installed() -> bool:
    """Returns whether a Meta-World of the right version is installed."""
    try:
        check_installed()
    except SettingsError:
        return False
    return True


def asset(name: str) -> str:
    """Returns the path of a model of the installed package, without importing it.

    Args:
        name: Path below its assets, such as "sawyer_xyz/sawyer_reach_v3.xml".

    Raises:
        SettingsError: It is not installed, has another version, or has no such file.
    """
    found = check_installed()
    path = Path(str(distribution("metaworld").locate_file("metaworld"))) / "assets" / name
    if not path.is_file():
        raise SettingsError(f"Meta-World {found} has no model {name}: install it again. {INSTALL}")
    return str(path)


def package(module: str = "metaworld") -> Any:
    """Imports a module of Meta-World.

    Raises:
        SettingsError: Meta-World, or a package that it needs, is missing.
    """
    check_installed()
    try:
        return import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"Meta-World cannot be imported: {error}. Install: {INSTALL}"
        ) from error
