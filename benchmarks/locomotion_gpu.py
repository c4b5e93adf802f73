"""Speed of robots on a GPU: closed loops on MuJoCo Warp, beside MuJoCo's own engine on the CPU.

    python -m benchmarks.locomotion_gpu                    # 1024 to 32768 worlds
    python -m benchmarks.locomotion_gpu --worlds 4096 --families HalfCheetahVelocity-v1

Prints environment steps per second, with a policy (2 x 100), rewards, observations and resets; the
share of that time in which the device does anything but physics; and how many times that is what
MuJoCo's engine does with the same policy, all on the CPU. Compilation and capture are left out.
Without a GPU, Warp's CPU device takes its place, from which nothing follows for a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.rollouts import rollouts
from benchmarks.timing import TurnSettings, race
from metarl.devices import resolve_device
from metarl.sim import make_vec

NO_GPU = "No CUDA device is here: these are Warp's rates on the CPU; nothing follows for a GPU."


@dataclass(frozen=True)
class GPUBenchmark(TurnSettings):
    """What is measured."""

    families: tuple[str, ...] = ("HalfCheetahVelocity-v1", "AntVelocity-v1")
    """Families, by name."""
    worlds: tuple[int, ...] = (1024, 4096, 8192, 16384, 32768)
    """Numbers of worlds on Warp."""
    cpu_worlds: int = 1024
    """Number of worlds on MuJoCo's engine, whose rate hardly depends on it."""
    threads: int = 0
    """Its CPU threads; 0 for as many as there are CPUs."""
    steps: int = 50
    """Environment steps of a turn's repetition."""
    device: str = "auto"
    """Where Warp and its policy are."""


class PhysicsClock:
    """Adds up how long the device is busy with the steps of an environment's physics.

    Args:
        physics: A `WarpPhysics`; its `step` is replaced by one that is timed.
    """

    def __init__(self, physics: Any) -> None:
        self._step: Callable[[], None] = physics.step
        self._on_gpu = physics.device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0
        physics.step = self._timed

    def seconds(self) -> float:
        """Returns the sum so far; waits for the device."""
        for start, end in self._events:
            end.synchronize()
            self._seconds += 1e-3 * start.elapsed_time(end)
        self._events.clear()
        return self._seconds

    def _timed(self) -> None:
        if self._on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            self._step()
            end.record()
            self._events.append((start, end))
        else:
            started = time.perf_counter()
            self._step()
            self._seconds += time.perf_counter() - started


def main(settings: GPUBenchmark) -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    device = resolve_device(settings.device)
    console = Console()
    if device.type != "cuda":
        console.print(NO_GPU, soft_wrap=True)
    for name in settings.families:
        table = Table(title=f"{name}, Warp on {_told(device)}", box=SIMPLE)
        for heading in ("worlds", "steps/s", "outside physics", "x MuJoCo on the CPU"):
            table.add_column(heading, justify="right")
        for worlds in settings.worlds:
            table.add_row(str(worlds), *_measured(settings, name, worlds, device))
        console.print(table)


def _measured(
    settings: GPUBenchmark, name: str, worlds: int, device: torch.device
) -> tuple[str, str, str]:
    """Returns the numbers of a row: steps per second, the share outside physics, the ratio."""
    env: Any = make_vec(name, worlds, device, engine="warp")
    own = make_vec(name, settings.cpu_worlds, "cpu", engine="mujoco", threads=settings.threads)
    run, clock, spent = rollouts(env, settings.steps), PhysicsClock(env.physics), [0.0, 0.0]

    def timed() -> None:
        before, started = clock.seconds(), time.perf_counter()
        run()
        spent[0] += time.perf_counter() - started
        spent[1] += clock.seconds() - before

    run()  # what the first steps set up is no part of the shares
    candidates = {"warp": timed, "mujoco": rollouts(own, settings.steps)}
    times = race(candidates, settings.rounds, settings.seconds)
    rates = [
        1e3 * settings.steps * count / times[engine].median
        for engine, count in (("warp", worlds), ("mujoco", settings.cpu_worlds))
    ]
    outside = 1 - spent[1] / spent[0]
    return f"{rates[0]:,.0f}", f"{outside:.0%}", f"{rates[0] / rates[1]:.2f}"


def _told(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


if __name__ == "__main__":
    main(tyro.cli(GPUBenchmark))
