"""Speed of Meta-World's reach, push and pick-place: families of tensors against its environments.

    python -m benchmarks.metaworld                     # 10 and 100 worlds, one core
    python -m benchmarks.metaworld --worlds 50 --tasks reach

Prints for each task, in environment steps per second of CPU time, on which other work on the
machine has less influence than on wall time:

- "MetaRL": an episode with random actions, rewards, observations and metrics, as in training.
- "physics": MuJoCo's batch alone, for the same model and number of MuJoCo steps.
- "Meta-World": one of its own environments, stepped in a loop, without its wrappers.

Needs Meta-World; see docs/families.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro
from metarl_envs import MetaWorldPickPlace, MetaWorldPush, MetaWorldReach
from metarl_envs.metaworld import benchmark_split
from metarl_envs.sawyer import Sawyer
from mujoco.batch import Batch

from metarl.sim import make_vec

FAMILIES = {"reach": MetaWorldReach, "push": MetaWorldPush, "pick-place": MetaWorldPickPlace}


@dataclass(frozen=True)
class MetaWorldBenchmark:
    """Settings of the benchmark."""

    worlds: tuple[int, ...] = (10, 100)
    """Numbers of worlds."""
    tasks: tuple[Literal["reach", "push", "pick-place"], ...] = ("reach", "push", "pick-place")
    """The families."""
    steps: int = 50
    """Environment steps per call and per episode."""
    rounds: int = 7
    """Turns of each candidate."""
    threads: int = 1
    """CPU threads of the physics; torch uses one."""


def main(settings: MetaWorldBenchmark) -> None:
    """Runs the benchmark and prints its results."""
    torch.set_num_threads(1)
    for task in settings.tasks:
        family = FAMILIES[task](horizon=settings.steps)
        candidates: dict[str, Callable[[], object]] = {"Meta-World": _original(settings, task)}
        steps = {"Meta-World": settings.steps}
        for worlds in settings.worlds:
            made = {"MetaRL": _tensors, "physics": _physics}
            for name, build in made.items():
                title = f"{name}, {worlds} worlds"
                candidates[title] = build(settings, family, worlds)
                steps[title] = worlds * settings.steps
        rates = _rates(candidates, steps, settings.rounds)
        for name, rate in rates.items():
            share = rate / rates["Meta-World"]
            print(f"{task}, {name}: {rate:,.0f} steps a second, {share:.1f} x Meta-World")


def _rates(
    candidates: Mapping[str, Callable[[], object]], steps: Mapping[str, int], rounds: int
) -> dict[str, float]:
    """Returns the median rate of each candidate, which take turns, in steps per CPU second."""
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            started = time.process_time()
            run()
            if turn:  # the first call fills caches
                rates[name].append(steps[name] / (time.process_time() - started))
    return {name: statistics.median(found) for name, found in rates.items()}


def _original(settings: MetaWorldBenchmark, task: str) -> Callable[[], None]:
    split = benchmark_split(f"{task}-v3", "train", 0)
    env: Any = split.classes[f"{task}-v3"]()
    env.set_task(split.tasks[0])
    env.reset()
    env.max_path_length = 10**9  # steps without resets
    actions = 2 * torch.rand(settings.steps, 4, generator=torch.Generator().manual_seed(0)) - 1

    def run() -> None:
        for action in actions.numpy():
            env.step(action)

    return run


def _tensors(settings: MetaWorldBenchmark, family: Sawyer, worlds: int) -> Callable[[], object]:
    env = make_vec(family, worlds, device="cpu", threads=settings.threads, autoreset="disabled")
    generator = torch.Generator().manual_seed(0)
    return lambda: env.episode(lambda _: 2 * torch.rand(worlds, 4, generator=generator) - 1)


def _physics(settings: MetaWorldBenchmark, family: Sawyer, worlds: int) -> Callable[[], None]:
    batch = Batch(family.compiled, worlds, settings.threads)
    tasks = family.sample(worlds, torch.Generator().manual_seed(0)).values
    start = family.reset(tasks, torch.empty(worlds, 0))
    views = {name: batch.bind(name) for name in start}

    def run() -> None:
        batch.reset(stage=0)
        for name, view in views.items():
            view[:] = start[name].numpy()
        for _ in range(settings.steps):
            batch.step(nstep=family.frame_skip)

    return run


if __name__ == "__main__":
    main(tyro.cli(MetaWorldBenchmark))
