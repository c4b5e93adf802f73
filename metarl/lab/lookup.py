"""Experiments by name: those of installed packages, of a module or of a script."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from metarl.errors import SettingsError
from metarl.lab.experiment import Experiment
from metarl.lab.installed import EXPERIMENTS


def find_experiment(name: str) -> Experiment[Any]:
    """Returns an experiment that a command line names.

    Args:
        name: The name of an installed experiment, `module:EXPERIMENT`, or the path of a script,
            which is executed.

    Raises:
        UnknownNameError: There is no such experiment; the message suggests the nearest name.
        SettingsError: The script fails, or the name is not that of an experiment.
    """
    if name.endswith(".py"):
        return script_experiment(Path(name))
    experiment = EXPERIMENTS.get(name)
    if not isinstance(experiment, Experiment):
        raise SettingsError(
            f"Expected {name!r} to name an Experiment, got a {type(experiment).__name__}."
        )
    return experiment


def script_experiment(path: Path) -> Experiment[Any]:
    """Executes a script, as an import does, and returns its EXPERIMENT.

    Raises:
        SettingsError: There is no such script, it fails, or it has no EXPERIMENT.
    """
    if not path.is_file():
        raise SettingsError(f"Expected a Python script, there is no {path}.")
    name = f"metarl_script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"Expected a Python script, got {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    sys.path.insert(0, str(path.parent))  # as for a script that Python runs
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingsError(
            f"The script {path} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        raise SettingsError(
            f"The script {path} has no experiment: expected EXPERIMENT = Experiment(...), got "
            f"{experiment!r}."
        )
    return experiment
