"""Names of families of gymnasium environments, and their spaces in words."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces


def default_name(title: str, note: str) -> str:
    """Returns the title with the note before its version: "Pendulum(g,m)-v1"."""
    stem, _, version = title.rpartition("-v")
    if not stem or not version.isdigit():
        stem, version = title, "1"
    return f"{stem}({note})-v{version}"


def describe_space(space: spaces.Space[Any]) -> str:
    """Returns a space in words, for cards."""
    if isinstance(space, spaces.Box) and space.shape:
        low, high = float(space.low.min()), float(space.high.max())
        number = "number" if space.shape == (1,) else "numbers"
        return f"{' x '.join(map(str, space.shape))} {number} in [{low:g}, {high:g}]"
    return str(space)
