"""A registry for everything that is found by name."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from metarl.errors import (
    DuplicateNameError,
    MetarlError,
    SettingsError,
    UnknownNameError,
    short_repr,
)

T = TypeVar("T")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the nearest of `names`, or an empty string."""
    original = {n.lower(): n for n in names}
    near = difflib.get_close_matches(str(name)[:200].lower(), original, n=1, cutoff=0.5)
    return f" Did you mean {original[near[0]]!r}?" if near else ""


def check_choice(
    kind: str, value: str, choices: Iterable[str], error: type[MetarlError] = SettingsError
) -> None:
    """Checks that a value is one of some names.

    Args:
        kind: The kind of value, for the message ("algorithm").
        value: The value.
        choices: The names.
        error: The type of the error.

    Raises:
        MetarlError: It is none of them; the message suggests the nearest name.
    """
    names = list(choices)
    if not (isinstance(value, str) and value in names):
        raise error(
            f"Unknown {kind} {short_repr(value)}.{did_you_mean(value, names)} "
            f"Known: {', '.join(names) or 'none'}."
        )


class Registry(Generic[T]):
    """Maps names to values, refuses duplicates and suggests the nearest name.

    Args:
        kind: The kind of the values, for the error messages ("algorithm").
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
            UnknownNameError: No value has this name; the message suggests the nearest name.
        """
        check_choice(self._kind, name, self._values, UnknownNameError)
        return self._values[name]

    def names(self) -> list[str]:
        """Returns all names in the order in which they were registered."""
        return list(self._values)


class PluginRegistry(Registry[T]):
    """A registry that also finds the values of installed packages, and any value by `module:Name`.

    A package offers values as entry points; its pyproject.toml holds, for the group
    "metarl.task_distributions",

        [project.entry-points."metarl.task_distributions"]
        "MyFamily-v1" = "my_package.my_module:MyFamily"

    A value is imported when it is first looked up.

    Args:
        kind: The kind of the values, for the error messages.
        group: The entry-point group.
    """

    def __init__(self, kind: str, group: str) -> None:
        super().__init__(kind)
        self._group = group
        self._found: dict[str, EntryPoint] | None = None
        self._imported: dict[str, T] = {}

    def get(self, name: str) -> T:
        """Returns the value registered under `name`, or the value of `module:Name`.

        Raises:
            UnknownNameError: No value has this name, or it cannot be imported.
        """
        if ":" in name:
            return self._import(name)
        points = self._entry_points()
        if name not in points:
            check_choice(self._kind, name, self.names(), UnknownNameError)
            return self._values[name]
        if name not in self._imported:
            self._imported[name] = self._load(points[name])
        return self._imported[name]

    def names(self) -> list[str]:
        """Returns all names: those registered here, then those of other packages."""
        return [*super().names(), *self._entry_points()]

    def source(self, name: str) -> str | None:
        """Returns where an installed package keeps a value, `module:Name`, or None."""
        point = self._entry_points().get(name)
        return None if point is None else point.value

    def _entry_points(self) -> dict[str, EntryPoint]:
        """Returns the entry points by name; of several with one name, the first."""
        if self._found is None:
            found: dict[str, EntryPoint] = {}
            for point in sorted(entry_points(group=self._group), key=lambda p: (p.name, p.value)):
                if point.name in found or point.name in self._values:
                    warnings.warn(
                        f"The {self._kind} {point.name!r} ({point.value}) was left out: the name "
                        "is taken.",
                        RuntimeWarning,
                        stacklevel=4,
                    )
                else:
                    found[point.name] = point
            self._found = found  # all or none: a warning may be raised as an error
        return self._found

    def _load(self, point: EntryPoint) -> T:
        try:
            return point.load()
        except MetarlError:
            raise  # its message says what is wrong
        except Exception as error:  # code of other packages may raise anything
            raise UnknownNameError(
                f"The {self._kind} {point.name!r} ({point.value}) cannot be imported: "
                f"{type(error).__name__}: {error}. Repair or uninstall its package."
            ) from error

    def _import(self, name: str) -> T:
        module, _, attribute = name.partition(":")
        # Installed commands do not search the current folder, unlike `python -m`.
        if os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.append(os.getcwd())
        try:
            return getattr(importlib.import_module(module), attribute)
        except MetarlError:
            raise  # its message says what is wrong
        except Exception as error:  # a module of the user's may raise anything
            raise UnknownNameError(
                f"Cannot find the {self._kind} {name!r}: {error}. Expected module:Name, with a "
                "module that Python can import here, or one in this folder."
            ) from error
