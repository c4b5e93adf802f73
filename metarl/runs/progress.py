"""Progress of training: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from metarl.console import OutputConsole

WIDE = 100
"""Columns of a terminal that shows the elapsed time too."""
_WHOLE = Column(no_wrap=True)


class Progress:
    """Shows the completed iterations, the remaining time and the latest metrics.

    Output that cannot be written (a closed terminal, a full disk) is left out from then on and does
    not stop the training.

    Attributes:
        reader_closed: Whether the output went to a pipe whose reader has closed it.

    Args:
        total: Number of iterations of the whole run.
        label: Name of the run, such as "sine/maml".
        done: Number of iterations that were completed before the run was resumed.
        unit: What is counted, in the rate: "it/s".
        console: The console for the output; standard error by default. A terminal shows a bar.
        bar_interval: Seconds between two updates of the bar.
        line_interval: Seconds between two plain lines.
        clock: Returns a monotonic time in seconds.

    Example:
        >>> with Progress(1000, "sine/maml") as progress:
        ...     for _ in range(1000):
        ...         progress.advance()
    """

    def __init__(
        self,
        total: int,
        label: str = "",
        done: int = 0,
        *,
        unit: str = "it",
        console: Console | None = None,
        bar_interval: float = 0.2,
        line_interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done, self.label, self.unit = total, done, label, unit
        self.console = OutputConsole(stderr=True) if console is None else console
        self.reader_closed = False
        self._clock = clock
        self._metrics = ""
        self._bar = _bar(self.console, clock, unit) if self.console.is_terminal else None
        self._interval = line_interval if self._bar is None else bar_interval
        self._due = self._last_time = 0.0
        self._last_done = self._last_shown = done

    def __enter__(self) -> Progress:
        """Starts the clock and the bar."""
        self._last_time = self._clock()
        self._due = self._last_time + self._interval
        if self._bar is not None:
            # The bar has no refresh thread, which would take time from training.
            self._task = self._bar.add_task(
                escape(self.label), total=self.total, completed=self.done, metrics=""
            )
            with self._output():
                self._bar.start()
                self._bar.refresh()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shows the final state and restores the terminal."""
        if self._bar is not None or self._last_shown != self.done:
            self._draw()
        if self._bar is not None:
            with self._output():
                self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """Counts iterations; updates the output if the interval has passed."""
        self.done += count
        if self._clock() >= self._due:
            self._draw()

    def metrics(self, values: Mapping[str, float]) -> None:
        """Sets the metrics that the next update shows."""
        self._metrics = "  ".join(f"{name} {value:.4g}" for name, value in values.items())

    def note(self, text: str) -> None:
        """Writes a line above the bar."""
        with self._output():
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def _output(self) -> Iterator[None]:
        """Leaves out all output after one that failed."""
        try:
            yield
        except OSError as error:
            self.console.quiet = True
            self.reader_closed |= isinstance(error, BrokenPipeError)

    def _draw(self) -> None:
        now = self._clock()
        self._due = now + self._interval
        if self._bar is not None:
            with self._output():
                self._bar.update(
                    self._task, completed=self.done, metrics=self._metrics, refresh=True
                )
            return
        elapsed, count = now - self._last_time, self.done - self._last_done
        rate = count / elapsed if elapsed > 0 else 0.0
        self._last_time, self._last_done, self._last_shown = now, self.done, self.done
        self.note("  ".join(part for part in self._line(rate) if part))

    def _line(self, rate: float) -> list[str]:
        share = 100 * self.done / max(self.total, 1)
        remaining = f"{_duration((self.total - self.done) / rate)} left" if rate > 0 else ""
        count = f"{self.done}/{self.total} ({share:.0f} %)"
        return [self.label, count, f"{_rate(rate)} {self.unit}/s", remaining, self._metrics]


class _Rate(ProgressColumn):
    """What is counted per second.

    Args:
        unit: Its name.
    """

    def __init__(self, unit: str) -> None:
        super().__init__(_WHOLE)
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(
            "" if speed is None else f"{_rate(speed)} {self._unit}/s", style="progress.data.speed"
        )


def _bar(console: Console, clock: Callable[[], float], unit: str) -> RichProgress:
    """Returns a bar of one line: on a narrow terminal it shrinks, and the elapsed time is left out.

    A line that wraps would jump between one and two lines.
    """
    elapsed = [TimeElapsedColumn(_WHOLE)] if console.width >= WIDE else []
    return RichProgress(
        TextColumn("{task.description}", "progress.description", markup=False, table_column=_WHOLE),
        BarColumn(bar_width=24),
        MofNCompleteColumn(table_column=_WHOLE),
        _Rate(unit),
        *elapsed,
        TextColumn("left", table_column=_WHOLE),
        TimeRemainingColumn(table_column=_WHOLE),
        TextColumn("{task.fields[metrics]}", markup=False, table_column=_WHOLE),
        console=console,
        auto_refresh=False,
        get_time=clock,
    )


def _rate(speed: float) -> str:
    """Returns a rate with four digits, those before the point at least: 0.3436, 257.1, 39240."""
    return f"{speed:.0f}" if speed >= 1000 else f"{speed:.4g}"


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
