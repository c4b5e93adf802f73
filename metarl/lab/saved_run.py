"""Opens runs again, to evaluate, show or export what they trained."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

from metarl.errors import CheckpointError, SettingsError, short_repr
from metarl.lab.command_line import saved_settings
from metarl.lab.experiment import Components, Experiment
from metarl.lab.installed import EXPERIMENTS, installed_file
from metarl.lab.lookup import find_experiment
from metarl.lab.trust import check_trusted
from metarl.registry import did_you_mean
from metarl.runs.checkpoints import (
    Checkpoints,
    checkpoint_iteration,
    is_checkpoint,
    load_checkpoint,
)
from metarl.runs.run_folder import CHECKPOINTS, EXPERIMENT_FILE, read_note
from metarl.runs.run_search import ResumePoint, named_run, run_path
from metarl.training.loop import OuterLoop


@contextmanager
def reopened(
    path: Path | str,
    *,
    runs: Path = Path("runs"),
    script: str | None = None,
    out: Path | None = None,
    trust: bool = False,
    **overrides: Any,
) -> Iterator[tuple[Components, OuterLoop, Path]]:
    """Opens a run at a checkpoint; nothing is written into its folder.

    Args:
        path: A run folder, whose newest valid checkpoint is used; a checkpoint; "RUN/best", the
            checkpoint of the best value on validation tasks; or "latest" for the newest run below
            `runs`.
        runs: Folder of the run folders.
        script: See `load_experiment`.
        out: The folder for the files of a report; by default a temporary one.
        trust: Whether code that the run's settings name as `module:Name` may be imported.
        **overrides: Settings of the experiment to change, except those that are None; `a__b` is
            field b of field a.

    Yields:
        The components of the experiment, an outer loop at the checkpoint, and the checkpoint.

    Raises:
        CheckpointError: There is no such run, it has no valid checkpoint, or its experiment is not
            installed.
        UntrustedError: The run's settings name code, and `trust` is false.
        SettingsError: The experiment has no such setting; or `out` lies in the run folder.
    """
    point = find_good(run_path(path, runs))
    if out is not None and out.resolve().is_relative_to(point.folder.resolve()):
        raise SettingsError(f"Expected `out` outside of the run folder, which stays; got {out}.")
    experiment = load_experiment(point.folder, script)
    saved = saved_settings(experiment.configs, point.folder)
    if not trust:
        check_trusted(saved, point.folder)
    settings = changed(saved, overrides)
    if out is None and hasattr(settings, "film"):
        settings = changed(settings, {"film": 0})  # of the report, which nobody would see
    with _temporary_folder() as temporary:
        folder = Path(temporary) if out is None else out
        loop, components = experiment.reopen(settings, point.checkpoint, folder)
        try:
            yield components, loop, point.checkpoint
        finally:
            loop.logger.close()


@contextmanager
def _temporary_folder() -> Iterator[str]:
    """Makes a folder that is deleted at the end of the block.

    Raises:
        CheckpointError: No folder for temporary files can be written.
    """
    try:
        folder = TemporaryDirectory()
    except OSError as error:
        raise CheckpointError(
            f"Cannot make a temporary folder: {error}. Free some space, or set the environment "
            "variable TMPDIR to a folder that can be written."
        ) from error
    with folder as path:
        yield path


def find_good(path: Path) -> ResumePoint:
    """Finds a run folder and its newest valid checkpoint; warns if that is not the newest one.

    Args:
        path: A run folder, or a checkpoint, which must itself be valid; or a file in them; or
            "RUN/best", see `named_run`.

    Raises:
        CheckpointError: There is no valid checkpoint.
    """
    path = named_run(path.resolve())
    if is_checkpoint(path):
        load_checkpoint(path)
        return ResumePoint(path.parent.parent, path)
    if not path.is_dir():
        raise CheckpointError(
            f"Expected a run folder or a checkpoint, there is no {path}. `metarl runs` lists them."
        )
    checkpoints = Checkpoints(path / CHECKPOINTS)
    newest, good = checkpoints.latest(), checkpoints.newest_good()
    if good is None:
        if newest is not None:
            load_checkpoint(newest)  # says what is wrong with it
        raise CheckpointError(
            f"Expected a run folder, found no good checkpoint in {path / CHECKPOINTS}. "
            "Run folders are <runs>/<experiment>/<algorithm>/<time>_s<seed>."
        )
    iterations = [checkpoint_iteration(one) or 0 for one in (good, newest or good)]
    if iterations[0] < iterations[1]:  # a run that is training may have written one since
        warnings.warn(
            f"The newest checkpoint, {newest}, is damaged or not finite: {good.name}, from earlier "
            "in training, is used.",
            RuntimeWarning,
            stacklevel=3,
        )
    return ResumePoint(path, good)


def load_experiment(folder: Path, script: str | None = None) -> Experiment[Any]:
    """Returns the experiment of a run.

    The name in a run's experiment.json is looked up among the installed experiments. A script that
    it names is never executed.

    Args:
        folder: The run folder.
        script: The experiment, if it is not installed: the path of its script, which is executed,
            or `module:EXPERIMENT`.

    Raises:
        CheckpointError: experiment.json cannot be read, or the experiment is not installed.
        SettingsError: `script` cannot be loaded, or is another experiment.
    """
    if script is None:
        return _installed_experiment(folder)
    experiment = find_experiment(script)
    name = read_note(folder).get("experiment", experiment.name)
    if name != experiment.name:
        raise SettingsError(
            f"The run {folder} belongs to the experiment {short_repr(name)}, but {script} is "
            f"{experiment.name!r}. Choose another with --script."
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


def _installed_experiment(folder: Path) -> Experiment[Any]:
    note = read_note(folder)
    name, script = note.get("experiment"), note.get("script")
    if not isinstance(name, str):
        raise CheckpointError(
            f"The run {folder} has no readable {EXPERIMENT_FILE}. Name its experiment: "
            "--script PATH, or --script module:EXPERIMENT. A run of `OuterLoop` in Python has no "
            "experiment: evaluate its learner in Python, or use `metarl adapt` and `metarl.load`."
        )
    if not (script is None or _is_installed_script(name, script)):
        raise CheckpointError(
            f"The run {folder} belongs to the experiment {short_repr(name)} of the script "
            f"{short_repr(script, 300)}, which MetaRL does not execute by itself. If you trust the "
            "script: --script PATH."
        )
    if name not in EXPERIMENTS.names():
        raise CheckpointError(
            f"The run {folder} belongs to the experiment {short_repr(name)}, which is not "
            f"installed.{did_you_mean(name, EXPERIMENTS.names())} Install its package, or name it: "
            "--script PATH, or --script module:EXPERIMENT."
        )
    return find_experiment(name)


def _is_installed_script(name: str, script: object) -> bool:
    """Returns whether a script that a run of MetaRL 0.1 noted is the installed experiment's."""
    installed = installed_file(name)
    return installed is not None and PurePath(str(script)).name == installed.name
