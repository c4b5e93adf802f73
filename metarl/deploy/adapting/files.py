"""The files of `metarl adapt`: TensorBoard's events of the curve."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from metarl.deploy.adapting.control import Adapted
from metarl.errors import CheckpointError
from metarl.runs.event_files import event_files
from metarl.runs.tensorboard_writer import leave_errors_to_callers


def check_writable(folder: Path) -> None:
    """Checks that files can be written into a folder, which may not exist yet; makes none.

    Raises:
        CheckpointError: It cannot be made or written.
    """
    parents = (path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with TemporaryFile(dir=next(parents)):
            return
    except OSError as error:
        raise CheckpointError(f"Cannot write into the folder {folder}: {error}.") from error


def save_events(found: Adapted, folder: Path) -> None:
    """Writes the curve and the means before and after as TensorBoard's events.

    Those of an earlier adaptation in the folder are replaced, as the weights are.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    leave_errors_to_callers()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in event_files(folder):
            path.unlink()
        if not len(found.before):  # on a log nothing is measured
            return
        tag = f"adapt/{found.metric}"
        measured = enumerate((found.before, found.after))
        means = {step: float(np.mean(values)) for step, values in measured if len(values)}
        with SummaryWriter(str(folder)) as writer:
            for episode, value in enumerate(found.curve, 1):
                writer.add_scalar(tag, value, episode)
            for step, mean in means.items():
                writer.add_scalar(f"{tag}/mean", mean, step)
    except OSError as error:
        raise CheckpointError(f"Cannot write into the folder {folder}: {error}.") from error
