"""One small registry for everything that is found by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Generic, TypeVar

from metarl.errors import DuplicateNameError, UnknownNameError

T = TypeVar("T")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the nearest of `names`, or an empty string."""
    original = {n.lower(): n for n in names}
    near = difflib.get_close_matches(str(name).lower(), original, n=1, cutoff=0.5)
    return f" Did you mean {original[near[0]]!r}?" if near else ""


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
        if name not in self._values:
            known = ", ".join(self.names()) or "none"
            raise UnknownNameError(
                f"Unknown {self._kind} {name!r}.{did_you_mean(name, self._values)} Known: {known}."
            )
        return self._values[name]

    def names(self) -> list[str]:
        """Returns all names in the order in which they were registered."""
        return list(self._values)
