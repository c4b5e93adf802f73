"""Finds runs and their checkpoints by what a user names: a path, `latest`, `RUN/best`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from metarl.errors import CheckpointError
from metarl.ranges import user_path
from metarl.runs.best import best_checkpoint
from metarl.runs.checkpoints import META, Checkpoints, is_checkpoint, saving_time
from metarl.runs.run_folder import CHECKPOINTS

LATEST = "latest"
BEST = "best"
AUTO = "auto"
"""Resumes the latest run, or begins one."""


class ResumePoint(NamedTuple):
    """A run folder and the checkpoint from which to resume it."""

    folder: Path
    checkpoint: Path


def find_run(
    root: Path | str, experiment: str, algorithm: str, resume: Path | str = LATEST
) -> ResumePoint:
    """Finds the run to resume and its checkpoint.

    Args:
        root: Usually "runs".
        experiment: See `create_run_folder`.
        algorithm: See `create_run_folder`.
        resume: "latest" for the run of the algorithm that wrote the newest checkpoint; or the
            path of a checkpoint, of a run folder (its newest checkpoint) or of a file in them; or
            "RUN/best", see `named_run`.

    Raises:
        CheckpointError: There is no such run, or it has no checkpoint; the message lists the
            existing runs.
    """
    parent = Path(root) / experiment / algorithm
    path = user_path(resume, "resume")
    rest = _after_latest(path)
    if rest is None:
        return _resume_from_path(path, parent)
    folder = _newest(_runs(parent))
    if folder is None:
        raise CheckpointError(f"No run in {parent} has a checkpoint to resume. {_listing(parent)}")
    return _resume_from_path(folder / rest, parent)


def find_run_or_none(
    root: Path | str, experiment: str, algorithm: str, resume: Path | str
) -> ResumePoint | None:
    """Finds the run to resume; "auto" is "latest", or None where no run has a checkpoint.

    Raises:
        CheckpointError: See `find_run`.
    """
    if str(resume) != AUTO:
        return find_run(root, experiment, algorithm, resume)
    if _newest(_runs(Path(root) / experiment / algorithm)) is None:
        return None
    return find_run(root, experiment, algorithm)


def newest_run(root: Path | str) -> Path:
    """Returns the run folder below `root`, of any experiment, that has the newest checkpoint.

    Raises:
        CheckpointError: No run has a checkpoint.
    """
    newest = _newest(run_folders(root))
    if newest is None:
        raise CheckpointError(
            f"No run in {root} has a checkpoint. Name another folder with --runs, or a run."
        )
    return newest


def run_path(run: Path | str, runs: Path | str) -> Path:
    """Returns the path that a user gave; one that begins with "latest" is in the newest run.

    Args:
        run: A path, "latest", or "latest/best".
        runs: Folder of the run folders, for "latest".

    Raises:
        CheckpointError: No run has a checkpoint.
        SettingsError: One of both is no path.
    """
    path = user_path(run, "run")
    rest = _after_latest(path)
    return path if rest is None else newest_run(user_path(runs, "runs")) / rest


def named_run(path: Path) -> Path:
    """Returns the run folder or the checkpoint that a path names, itself or by what is in it.

    Args:
        path: A run folder, a checkpoint, a file in them; or "RUN/best", the checkpoint of the best
            value on validation tasks.

    Raises:
        CheckpointError: The run has no such checkpoint.
    """
    if path.is_file():
        path = path.parent
    if path.name == BEST and not path.exists() and (path.parent / CHECKPOINTS).is_dir():
        return best_checkpoint(path.parent)
    return path.parent if path.name == CHECKPOINTS else path


def checkpoint_of(path: Path, parent: Path) -> Path:
    """Returns the checkpoint that a path names, as `find_run` does; a copy may have any name."""
    return path if (path / META).is_file() else _resume_from_path(path, parent).checkpoint


def _after_latest(path: Path) -> Path | None:
    """Returns what follows "latest" in a path; None for a path that does not begin with it."""
    first, *rest = path.parts or ("",)
    if first != LATEST or (rest and path.exists()):
        return None
    return Path(*rest)


def _resume_from_path(path: Path, parent: Path) -> ResumePoint:
    folder = named_run(path)
    if is_checkpoint(folder):
        return ResumePoint(folder.parent.parent, folder)
    if not folder.is_dir():
        raise CheckpointError(f"There is no run folder {folder}. {_listing(parent)}")
    checkpoint = Checkpoints(folder / CHECKPOINTS).latest()
    if checkpoint is None:
        raise CheckpointError(f"The run {folder} has no checkpoint. {_listing(parent)}")
    return ResumePoint(folder, checkpoint)


def run_folders(root: Path | str, depth: int = 3) -> Iterator[Path]:
    """Yields the run folders below `root`, by path.

    These are the folders at `depth`, `<experiment>/<algorithm>/<run>`, and folders above them, or
    `root` itself, that hold checkpoints, such as "runs/mine/1" of `OuterLoop`.
    """
    folder = Path(root)
    if depth == 0 or (folder / CHECKPOINTS).is_dir():
        yield folder
        return
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:  # missing, or not to be read
        return
    for path in inside:
        yield from run_folders(path, depth - 1)


def _newest(folders: Iterable[Path]) -> Path | None:
    """Returns the run folder that wrote the newest checkpoint; None if there is no checkpoint."""
    times = {folder: _last_saved(folder) for folder in folders}
    saved = [folder for folder, time in times.items() if time is not None]
    return max(saved, key=lambda folder: (times[folder], _order(folder)), default=None)


def _last_saved(folder: Path) -> datetime | None:
    """Returns when a run's newest checkpoint was written; None without one."""
    checkpoint = Checkpoints(folder / CHECKPOINTS).latest()
    if checkpoint is None:
        return None
    # A checkpoint that does not say it is damaged; its run still counts, and loading it will tell.
    return saving_time(checkpoint) or datetime.fromtimestamp(checkpoint.stat().st_mtime, UTC)


def _runs(parent: Path) -> list[Path]:
    """Returns the run folders of one algorithm, oldest first."""
    if not parent.is_dir():
        return []
    return sorted((p for p in parent.iterdir() if p.is_dir()), key=_order)


def _order(folder: Path) -> tuple[str, int, str]:
    """Orders run folders by the time in the name, then so that "<name>_2" follows "<name>"."""
    return folder.name[:15], len(folder.name), folder.name


def _listing(parent: Path) -> str:
    """Lists the newest runs for an error message."""
    rows = []
    for folder in _runs(parent)[-5:]:
        latest = Checkpoints(folder / CHECKPOINTS).latest()
        rows.append(f"{folder} ({latest.name if latest else 'no checkpoint'})")
    if not rows:
        return f"There are no runs in {parent}."
    return f"The newest runs in {parent}: {', '.join(rows)}."
