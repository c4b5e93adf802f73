"""The experiments that installed packages offer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from metarl.registry import PluginRegistry

EXPERIMENT_GROUP = "metarl.experiments"
"""The entry points under which packages offer experiments."""

EXPERIMENTS: PluginRegistry[Any] = PluginRegistry("experiment", EXPERIMENT_GROUP)
"""Name -> `Experiment`; imported when it is looked up."""


def installed_file(name: str) -> Path | None:
    """Returns the file that defines an installed experiment, without importing it; or None."""
    source = EXPERIMENTS.source(name)
    if source is None:
        return None
    try:
        spec = importlib.util.find_spec(source.partition(":")[0])
    except (ImportError, ValueError):
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve()
