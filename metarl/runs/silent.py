"""What ranks other than the first have in place of a log and a console."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from metarl.console import OutputConsole


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


def silent_console() -> OutputConsole:
    """Returns a console that shows nothing."""
    return OutputConsole(file=open(os.devnull, "w"))
