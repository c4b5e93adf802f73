"""Speed on several processes that share the tasks of a meta-batch, and a model of larger numbers.

    python -m benchmarks.ranks                    # one and two processes of one thread each
    python -m benchmarks.ranks --counts 1 2 4

Prints the time of a meta-iteration of MAML-TRPO on 2D navigation and of MAML on images of 28 x 28
pixels, on each number of processes (gloo, one machine), and what they exchange. The model below the
table divides the measured computation by the number of processes and adds the time of the messages,
from `--latency` and `--bandwidth`: an estimate, not a measurement. Takes three minutes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from metarl_envs.navigation import Navigation2D
from rich.console import Console

from metarl import ranks
from metarl.adaptation import MAML, GradientLearner
from metarl.adaptation.learner import Learner
from metarl.evaluation.tables import report_table
from metarl.models import Conv4
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.tasks import Glyphs
from metarl.tasks.base import TaskSource
from metarl.training import OuterLoop, TrainingSettings
from metarl.training.outer_update import UpdateSettings
from metarl.training.trust_region import TrustRegionSettings

WORK = ("navigation", "images")
WARM_UPS, ITERATIONS = 2, 16
MODELLED = (8, 64)


@dataclass(frozen=True)
class RanksBenchmark:
    """Settings of the benchmark."""

    counts: tuple[int, ...] = (1, 2)
    """Numbers of processes."""
    latency: float = 20.0
    """Of a message between GPUs, in microseconds; of the model."""
    bandwidth: float = 25.0
    """Of the slowest link between GPUs, in GB/s; of the model."""
    work: str = ""
    """Set by the program for the processes that it starts."""


@dataclass(frozen=True)
class Work:
    """A training of the benchmark.

    Attributes:
        learner: What is trained.
        tasks: What it is trained on.
        settings: Settings of the outer loop.
        update: The outer update; None for an optimiser.
        exchanges: Messages of the length of the parameters in an iteration.
    """

    learner: Learner
    tasks: TaskSource
    settings: TrainingSettings
    update: UpdateSettings | None
    exchanges: int


def work(name: str) -> Work:
    """Returns the training of this name."""
    generator = torch.Generator().manual_seed(0)
    common = {
        "iterations": WARM_UPS, "eval_every": 0, "threads": 1, "log_every": 1000,
        "checkpoint_every": 1000, "device": "cpu",
    }  # fmt: skip
    if name == "images":
        maml = MAML(Conv4(5, generator, filters=32), 0.4)
        settings = TrainingSettings(meta_batch_size=16, **common)
        return Work(GradientLearner(maml), Glyphs(5, 1, 5), settings, None, 1)
    family = Navigation2D()
    policy = policy_for(family, generator)
    learner = PolicyLearner(
        MAML(policy, 0.1), family, PolicyGradientSettings(trajectories=20), task_chunk_size=4
    )
    update = TrustRegionSettings(fisher_trajectories=2, fisher_support=2)
    settings = TrainingSettings(meta_batch_size=20, task_chunk_size=4, **common)
    return Work(learner, family, settings, update, 1 + update.cg_iterations)


def measure(name: str) -> dict[str, float]:
    """Trains on this process and those it was started with; returns milliseconds and bytes."""
    ranks.start()
    own = work(name)
    with tempfile.TemporaryDirectory() as folder:
        loop = OuterLoop(
            own.learner, own.tasks, own.settings, Path(folder) / "run", update=own.update
        )
        warm = loop.run().seconds
        loop.settings = replace(own.settings, iterations=WARM_UPS + ITERATIONS)
        seconds = loop.run().seconds - warm
    parameters = sum(p.numel() for p in own.learner.parameters())
    ranks.leave()
    return {"ms": 1e3 * seconds / ITERATIONS, "bytes": 4.0 * parameters}


def start(name: str, count: int) -> dict[str, float]:
    """Runs `measure` on a number of processes; returns the result of the first one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ranks", "--work", name], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1",
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for rank in range(count)
    ]  # fmt: skip
    outputs = [process.communicate() for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("\n".join(error for _, error in outputs))
    return json.loads(outputs[0][0].splitlines()[-1])


def modelled(
    compute: float, size: float, exchanges: int, count: int, settings: RanksBenchmark
) -> float:
    """Returns the modelled milliseconds of an iteration on `count` GPUs.

    A ring all-reduce of s bytes on n processes sends 2 (n - 1) / n s bytes in 2 (n - 1) messages.
    """
    sent = 2 * (count - 1) / count * size / (1e6 * settings.bandwidth)  # ms
    messages = 2 * (count - 1) * settings.latency / 1e3
    return compute / count + exchanges * (sent + messages)


def main(settings: RanksBenchmark) -> None:
    """Runs the benchmark and prints its results."""
    if settings.work:
        print(json.dumps(measure(settings.work)))
        return
    table = report_table("Meta-iterations on several processes, ms", "")
    for column in ("work", "parameters", *(f"{n} processes" for n in settings.counts), "speed-up"):
        table.add_column(column, justify="right")
    lines = []
    for name in WORK:
        results = [start(name, count) for count in settings.counts]
        first, last, size = results[0]["ms"], results[-1]["ms"], results[0]["bytes"]
        cells = [f"{result['ms']:.0f}" for result in results]
        table.add_row(name, f"{size / 4:,.0f}", *cells, f"{first / last:.2f}")
        exchanges = work(name).exchanges
        times = ", ".join(
            f"{modelled(first, size, exchanges, n, settings):.1f} ms on {n}" for n in MODELLED
        )
        lines.append(f"{name}: {exchanges} messages of {size / 1e3:.0f} kB; model: {times}")
    console = Console()
    console.print(table)
    console.print("\n".join(lines), highlight=False)


if __name__ == "__main__":
    main(tyro.cli(RanksBenchmark, description=__doc__))
