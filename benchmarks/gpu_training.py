"""The trainings of `gpu_report`: experiments that stop in time and go on where they stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from metarl.evaluation.curves import adaptation_curve
from metarl.lab import Experiment
from metarl.lab.command_line import parse_settings

Row = dict[str, Any]

TEST_SEED = 2_000_003


@dataclass(frozen=True)
class Training:
    """A training of the report.

    Attributes:
        experiment: Name of the experiment.
        arguments: Its arguments.
        iterations: Meta-iterations of the whole training.
        tasks: Test tasks of the adaptation curve.
        steps: Adaptation steps of the curve.
    """

    experiment: str
    arguments: tuple[str, ...]
    iterations: int
    tasks: int = 40
    steps: int = 3

    @property
    def name(self) -> str:
        """The experiment and its arguments, as on the command line."""
        return " ".join((self.experiment, *self.arguments))


def _robot(experiment: str, family: str, algorithm: str, iterations: int) -> Training:
    arguments = ("--algorithm", algorithm, "--family", family, "--horizon", "200")
    return Training(experiment, arguments, iterations)


SHORT = {
    "half cheetah direction": _robot("half_cheetah", "HalfCheetahDirectionRllab-v1", "promp", 100),
    "half cheetah velocity": _robot("half_cheetah", "HalfCheetahVelocityRllab-v1", "promp", 100),
    "ant direction": _robot("ant", "AntDirectionRllab-v1", "promp", 100),
    "navigation": Training("navigation2d", ("--algorithm", "maml"), 60),
    "sine": Training("sine", ("--algorithm", "maml"), 5000, 100),
    "glyphs": Training("omniglot", ("--algorithm", "maml", "--data-dir", "None"), 300),
}
"""The trainings of a report, by name."""

ROBOTS = tuple(
    (experiment, family)
    for experiment, family in (
        ("half_cheetah", "HalfCheetahDirectionRllab-v1"),
        ("ant", "AntDirectionRllab-v1"),
        ("half_cheetah", "HalfCheetahVelocityRllab-v1"),
        ("ant", "AntVelocityRllab-v1"),
        ("half_cheetah", "HalfCheetahDirection-v1"),
        ("ant", "AntDirection-v1"),
        ("humanoid", "HumanoidDirection-v1"),
        ("hopper", "HopperRandomParameters-v1"),
        ("walker2d", "Walker2dRandomParameters-v1"),
    )
)
"""The robots of `--train`, most valuable first."""


def long_trainings(seeds: int = 3) -> dict[str, Training]:
    """Returns the trainings of `--train` by name: all robots by both algorithms, seed by seed."""
    return {
        f"{family} {algorithm} seed {seed}": Training(
            experiment,
            ("--algorithm", algorithm, "--family", family, "--horizon", "200",
             "--training.seed", str(seed)),
            300,
        )
        for seed in range(seeds)
        for experiment, family in ROBOTS
        for algorithm in ("promp", "maml")
    }  # fmt: skip


def train(
    training: Training, folder: Path, device: str, until: float, small: bool = False
) -> Iterator[Row]:
    """Trains for a time, and yields the adaptation curve before and after.

    A training that has begun in the folder continues from its newest checkpoint.

    Args:
        training: What is trained.
        folder: Folder of its run.
        device: The device.
        until: When training ends, as `time.time()`; a curve comes on top.
        small: Whether it is the program's test: two iterations of little.
    """
    experiment: Experiment[Any] = import_module(
        f"metarl_experiments.{training.experiment}"
    ).EXPERIMENT
    settings, resume = parse_settings(
        experiment.configs, experiment.name, _arguments(training, folder, device, small)
    )
    components = experiment.build(settings)
    loop = experiment.open(settings, components, resume)
    tasks = 2 if small else training.tasks

    def curve() -> list[float]:
        values = adaptation_curve(
            loop.learner, loop.validation or loop.tasks,
            num_tasks=tasks, steps=1 if small else training.steps, transductive=True,
            chunk_size=tasks, generator=torch.Generator(loop.device).manual_seed(TEST_SEED),
        ).values  # fmt: skip
        return [float(f"{v:.4g}") for v in values.mean(1).tolist()]

    def row(stage: str, **values: Any) -> Row:
        steps = loop.learner.environment_steps
        return {
            "training": training.name, "stage": stage, "iterations": loop.iteration,
            "environment_steps": steps, "curve": curve(), **values,
        }  # fmt: skip

    yield row("resumed" if resume else "untrained")
    started = time.perf_counter()
    with _stopping(until):
        result = loop.run()  # a signal ends it after an iteration, and all is saved
    yield row(
        "finished" if result.finished else "stopped in time", minutes=round(result.seconds / 60, 2),
        seconds_now=round(time.perf_counter() - started, 1),
    )  # fmt: skip


@contextmanager
def _stopping(until: float) -> Iterator[None]:
    """Sends SIGTERM to this process at `until`, or after two seconds if that is over."""
    delay = max(2.0, until - time.time())
    alarm = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGTERM))
    alarm.daemon = True
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # while the loop does not handle it
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()
        signal.signal(signal.SIGTERM, previous)


def finished(training: Training, folder: Path) -> bool:
    """Returns whether the training in a folder has done all its iterations."""
    steps = sorted(folder.glob("*/*/*/checkpoints/step_*"))
    return bool(steps) and int(steps[-1].name.removeprefix("step_")) >= training.iterations


def _arguments(training: Training, folder: Path, device: str, small: bool) -> list[str]:
    runs = sorted(p.parent.parent for p in folder.glob("*/*/*/checkpoints/step_*"))
    iterations = str(2 if small else training.iterations)
    common = ["--training.device", device, "--training.iterations", iterations]
    if runs:
        return ["--resume", str(runs[-1]), *common]
    arguments = [*training.arguments, "--runs", str(folder), *common, "--training.eval-every", "0"]
    if "--horizon" in arguments and small:
        arguments[arguments.index("--horizon") + 1] = "5"
    if small:
        arguments += ["--training.meta-batch-size", "2"]
    return arguments
