"""Speed of memory-augmented learners: training iterations on glyphs.

    python -m benchmarks.memory
    python -m benchmarks.memory --streams 32 --episodes 8

Prints milliseconds per iteration, including sampling and Adam. For streams (5 classes, 50 steps
each), compares MANN, an LSTM and a network without memory and prints steps per second; for 5-way
1-shot learners, prints episodes per second. Speed-ups are relative to the LSTM or to MANN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import tyro
from metarl_experiments import mann, omniglot
from rich.console import Console

from benchmarks.timing import MetaIteration, Times, TurnSettings, print_race, race
from metarl.lab.few_shot import image_problem


@dataclass(frozen=True)
class MemoryBenchmark(TurnSettings):
    """Settings of the benchmark."""

    streams: int = 16
    """Streams per iteration."""
    episodes: int = 4
    """Episodes per iteration."""


def stream_iteration(algorithm: str, count: int) -> MetaIteration:
    """Returns a training iteration of `count` streams of glyphs."""
    settings = mann.CONFIGS[algorithm]
    tasks = settings.streams(replace(settings.tasks, data_dir=None).train())
    learner = settings.build_learner(tasks, torch.Generator().manual_seed(0))
    return MetaIteration(learner, tasks, replace(settings.training, meta_batch_size=count))


def episode_iteration(algorithm: str, count: int) -> MetaIteration:
    """Returns a training iteration of `count` episodes of glyphs with one query per class."""
    settings = omniglot.CONFIGS[algorithm]
    tasks = replace(settings.tasks, data_dir=None, queries=1).train()
    generator = torch.Generator().manual_seed(0)
    learner = settings.learner.build(image_problem(settings, generator, tasks.num_classes))
    return MetaIteration(learner, tasks, replace(settings.training, meta_batch_size=count))


def print_rates(times: Mapping[str, Times], count: int, what: str) -> None:
    """Prints the rate of each candidate in units of `what` per second, `count` per iteration."""
    for name, time_ in times.items():
        Console().print(f"{name}: {1e3 * count / time_.median:,.0f} {what} per second")


def main(settings: MemoryBenchmark) -> None:
    """Runs the benchmark and prints its results."""
    s = settings
    torch.set_num_threads(s.threads)
    readers = {n: stream_iteration(n, s.streams) for n in ("lstm", "mann", "feedforward")}
    times = race(readers, s.rounds, s.seconds)
    print_race(f"{s.streams} streams of 50 steps", times, ["lstm"])
    print_rates(times, 50 * s.streams, "steps")
    learners = {n: episode_iteration(n, s.episodes) for n in ("mann", "metanet")}
    times = race(learners, s.rounds, s.seconds)
    print_race(f"{s.episodes} episodes, 5-way, 1+1 images per class", times, ["mann"])
    print_rates(times, s.episodes, "episodes")


if __name__ == "__main__":
    main(tyro.cli(MemoryBenchmark, description=__doc__))
