"""Run folders: the settings, versions and checkpoints of a run."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from metarl.errors import CheckpointError
from metarl.ranges import python_number
from metarl.runs.checkpoints import Checkpoints
from metarl.tasks.files import read_json, write_bytes

CHECKPOINTS = "checkpoints"
EVAL_FILE = "eval.jsonl"
EXPERIMENT_FILE = "experiment.json"
OLD_EXPERIMENT_FILE = "script.json"
"""Its name in runs of MetaRL 0.1."""
_PACKAGES = ("metarl", "torch", "numpy", "gymnasium", "mujoco", "tensorboard", "safetensors")
_GIT_SECONDS = 10.0


def create_run_folder(
    root: Path | str,
    experiment: str,
    algorithm: str,
    seed: int,
    config: Any,
    clock: Callable[[], datetime] = datetime.now,
    script: Path | None = None,
) -> Path:
    """Creates `<root>/<experiment>/<algorithm>/<YYYYmmdd_HHMMSS>_s<seed>/`.

    Writes config.json, experiment.json, command.txt, versions.json and, inside a git repository,
    git.json (commit, branch, untracked files) and git.diff (changes since the commit), each of them
    whole or not at all. If the folder exists, a number is appended to the name.

    Args:
        root: Usually "runs".
        experiment: First part of the path.
        algorithm: Second part of the path.
        seed: Seed of the run.
        config: Settings, as nested dataclasses or dicts.
        clock: Returns the time for the name.
        script: The script of an experiment that is not installed, for experiment.json.

    Returns:
        The new folder.

    Raises:
        CheckpointError: The folder cannot be created or written; what was written of it is removed.
    """
    folder = None
    name = f"{clock():%Y%m%d_%H%M%S}_s{seed}"
    parent = Path(root) / experiment / algorithm
    try:
        folder = _create_unique(parent, name)
        _write_json(folder / "config.json", to_json(config))
        command = f"cd {shlex.quote(os.getcwd())}\n{shlex.join(sys.orig_argv)}\n"
        origin = {} if script is None else {"script": str(script)}
        note = {"format_version": 1, "experiment": experiment, **origin}
        _write_json(folder / EXPERIMENT_FILE, note)
        write_bytes(folder / "command.txt", command.encode("utf-8", "surrogateescape"))
        _write_json(folder / "versions.json", _versions())
        _write_git(folder)
    except BaseException as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise CheckpointError(
            f"Cannot write a run folder in {parent}: {error}. Free some space, make the folder "
            "writable or choose another one."
        ) from error
    return folder


def write_config(folder: Path, config: Any) -> None:
    """Writes `config.json` from settings, a dataclass or a dict, if it has changed.

    Raises:
        CheckpointError: The file cannot be written; the old one remains.
    """
    try:
        _write_json(folder / "config.json", to_json(config))
    except OSError as error:
        raise CheckpointError(
            f"Cannot write the settings of the run {folder}: {error}. The old config.json remains; "
            "free some space or make the folder writable."
        ) from error


def check_no_run(folder: Path, resume: Path | None) -> None:
    """Checks that a folder holds no run, or only the one that is resumed.

    Args:
        folder: The folder of a new run, or of the run to resume.
        resume: The checkpoint to resume from; None for a new run.

    Raises:
        CheckpointError: The folder holds another run, whose checkpoints and results a second run
            would delete; or its checkpoints or its eval.jsonl are links to elsewhere.
    """
    _check_own(folder)
    newest = Checkpoints(folder / CHECKPOINTS).latest()
    if resume is not None and resume.resolve().parent == (folder / CHECKPOINTS).resolve():
        return
    if newest is None and (resume is not None or not (folder / EVAL_FILE).exists()):
        return
    advice = "Choose another folder, or delete this one."
    if newest is not None:
        advice = (
            f"Resume that run, with resume={str(folder)!r} or on the command line with --resume "
            f"{shlex.quote(str(folder))}; or choose another folder, or delete this one."
        )
    raise CheckpointError(
        f"Expected a folder without a run, {folder} holds one ({newest or EVAL_FILE}). {advice}"
    )


def _check_own(folder: Path) -> None:
    """Checks that no link leads what a run writes and deletes out of its folder.

    Raises:
        CheckpointError: The checkpoints or eval.jsonl are such a link, or a broken one.
    """
    root = folder.resolve()
    for path in (folder / CHECKPOINTS, folder / EVAL_FILE):
        if path.is_symlink() and not (path.exists() and path.resolve().is_relative_to(root)):
            raise CheckpointError(
                f"Expected {path} in its run folder, it is a link to {os.readlink(path)}. A run "
                "writes and deletes there: copy what it names to its place, or delete the link. To "
                "have runs on another disk, name a folder there with `runs`."
            )


FUNCTION = "function"
"""Key under which config.json holds the name of a function."""


def read_note(folder: Path) -> dict[str, Any]:
    """Returns the content of a run's experiment.json; empty if it cannot be read."""
    for name in (EXPERIMENT_FILE, OLD_EXPERIMENT_FILE):
        try:
            note = read_json(folder / name)
        except (OSError, ValueError):
            continue
        if isinstance(note, dict):
            return note
    return {}


def to_json(value: Any) -> Any:
    """Converts settings to JSON values: dataclasses to dicts, paths, dtypes etc. to strings.

    Numbers of NumPy become those of Python. Of a function, such as a loss, the name is stored:
    {"function": "module.name"}. It is never looked up; the experiment provides the function.
    """
    value = python_number(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if callable(value) and not isinstance(value, type):
        return {FUNCTION: _name_of_code(value)}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _name_of_code(value: Any) -> str:
    """Returns the name of a function, or of the class of another object that is called."""
    while isinstance(value, functools.partial):
        value = value.func
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _create_unique(parent: Path, name: str) -> Path:
    """Creates the folder `name`, or `name_2`, `name_3`, ... if it exists."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def _versions() -> dict[str, Any]:
    versions: dict[str, Any] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    versions["platform"] = platform.platform()
    versions["cpu_count"] = os.cpu_count()
    versions["torch_threads"] = torch.get_num_threads()
    versions["cuda"] = torch.version.cuda
    versions["devices"] = [
        torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
    ] or ["cpu"]
    return versions


def _write_git(folder: Path) -> None:
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return
    status = _git("status", "--porcelain") or ""
    lines = status.splitlines()
    untracked = [line[3:] for line in lines if line.startswith("??")]
    branch = (_git("rev-parse", "--abbrev-ref", "HEAD") or "").strip()
    record = {"commit": commit.strip(), "branch": branch, "dirty": bool(lines)}
    _write_json(folder / "git.json", {**record, "untracked": untracked})
    diff = _git("diff", "HEAD")
    if diff:
        write_bytes(folder / "git.diff", diff.encode())


def _git(*arguments: str) -> str | None:
    """Returns the output of git; None outside a repository, without git or after an error."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        result = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            check=True,
            timeout=_GIT_SECONDS,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.decode("utf-8", errors="replace")
