"""What the files of a run say about it: its state and its best metric."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from metarl.errors import CheckpointError
from metarl.runs.best import VALIDATION, Best, best_value
from metarl.runs.checkpoints import Checkpoints, checkpoint_iteration
from metarl.runs.eval_file import read_curves
from metarl.runs.lock import is_locked
from metarl.runs.run_folder import CHECKPOINTS, read_note
from metarl.runs.run_search import run_folders
from metarl.tasks.files import read_json

State = Literal["training", "finished", "stopped", "empty", "damaged"]


@dataclass(frozen=True)
class RunState:
    """A run folder's state.

    Attributes:
        folder: The run folder.
        state: "training": a process writes into the folder; "finished": all iterations and the
            report are done; "stopped": it can be resumed, or it is one of `OuterLoop` alone, of
            which no file says when it is finished; "empty": it has no checkpoint, or nothing at
            all; "damaged": its files cannot be read.
        iteration: Meta-iterations in the newest checkpoint.
        iterations: Meta-iterations to train for; None if they are not known.
        best: The best validation metric, or without validation the first one of the reports.
        written: When a file directly in the folder or a checkpoint was written last.
        problem: What is damaged.
    """

    folder: Path
    state: State
    iteration: int
    iterations: int | None
    best: Best | None
    written: datetime
    problem: str = ""

    @property
    def minutes_since_written(self) -> float:
        """Minutes since the run has written a file."""
        return (time.time() - self.written.timestamp()) / 60


def run_states(root: Path | str) -> Iterator[RunState]:
    """Yields the states of the run folders below `root`, by path; see `run_folders`."""
    for folder in run_folders(root):
        try:
            state = run_state(folder)
        except FileNotFoundError:  # deleted in the meantime
            continue
        yield state


def run_state(folder: Path) -> RunState:
    """Returns the state of a run from its files; none of them is changed."""
    newest = Checkpoints(folder / CHECKPOINTS).latest()
    iteration = 0 if newest is None else checkpoint_iteration(newest) or 0
    written = _last_written(folder)
    iterations, best, problem = None, None, ""
    try:
        iterations = _iterations(folder)
        curves = read_curves(folder)
        best = best_value(curves)
    except (OSError, CheckpointError) as error:
        curves, problem = [], "" if newest is None and _is_bare(folder) else str(error)
    state: State = "stopped"
    if is_locked(folder):
        state = "training"
    elif problem:
        state = "damaged"
    elif newest is None:
        state = "empty"
    elif iterations is not None and iteration >= iterations and _is_reported(curves, iteration):
        state = "finished"
    return RunState(folder, state, iteration, iterations, best, written, problem)


def _is_reported(curves: list[dict[str, Any]], iteration: int) -> bool:
    reports = (line for line in curves if line.get("split") != VALIDATION)
    return any(line["iteration"] >= iteration for line in reports)


def _iterations(folder: Path) -> int | None:
    """Returns the iterations in config.json; None if it does not state them."""
    path = folder / "config.json"
    try:
        config = read_json(path)
    except FileNotFoundError:
        is_trained = any((folder / CHECKPOINTS).glob("*"))
        if read_note(folder) or not is_trained:  # an experiment has settings
            raise
        return None
    except ValueError as error:
        raise CheckpointError(f"Cannot read {path}: {error}.") from error
    training = config.get("training") if isinstance(config, dict) else None
    iterations = training.get("iterations") if isinstance(training, dict) else None
    return iterations if type(iterations) is int else None


def _is_bare(folder: Path) -> bool:
    """Returns whether a folder can be read and holds no file, as a crash at its begin leaves it."""
    try:
        return not any(path.is_file() for path in folder.iterdir())
    except OSError:
        return False


def _last_written(folder: Path) -> datetime:
    newest = folder.stat().st_mtime
    try:
        paths = [*folder.iterdir(), *folder.glob(f"{CHECKPOINTS}/*")]
    except PermissionError:  # config.json will tell
        paths = []
    for path in paths:
        try:
            newest = max(newest, path.lstat().st_mtime)
        except OSError:  # deleted in the meantime
            continue
    return datetime.fromtimestamp(newest, UTC)
