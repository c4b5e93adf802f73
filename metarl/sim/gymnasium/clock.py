"""The steps of an environment that exists once: their number, their time and their rate."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TOLERANCE = 0.1  # of a period; a step that starts later than that is late
_FIRST_WARNING = 50  # steps


class Clock:
    """Keeps a rate of steps, and counts steps, resets and their wall time.

    A step that is late does not make the following ones earlier.

    Args:
        rate: Steps per second, above 0; None for as many as possible.
        now: Returns the time in seconds.
        sleep: Waits for some seconds.

    Attributes:
        steps: The number of steps.
        resets: The number of resets.
        late: The number of steps that started late.
        seconds: Wall time of the episodes: of resets, waiting, steps and the policy between them.
    """

    def __init__(
        self,
        rate: float | None = None,
        now: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._now, self._sleep = rate, now, sleep
        self._due = self._last = 0.0
        self._stepping = 0.0  # seconds from the first step to the end of the last, of all episodes
        self.steps = self.resets = self.late = 0
        self.seconds = 0.0

    @contextmanager
    def reset(self) -> Iterator[None]:
        """Times a reset; the first step may follow at once."""
        started = self._now()
        yield
        self._last = self._due = self._now()
        self.seconds += self._last - started
        self.resets += 1

    @contextmanager
    def step(self) -> Iterator[None]:
        """Waits until a step is due, and times it."""
        if self._rate is not None:
            self._wait(1 / self._rate)
        yield
        now = self._now()
        self.seconds += now - self._last
        self._stepping += now - self._last
        self._last = now
        self.steps += 1

    def measured(self) -> dict[str, float]:
        """Returns the TensorBoard scalars of this clock."""
        found = {"perf/environment_seconds": self.seconds}
        if self.steps:
            found["perf/environment_hz"] = self.steps / max(self._stepping, 1e-9)
        if self._rate is not None:
            found["perf/late_steps"] = float(self.late)
        return found

    def _wait(self, period: float) -> None:
        now = self._now()
        if now < self._due:
            self._sleep(self._due - now)
            now = max(self._now(), self._due)
        is_late = now > self._due + TOLERANCE * period
        self.late += is_late
        self._due = (now if is_late else self._due) + period
        if is_late and self.late == _FIRST_WARNING:
            warnings.warn(
                f"{self.late} of {self.steps + 1} steps started too late for a rate of "
                f"{self._rate:g} Hz: the environment or the policy takes longer than "
                f"{period:.3g} s. Lower `rate`.",
                RuntimeWarning,
                stacklevel=2,
            )
