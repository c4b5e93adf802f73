"""Accuracy of all few-shot learners on new alphabets after the same training time.

    python -m benchmarks.few_shot --data-dir DATA                             # 5-way 1-shot
    python -m benchmarks.few_shot --data-dir DATA --shots 5
    python -m benchmarks.few_shot --data-dir DATA --way 20 --lake-runs ARCHIVE
    python -m benchmarks.few_shot --data-dir DATA --algorithms maml prototypical --minutes 10

Each learner has the defaults of `experiments/omniglot.py` and as many iterations as fit into
`--minutes` of CPU time, estimated from a few iterations beforehand. The number of iterations
therefore depends on the computer; the table states it. Prints the rows of a Markdown table as they
are finished.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro
from metarl_experiments.omniglot import CONFIGS, EXPERIMENT

from benchmarks.timing import MetaIteration
from metarl.adaptation.learner import SupervisedLearner
from metarl.devices import set_threads
from metarl.evaluation.statistics import Summary
from metarl.lab.few_shot import OmniglotSettings, image_problem
from metarl.lab.few_shot_reports import few_shot_results, lake_runs_for
from metarl.tasks.characters import CharacterSettings
from metarl.training import OuterLoop

LONG = ("one-shot",)  # trained for Lake's runs, much longer than the others
PROBE_SECONDS = 5.0
KINDS = ("transductive", "non-transductive")
HEADINGS = ("", "iterations", "minutes", "parameters", *KINDS, "Lake, transductive", "Lake, not")


@dataclass(frozen=True)
class FewShotBenchmark:
    """Settings of the benchmark."""

    minutes: float = 3.0
    """CPU time for training each learner, in minutes."""
    algorithms: tuple[str, ...] = tuple(name for name in CONFIGS if name not in LONG)
    """Names of the learners."""
    data_dir: Path | None = field(default_factory=lambda: CharacterSettings().data_dir)
    """Folder of Omniglot's archives; defaults to METARL_DATA. None: uses drawn glyphs."""
    way: int = 5
    """Classes per task."""
    shots: int = 1
    """Support images per class."""
    test_tasks: int = 1000
    """Number of test tasks."""
    lake_runs: Path | None = None
    """Archive of Lake's one-shot runs; requires way 20 and 1 shot."""
    seed: int = 0
    """Random seed."""
    runs: Path = Path("runs")
    """Parent folder of the run folders."""


def settings_of(algorithm: str, benchmark: FewShotBenchmark) -> OmniglotSettings:
    """Returns a learner's default settings for the benchmark's tasks, without evaluations."""
    b, defaults = benchmark, CONFIGS[algorithm]
    training = replace(defaults.training, seed=b.seed, threads=1, eval_every=0, device="cpu")
    tasks = replace(defaults.tasks, data_dir=b.data_dir, way=b.way, shots=b.shots)
    if tasks.train_way is not None:
        tasks = replace(tasks, train_way=max(b.way, tasks.train_way))
    if tasks.train_shots is not None:
        tasks = replace(tasks, train_shots=max(b.shots, tasks.train_shots))
    return replace(defaults, training=training, tasks=tasks, runs=b.runs)


def affordable(settings: OmniglotSettings, minutes: float) -> int:
    """Estimates the number of iterations that take `minutes` of CPU time."""
    if not settings.training.iterations:
        return 0
    tasks = settings.tasks.train()
    generator = torch.Generator().manual_seed(settings.training.seed)
    iteration = MetaIteration(
        settings.learner.build(image_problem(settings, generator, tasks.num_classes)),
        tasks,
        settings.training,
    )
    iteration()
    started, count = time.process_time(), 0
    while time.process_time() - started < PROBE_SECONDS:
        iteration()
        count += 1
    return max(1, round(60 * minutes * count / (time.process_time() - started)))


def train(settings: OmniglotSettings) -> tuple[OuterLoop, SupervisedLearner]:
    """Trains a learner in a new run folder; returns its loop and the learner."""
    components = EXPERIMENT.build(settings)
    assert isinstance(components.learner, SupervisedLearner)
    loop = EXPERIMENT.open(settings, components)
    loop.run()
    return loop, components.learner


def row(algorithm: str, benchmark: FewShotBenchmark) -> list[str]:
    """Trains and evaluates a learner.

    Returns:
        Name, iterations, CPU minutes, number of parameters, accuracy in % with and without shared
        batch-norm statistics, and errors in % on Lake's runs with and without them.
    """
    b = benchmark
    settings = settings_of(algorithm, b)
    iterations = affordable(settings, b.minutes)
    settings = replace(settings, training=replace(settings.training, iterations=iterations))
    test = settings.tasks.test(settings.tasks.train())
    runs = lake_runs_for(test, b.lake_runs, settings.tasks.invert)
    started = time.process_time()
    loop, learner = train(settings)
    minutes = (time.process_time() - started) / 60
    accuracies, errors = few_shot_results(
        loop,
        learner,
        test,
        num_tasks=b.test_tasks,
        steps=settings.test_steps,
        lake_runs=runs,
    )
    size = sum(p.numel() for p in learner.parameters())
    cells = [_percent(accuracies[k]) if k in accuracies else "" for k in KINDS]
    cells += [f"{errors[k]:.1f}" if k in errors else "" for k in KINDS]
    return [f"`{algorithm}`", str(iterations), f"{minutes:.1f}", f"{size:,}", *cells]


def _percent(s: Summary) -> str:
    return f"{100 * s.mean:.1f} [{100 * s.mean_low:.1f}, {100 * s.mean_high:.1f}]"


def main(benchmark: FewShotBenchmark) -> None:
    """Trains and evaluates the learners and prints a row for each."""
    set_threads(1)
    print(f"{benchmark.way}-way {benchmark.shots}-shot")
    print("| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS))
    for algorithm in benchmark.algorithms:
        print("| " + " | ".join(row(algorithm, benchmark)) + " |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(FewShotBenchmark, description=__doc__))
