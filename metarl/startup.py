"""Ctrl-C while the packages of the command `metarl` are imported: it ends without a traceback.

Imports nothing but the standard library: it comes before all other imports.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

INTERRUPTED = 130
"""Exit status after SIGINT, as shells count: 128 + 2."""


def end_at_interrupts() -> None:
    """Lets SIGINT end the process at once, if it runs the command `metarl` and accepts SIGINT.

    Nothing is written or started yet. `accept_interrupts` ends it.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and _is_command() and _handler() is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def accept_interrupts() -> None:
    """Lets SIGINT raise KeyboardInterrupt again, after `end_at_interrupts`."""
    if _handler() is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command() -> bool:
    """Returns whether this process is `metarl ...` or `python -m metarl ...`."""
    options = sys.orig_argv[1:]
    if sys.argv[:1] == ["-m"]:  # while Python looks for the module
        after = options[options.index("-m") + 1 :] if "-m" in options else []
        return after[:1] == ["metarl"]
    return Path(sys.argv[0] if sys.argv else "").stem in ("metarl", "metarl-script")


def _handler() -> object:
    return signal.getsignal(signal.SIGINT)


def _end(number: int, frame: FrameType | None) -> None:
    del number, frame
    os._exit(INTERRUPTED)
