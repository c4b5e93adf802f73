"""Ctrl-C and SIGTERM as a wish to stop, which training grants between two iterations."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Turns SIGINT and SIGTERM into a flag while its `with` block runs.

    A second SIGINT raises KeyboardInterrupt, for whoever cannot wait. The handlers that were
    there before come back at the end. Only the main thread can have handlers: elsewhere the block
    changes nothing.

    Attributes:
        requested: Whether a signal came.
        signal_name: Its name ("SIGTERM"), or an empty string.

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
        """Takes over the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives the handlers back."""
        for number, handler in self._previous.items():
            # None: the handler was not set from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        self.signal_name = signal.Signals(number).name
