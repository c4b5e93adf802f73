"""Gymnasium ids of all installed families: `gymnasium.make("metarl/Navigation2D-v1")`.

Importing `metarl` registers them by name; the code of a family is loaded when its first environment
is made. `gymnasium.make("metarl:metarl/Bandit-v1")` imports `metarl` itself.
"""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points

import gymnasium

FAMILY_GROUP = "metarl.task_distributions"
"""The group of entry points in which packages list their families of tasks."""

NAMESPACE = "metarl"


def register_families() -> None:
    """Registers the families of all installed packages that are not registered yet.

    A family whose name gymnasium rejects is skipped with a RuntimeWarning.
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
