"""Imports of optional dependencies."""

from __future__ import annotations

import importlib
from typing import Any

from metarl.errors import SettingsError


def import_extra(module: str, extra: str) -> Any:
    """Imports a module that needs the packages of an extra, for example "warp".

    Raises:
        SettingsError: If a package is missing; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"This needs {error.name}, which is not installed: pip install 'metarl[{extra}]'."
        ) from error
