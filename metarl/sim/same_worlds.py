"""Whether the tasks of one family can be played in the worlds of another."""

from __future__ import annotations

import re
from typing import Any

from metarl.errors import SettingsError, short_repr
from metarl.sim.family import TaskFamily

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def check_same_worlds(own: Any, other: Any, what: str) -> None:
    """Checks that tasks come from a family whose worlds are those that a learner plays in.

    A batch of tasks holds numbers alone. Their ranges may differ.

    Args:
        own: The family of the learner; None and what else is no family fits everything.
        other: Where the tasks come from.
        what: What these tasks are, for the message.

    Raises:
        SettingsError: The worlds differ in more than the ranges of their tasks.
    """
    if not (isinstance(own, TaskFamily) and isinstance(other, TaskFamily)) or own is other:
        return
    expected, found = own.world_settings, other.world_settings
    for name in {**expected, **found}:
        plays, has = expected.get(name), found.get(name)
        if _text(plays) != _text(has):
            raise SettingsError(
                f"Expected {what} of the family that the learner plays in, {own.name}, whose "
                f"{name} is {short_repr(plays)}; that of {other.name} is {short_repr(has)}, and "
                "would be ignored. Build the learner with the family of these tasks, or take "
                "a split of the learner's family."
            )


def _text(value: Any) -> str:
    """Returns the text of a value, the same for two objects that are built alike."""
    return ADDRESS.sub("", repr(value))
