"""Interleaved timing, peak memory in a separate process, and tables of the results."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from metarl.adaptation.learner import Learner
from metarl.errors import NonFiniteError
from metarl.sim.family import TaskFamily
from metarl.tasks.base import TaskDistribution
from metarl.training.captured_tasks import CapturedTasks
from metarl.training.late_results import LateResults
from metarl.training.meta_step import GradientUpdateSettings
from metarl.training.outer_update import UpdateSettings
from metarl.training.settings import TrainingSettings


@dataclass(frozen=True)
class TurnSettings:
    """Base settings of benchmarks that time their candidates in turns."""

    rounds: int = 5
    """Turns per candidate."""
    seconds: float = 1.0
    """Duration of a turn in seconds; a turn has at least one call."""
    threads: int = 1
    """CPU threads of torch."""


class MetaIteration:
    """A meta-iteration of MetaRL, as the outer loop runs it.

    Args:
        learner: The learner to train.
        tasks: Distribution of the tasks.
        settings: Settings of the outer loop, including the meta-batch size.
        update: Settings of the outer update; None uses the optimiser of `settings`.
        late: Whether finiteness is read late, where the update allows it.
    """

    def __init__(
        self,
        learner: Learner,
        tasks: TaskDistribution | TaskFamily,
        settings: TrainingSettings,
        update: UpdateSettings | None = None,
        *,
        late: bool = True,
    ) -> None:
        self.learner = learner
        self.tasks = tasks
        self.settings = settings
        self.step = (update or GradientUpdateSettings()).build(learner, settings)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.iteration = 0
        self.draw, self._results = CapturedTasks(), LateResults()
        if late:
            self.step.read_late()

    def __call__(self) -> None:
        """Runs the meta-iteration.

        Raises:
            NonFiniteError: A loss or a gradient was not finite.
        """
        before = self.generator.get_state()
        tasks = self.draw(self.tasks, self.settings.meta_batch_size, self.generator)
        inputs = self.learner.collect(tasks, self.generator, self.iteration)
        result = self.step(inputs, self.iteration)
        self._results.add(self.iteration, before, result)
        bad = self._results.first_bad(wait=False)
        if bad is not None:
            raise NonFiniteError(f"Iteration {bad.iteration} was not finite.")
        self.learner.after_update(result.carry)
        self.iteration += 1


class Times:
    """Measured times of one candidate.

    Attributes:
        start: Duration of the first call in s, including compilation, if any.
        rounds: Milliseconds per call in each round.
    """

    def __init__(self, start: float) -> None:
        self.start = start
        self.rounds: list[float] = []

    @property
    def median(self) -> float:
        """Median over the rounds in ms."""
        return statistics.median(self.rounds)


def race(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Times candidates in turn, round by round, so that a busy machine slows all of them equally.

    Args:
        candidates: Name -> function to time.
        rounds: Number of turns of each candidate.
        seconds: Duration of a turn in s; a turn has at least one call.
        clock: `time.process_time` counts the time that the process computes, on a busy machine.

    Returns:
        Name -> measured times.
    """
    times: dict[str, Times] = {}
    calls: dict[str, int] = {}
    for name, run in candidates.items():
        times[name] = Times(_time(run, 1, clock))
        _time(run, 2, clock)
        calls[name] = max(1, round(seconds / _time(run, 1, clock)))
    for _ in range(rounds):
        for name, run in candidates.items():
            times[name].rounds.append(1e3 * _time(run, calls[name], clock) / calls[name])
    return times


def _time(
    run: Callable[[], object], calls: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    started = clock()
    for _ in range(calls):
        run()
    return clock() - started


def print_race(
    title: str,
    times: Mapping[str, Times],
    baselines: list[str],
    extra: dict[str, str] | None = None,
) -> None:
    """Prints the median, the quartiles and the speed-up over each baseline of each candidate.

    Args:
        title: Title of the table.
        times: Name -> measured times.
        baselines: Names of the baselines among the candidates.
        extra: Name -> peak memory in MB, for another column.
    """
    extra = extra or {}
    table = Table(title=title, box=SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("median, ms", "quartiles, ms", "first call, s", *(f"x {b}" for b in baselines)):
        table.add_column(heading, justify="right")
    if extra:
        table.add_column("memory, MB", justify="right")
    for name, time_ in times.items():
        low, _, high = statistics.quantiles(time_.rounds, n=4)
        # Ratios within each round, because a busy machine slows both candidates of a round.
        ratios = [
            statistics.median(b / t for b, t in zip(times[base].rounds, time_.rounds, strict=True))
            for base in baselines
        ]
        row = [_short(time_.median), f"{_short(low)}-{_short(high)}", f"{time_.start:.1f}"]
        row += [f"{ratio:.1f}" for ratio in ratios]
        table.add_row(name, *row, *([extra.get(name, "")] if extra else []))
    Console().print(table)


def print_growth(title: str, what: str, times: Mapping[str, Times]) -> None:
    """Prints medians relative to linear growth from the first size.

    Args:
        title: Title of the table.
        what: Meaning of the sizes.
        times: Size -> measured times.
    """
    table = Table(what, "median, ms", "of linear growth", title=title)
    first, *_ = times
    for size, time_ in times.items():
        share = time_.median / times[first].median / (int(size) / int(first))
        table.add_row(size, f"{time_.median:.3g}", f"{share:.2f}")
    Console().print(table)


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def peak_memory(build: Callable[..., Callable[[], object]], *args: Any) -> float:
    """Measures the peak resident memory, in MB above the start, of three calls of a candidate.

    Runs in a new process, because the high-water mark of memory is one per process.

    Args:
        build: A module-level function that builds the candidate.
        *args: Arguments of `build`.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (build, torch.get_num_threads(), *args))


def _measure(build: Callable[..., Callable[[], object]], threads: int, *args: Any) -> float:
    torch.set_num_threads(threads)
    run = build(*args)
    unit = 1 if sys.platform == "darwin" else 1024
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * unit / 1e6


def best_gflops(size: int = 2048, calls: int = 8) -> float:
    """Measures the highest GFLOP/s of a square float32 matrix product on this machine."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return 2e-9 * size**3 / min(_time(lambda: a @ b, 1, time.perf_counter) for _ in range(calls))
