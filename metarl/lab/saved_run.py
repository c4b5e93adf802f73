"""Runs that are looked at again: their script, settings and newest good checkpoint."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from metarl.errors import CheckpointError, SettingsError
from metarl.lab.command_line import saved_settings
from metarl.lab.experiment import Components, Experiment
from metarl.runs.checkpoints import Checkpoints, is_checkpoint, load_checkpoint
from metarl.runs.run_folder import CHECKPOINTS, SCRIPT_FILE, ResumePoint
from metarl.training.loop import OuterLoop


@contextmanager
def reopened(
    path: Path,
    *,
    script: Path | None = None,
    out: Path | None = None,
    **overrides: Any,
) -> Iterator[tuple[Components, OuterLoop, Path]]:
    """Opens a run as it was at a checkpoint; nothing is written into its folder.

    Args:
        path: A run folder, whose newest good checkpoint is taken, or a checkpoint.
        script: The experiment script; by default the one that script.json names.
        out: The folder for what a report writes; by default one that is deleted afterwards.
        **overrides: Settings of the experiment to change, those that are not None.

    Yields:
        The parts of the experiment, an outer loop at the checkpoint, and the checkpoint.

    Raises:
        CheckpointError: There is no such run, it has no good checkpoint or lacks a file.
        SettingsError: The script has no such experiment, or that one no such setting; or `out` lies
            in the run folder.
    """
    point = find_good(path)
    if out is not None and out.resolve().is_relative_to(point.folder.resolve()):
        raise SettingsError(f"Expected `out` outside of the run folder, which stays; got {out}.")
    experiment = load_experiment(point.folder, script)
    settings = changed(saved_settings(experiment.configs, point.folder), overrides)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) if out is None else out
        loop, parts = experiment.reopen(settings, point.checkpoint, folder)
        try:
            yield parts, loop, point.checkpoint
        finally:
            loop.logger.close()


def find_good(path: Path) -> ResumePoint:
    """Finds a run folder and its newest checkpoint that verifies.

    Args:
        path: A run folder or a checkpoint, which then has to verify itself.

    Raises:
        CheckpointError: There is none.
    """
    path = path.resolve()
    if is_checkpoint(path):
        load_checkpoint(path)
        return ResumePoint(path.parent.parent, path)
    if not path.is_dir():
        raise CheckpointError(f"Expected a run folder or a checkpoint, there is no {path}.")
    good = Checkpoints(path / CHECKPOINTS).newest_good()
    if good is None:
        raise CheckpointError(
            f"Expected a run folder, found no good checkpoint in {path / CHECKPOINTS}. "
            "Run folders are <runs>/<experiment>/<algorithm>/<time>_s<seed>."
        )
    return ResumePoint(path, good)


def load_experiment(folder: Path, script: Path | None = None) -> Experiment[Any]:
    """Loads the experiment of a run.

    Args:
        folder: The run folder.
        script: Where the script lies, if not where script.json says.

    Raises:
        CheckpointError: script.json or the script is missing.
        SettingsError: The script cannot be loaded, or holds no or another experiment.
    """
    noted = _noted(folder, script)
    where = Path(noted["script"])
    if not where.is_file():
        raise CheckpointError(
            f"The run {folder} was made by the script {where}, which is not there. "
            "Say where it is now: --script PATH."
        )
    experiment = script_experiment(where)
    if noted["experiment"] not in (None, experiment.name):
        raise SettingsError(
            f"The run {folder} is one of the experiment {noted['experiment']!r}, the script "
            f"{where} holds {experiment.name!r}. Choose another with --script PATH."
        )
    return experiment


def script_experiment(path: Path) -> Experiment[Any]:
    """Runs a script, as an import does, and returns its EXPERIMENT.

    Raises:
        SettingsError: It fails, or has no experiment of that name.
    """
    name = f"metarl_script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"Expected a Python script, got {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))  # as where a script runs
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


def changed(settings: Any, overrides: dict[str, Any]) -> Any:
    """Returns settings with the overrides that are not None; `a__b` is field b of field a.

    Raises:
        SettingsError: The settings have no such field.
    """
    for name, value in overrides.items():
        if value is None:
            continue
        head, _, rest = name.partition("__")
        if not hasattr(settings, head):
            fields = ", ".join(f.name for f in dataclasses.fields(settings))
            raise SettingsError(
                f"{type(settings).__name__} has no setting {head!r} to change; it has {fields}."
            )
        new = changed(getattr(settings, head), {rest: value}) if rest else value
        settings = dataclasses.replace(settings, **{head: new})
    return settings


def _noted(folder: Path, script: Path | None) -> dict[str, Any]:
    path = folder / SCRIPT_FILE
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        noted = {name: noted[name] for name in ("experiment", "script")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if script is None:
            raise CheckpointError(
                f"{path} does not tell which script made the run ({error!r}). "
                "Say where it is: --script PATH."
            ) from error
        noted = {"experiment": None}
    return noted if script is None else {**noted, "script": str(script)}
