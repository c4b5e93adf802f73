"""Every installed family as a gymnasium environment: `gymnasium.make("metarl/Navigation2D-v1")`.

Importing `metarl` registers them, by name alone: nothing of a family is loaded before one is made.
Where nothing imports it, gymnasium does so itself: `gymnasium.make("metarl:metarl/Bandit-v1")`.
"""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points

import gymnasium

FAMILY_GROUP = "metarl.task_distributions"
"""The entry points under which packages offer families of tasks."""

NAMESPACE = "metarl"


def register_families() -> None:
    """Registers the families of all installed packages that are not registered yet.

    One whose name gymnasium does not take is reported as a RuntimeWarning and left out.
    """
    for name in sorted({point.name for point in entry_points(group=FAMILY_GROUP)}):
        if f"{NAMESPACE}/{name}" in gymnasium.registry:
            continue
        try:
            gymnasium.register(
                f"{NAMESPACE}/{name}",
                entry_point="metarl.sim.single_env:SingleEnv",
                vector_entry_point="metarl.sim.single_env:make_worlds",
                kwargs={"family": name},
            )
        except gymnasium.error.Error as error:
            warnings.warn(
                f"The task family {name!r} has no gymnasium environment: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
