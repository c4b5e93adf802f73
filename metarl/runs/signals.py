"""Handlers of signals that let training stop between two iterations."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Windows has the first two."""
USER_SIGNALS = ("SIGUSR1", "SIGUSR2")
"""Schedulers send them before a job ends (`sbatch --signal=USR1@60`); by default they kill."""


class StopSignals:
    """Sets a flag on the signals of `STOP_SIGNALS` inside a `with` block.

    A second SIGINT raises KeyboardInterrupt, to stop immediately. A process that ignores SIGHUP
    (`nohup`) still does, and handlers of SIGUSR1 and SIGUSR2 that a program has stay. The block
    restores the previous handlers at its end. Python allows signal handlers only in the main
    thread; in other threads the block has no effect.

    Attributes:
        requested: Whether a signal has arrived.
        signal_name: Name of the signal ("SIGTERM"), or an empty string.

    Example:
        >>> with StopSignals() as stop:
        ...     while not stop.requested:
        ...         train_one_iteration()
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal_name = ""
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        """Installs the handlers."""
        if threading.current_thread() is threading.main_thread():
            for name in STOP_SIGNALS:
                number = getattr(signal, name, None)
                if number is None or _has_own_use(number):
                    continue
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restores the previous handlers."""
        for number, handler in self._previous.items():
            # None: the handler was not installed from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def request(self, name: str) -> None:
        """Sets the flag as the signal of this name does."""
        self.requested = True
        self.signal_name = name

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.request(signal.Signals(number).name)


def exit_status(name: str) -> int:
    """Returns the exit status that shells expect after a signal: 128 and its number."""
    # Windows lacks the two; their numbers are the same everywhere else.
    known = {"SIGHUP": 1, "SIGPIPE": 13}
    return 128 + int(getattr(signal, name, known.get(name, 0)))


def _has_own_use(number: signal.Signals) -> bool:
    """Returns whether a signal keeps its meaning: under `nohup`, or by a handler of a program."""
    handler = signal.getsignal(number)
    if number.name == "SIGHUP":
        return handler is signal.SIG_IGN
    return number.name in USER_SIGNALS and handler is not signal.SIG_DFL
