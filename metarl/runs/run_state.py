"""What the files of a run say about it: its state and its best metric."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from metarl.errors import CheckpointError
from metarl.runs.checkpoints import Checkpoints, checkpoint_iteration
from metarl.runs.eval_file import read_curves
from metarl.runs.lock import is_locked
from metarl.runs.run_folder import CHECKPOINTS, read_note, run_folders
from metarl.tasks.files import read_json

VALIDATION = "validation"
LOWER_IS_BETTER = ("mse", "rmse", "mae", "nll", "loss")
HIGHER_IS_BETTER = ("return", "accuracy", "generalised_accuracy", "binary_accuracy", "f1", "r2")
"""Of a metric of the user's own, no name says which values are better."""

State = Literal["training", "finished", "stopped", "empty", "damaged"]


@dataclass(frozen=True)
class Best:
    """The best value of a metric after the last adaptation step.

    Attributes:
        metric: Name of the metric.
        split: The curve: "validation", or that of a report ("test", "test_5_shot").
        value: The mean over the tasks.
        iteration: Meta-iterations done when it was measured.
        is_newest: Whether it is the newest value, as it is not known which values are better.
    """

    metric: str
    split: str
    value: float
    iteration: int
    is_newest: bool = False


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


def best_value(curves: list[dict[str, Any]]) -> Best | None:
    """Returns the best value, after the last adaptation step, of a run's curves; None without one.

    Args:
        curves: The lines of eval.jsonl. Those of the validation tasks are compared; without any,
            those of the first curve.
    """
    splits = [line.get("split") for line in curves]
    compared = VALIDATION if VALIDATION in splits else next(iter(splits), None)
    lines = [line for line in curves if line.get("split") == compared]
    values = [best for best in map(_value, lines) if best is not None]
    if not values:
        return None
    metric = values[0].metric
    values = [best for best in values if best.metric == metric]  # not further metrics
    if metric not in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
        return replace(values[-1], is_newest=True)
    sign = 1 if metric in LOWER_IS_BETTER else -1
    return min(values, key=lambda best: sign * best.value)


def _value(line: Mapping[str, Any]) -> Best | None:
    mean = (line.get("mean") or [None])[-1]
    if mean is None or not math.isfinite(mean):
        return None
    return Best(line.get("metric", ""), line.get("split", ""), mean, line["iteration"])


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
