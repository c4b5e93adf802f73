"""Names of code in the settings of a run: refused unless the user allows them."""

from __future__ import annotations

import dataclasses
import re
from ast import literal_eval
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from metarl.errors import UntrustedError, short_repr
from metarl.runs.networks import NETWORKS

TRUST = "--trust"
_DEVICE = re.compile(r"[a-z]+:\d{1,4}")
_OPTION = re.compile(r"\s*[^\W\d]\w*\s*=(?P<value>.*)", re.DOTALL)
_NOT_IMPORTED = ("algorithm", "resume")


def check_trusted(settings: Any, folder: Path, typed: Iterable[str] = ()) -> None:
    """Checks that settings that were read from a run name no code as `module:Name`.

    Importing a module runs its code, so a name from a run of somebody else must not be imported.
    Names without a colon are looked up among what is installed and registered.

    Args:
        settings: The settings, a dataclass.
        folder: The run folder, for the message.
        typed: Values that the user named on the command line, which are allowed.

    Raises:
        UntrustedError: A setting names code that the user did not name.
    """
    allowed = {*typed, str(folder / NETWORKS)}  # that file is data
    for setting, text in _strings(settings):
        if text not in allowed and _names_code(setting, text):
            option = setting.replace("_", "-")
            raise UntrustedError(
                f"The run {folder} names code in its setting {setting}: {short_repr(text)}. MetaRL "
                "does not import what a run names, as that runs code. If you trust the run and "
                f"that module, add {TRUST}; or, to resume it, name the same on this command line "
                f"(--{option} ...). See docs/trust.md."
            )


def _strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields the names and texts of all strings in settings."""
    if isinstance(value, str):
        yield name, value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            inner = f"{name}.{field.name}" if name else field.name
            yield from _strings(getattr(value, field.name), inner)
    elif isinstance(value, Mapping):
        for key, element in value.items():
            yield from _strings(key, name)
            yield from _strings(element, name)
    elif isinstance(value, Iterable) and not isinstance(value, bytes | Path):
        for element in value:
            yield from _strings(element, name)


def _names_code(setting: str, text: str) -> bool:
    """Returns whether a text may be looked up as `module:Name`, or holds a text that may."""
    is_device = setting.rpartition(".")[2] == "device" and _DEVICE.fullmatch(text)
    if ":" not in text or setting in _NOT_IMPORTED or is_device:
        return False
    option = _OPTION.fullmatch(text)  # name=value
    try:
        value = literal_eval((option["value"] if option else text).strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return True
    return isinstance(value, str) or any(":" in found for _, found in _strings(value))
