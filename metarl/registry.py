"""One small registry for everything that is found by name."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from metarl.errors import DuplicateNameError, MetarlError, SettingsError, UnknownNameError

T = TypeVar("T")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the nearest of `names`, or an empty string."""
    original = {n.lower(): n for n in names}
    near = difflib.get_close_matches(str(name).lower(), original, n=1, cutoff=0.5)
    return f" Did you mean {original[near[0]]!r}?" if near else ""


def check_choice(
    kind: str, value: str, choices: Iterable[str], error: type[MetarlError] = SettingsError
) -> None:
    """Checks that a value is one of some names.

    Args:
        kind: What it is, for the message ("algorithm").
        value: The value.
        choices: The names.
        error: What is raised for another one.

    Raises:
        MetarlError: It is none of them; the message suggests the nearest.
    """
    names = list(choices)
    if value not in names:
        raise error(
            f"Unknown {kind} {value!r}.{did_you_mean(value, names)} "
            f"Known: {', '.join(names) or 'none'}."
        )


class Registry(Generic[T]):
    """Maps names to values, refuses duplicates and suggests the nearest name.

    Args:
        kind: What the values are, for the error messages ("algorithm").
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._values: dict[str, T] = {}

    def register(self, name: str, value: T) -> T:
        """Adds `value` under `name` and returns it.

        Raises:
            DuplicateNameError: `name` is taken.
        """
        if name in self._values:
            raise DuplicateNameError(
                f"The {self._kind} {name!r} is registered already; choose another name."
            )
        self._values[name] = value
        return value

    def get(self, name: str) -> T:
        """Returns the value registered under `name`.

        Raises:
            UnknownNameError: No value has this name; the message suggests the nearest one.
        """
        check_choice(self._kind, name, self._values, UnknownNameError)
        return self._values[name]

    def names(self) -> list[str]:
        """Returns all names in the order in which they were registered."""
        return list(self._values)


class PluginRegistry(Registry[T]):
    """A registry that also finds what installed packages offer, and anything by `module:Name`.

    A package offers values as entry points; its pyproject.toml holds, for the group
    "metarl.task_distributions",

        [project.entry-points."metarl.task_distributions"]
        "MyFamily-v1" = "my_package.my_module:MyFamily"

    They are loaded on the first look-up. One that cannot be loaded, or whose name is taken, is
    reported as a RuntimeWarning and left out.

    Args:
        kind: What the values are, for the error messages.
        group: The entry-point group.
    """

    def __init__(self, kind: str, group: str) -> None:
        super().__init__(kind)
        self._group = group
        self._loaded = False

    def get(self, name: str) -> T:
        """Returns the value registered under `name`, or what `module:Name` says.

        Raises:
            UnknownNameError: No value has this name, or the module has none such.
        """
        if ":" in name:
            return self._imported(name)
        self._load()
        return super().get(name)

    def names(self) -> list[str]:
        """Returns all names: those registered here, then those of other packages."""
        self._load()
        return super().names()

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for point in sorted(entry_points(group=self._group), key=lambda p: p.name):
            try:
                self.register(point.name, point.load())
            except Exception as error:  # whatever it is, it must not stop the others
                warnings.warn(
                    f"The {self._kind} {point.name!r} ({point.value}) was left out: "
                    f"{type(error).__name__}: {error}",
                    RuntimeWarning,
                    stacklevel=3,
                )

    def _imported(self, name: str) -> T:
        module, _, attribute = name.partition(":")
        # Installed commands do not look where they are run, unlike `python -m`.
        if os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.append(os.getcwd())
        try:
            return getattr(importlib.import_module(module), attribute)
        except MetarlError:
            raise  # it was found, and says itself what is wrong
        except (ImportError, AttributeError, ValueError) as error:
            raise UnknownNameError(
                f"Cannot find the {self._kind} {name!r}: {error}. Expected module:Name, with a "
                "module that Python can import here, or one in this folder."
            ) from error
