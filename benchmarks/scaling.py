"""Growth of the cost of a meta-iteration with the number of tasks and adaptation steps.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --compile

Prints the milliseconds per meta-iteration of MAML on sine (second order, K = 10 + 10) for 8 to 256
tasks and for 1 to 10 steps, relative to linear growth from the smallest number. The growth is at
most linear. Takes seconds uncompiled, minutes compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

from benchmarks.timing import MetaIteration, TurnSettings, print_growth, race
from metarl.adaptation import MAML, GradientLearner
from metarl.models import MLP
from metarl.tasks import Sine
from metarl.training import TrainingSettings

TASKS = (8, 16, 32, 64, 128, 256)
STEPS = (1, 2, 3, 5, 10)


@dataclass(frozen=True)
class ScalingBenchmark(TurnSettings):
    """Settings of the benchmark."""

    compile: bool = False
    """Measures compiled meta-iterations."""
    tasks: int = 25
    """Number of tasks while the number of steps grows."""
    steps: int = 1
    """Number of adaptation steps while the number of tasks grows."""
    rounds: int = 15
    seconds: float = 0.1


def main() -> None:
    """Runs the benchmark and prints its results."""
    settings = tyro.cli(ScalingBenchmark)
    torch.set_num_threads(settings.threads)
    _print(settings, "tasks", {n: _iteration(settings, n, settings.steps) for n in TASKS})
    _print(settings, "steps", {n: _iteration(settings, settings.tasks, n) for n in STEPS})


def _iteration(settings: ScalingBenchmark, tasks: int, steps: int) -> Callable[[], None]:
    model = MLP((1, 40, 40, 1), torch.Generator().manual_seed(0), init="truncated")
    training = TrainingSettings(meta_batch_size=tasks, compile=settings.compile)
    return MetaIteration(GradientLearner(MAML(model, 0.01, steps)), Sine(10, 10), training)


def _print(
    settings: ScalingBenchmark, what: str, candidates: dict[int, Callable[[], None]]
) -> None:
    times = race({str(n): f for n, f in candidates.items()}, settings.rounds, settings.seconds)
    print_growth(f"MAML on sine, more {what}", what, times)


if __name__ == "__main__":
    main()
