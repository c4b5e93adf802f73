"""Speed of robots on a GPU: rollouts on MuJoCo Warp against MuJoCo's engine on the CPU.

    python -m benchmarks.locomotion_gpu                    # 1024 to 32768 worlds
    python -m benchmarks.locomotion_gpu --worlds 4096 --families HalfCheetahVelocity-v1

Prints environment steps per second with a policy (2 x 100), rewards, observations and resets; the
share of the time outside the physics; and the ratio to the rate of MuJoCo's engine with the same
policy on the CPU. Compilation and graph capture are excluded. Without a GPU, Warp runs on the CPU;
these rates say nothing about a GPU.
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
    """Settings of the benchmark."""

    families: tuple[str, ...] = ("HalfCheetahVelocity-v1", "AntVelocity-v1")
    """Names of the families."""
    worlds: tuple[int, ...] = (1024, 4096, 8192, 16384, 32768)
    """Numbers of worlds on Warp."""
    cpu_worlds: int = 1024
    """Number of worlds on MuJoCo's engine; its rate hardly depends on it."""
    threads: int = 0
    """CPU threads of MuJoCo's engine; 0 uses all CPUs."""
    steps: int = 50
    """Environment steps per call."""
    device: str = "auto"
    """Device of Warp and its policy."""


class PhysicsClock:
    """Measures the total time that the device spends on the physics steps of an environment.

    Args:
        physics: A `WarpPhysics`; its `step` is replaced by a timed one.
    """

    def __init__(self, physics: Any) -> None:
        self._step: Callable[[], None] = physics.step
        self._on_gpu = physics.device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0
        physics.step = self._timed

    def seconds(self) -> float:
        """Returns the total time so far in s; synchronises with the device."""
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
    """Runs the benchmark and prints its results."""
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
    """Returns a row: steps per second, share of the time outside the physics, ratio to the CPU."""
    env: Any = make_vec(name, worlds, device, engine="warp")
    own = make_vec(name, settings.cpu_worlds, "cpu", engine="mujoco", threads=settings.threads)
    run, clock, spent = rollouts(env, settings.steps), PhysicsClock(env.physics), [0.0, 0.0]

    def timed() -> None:
        before, started = clock.seconds(), time.perf_counter()
        run()
        spent[0] += time.perf_counter() - started
        spent[1] += clock.seconds() - before

    run()  # the set-up of the first steps is not measured
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
