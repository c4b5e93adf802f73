"""What ranks other than the first have in place of a log and a console."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metarl import ranks
from metarl.console import OutputConsole
from metarl.runs.logger import RunLogger


class SilentLogger:
    """Has what a training calls of a `RunLogger`, and writes nothing.

    Args:
        folder: The run folder, which the first rank writes.
        options: Further arguments of a `RunLogger`, not used.
    """

    def __init__(self, folder: Path | str, **options: Any) -> None:
        del options
        self.folder = Path(folder)

    def scalars(self, *arguments: Any, **options: Any) -> None:
        """Ignores scalars."""

    def curve(self, *arguments: Any, **options: Any) -> None:
        """Ignores an adaptation curve."""

    def settings(self, *arguments: Any, **options: Any) -> None:
        """Ignores settings."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def logger_of_rank(
    folder: Path | str, resume_from: int | None = None, loggers: Sequence[str] = ()
) -> RunLogger:
    """Returns the logger of a run on the first rank, and one that writes nothing on the others.

    Args:
        folder: See `RunLogger`.
        resume_from: See `RunLogger`.
        loggers: See `RunLogger`.
    """
    made: Any = RunLogger if ranks.is_first() else SilentLogger
    return made(folder, resume_from=resume_from, loggers=loggers)


def silent_console() -> OutputConsole:
    """Returns a console that shows nothing."""
    return OutputConsole(file=open(os.devnull, "w"))
