"""Speed on the half cheetah: rollouts with a policy beside the physics alone and gymnasium.

    python -m benchmarks.half_cheetah                      # 64, 256 and 1024 worlds
    python -m benchmarks.half_cheetah --worlds 64 --rounds 3

Prints a table for each number of worlds. "MetaRL" is a policy (2 x 100) with observations and
rewards; "own models" gives each world masses of its own; "physics" is MuJoCo's batch with random
controls and nothing else, the same model, threads and number of steps; `SyncVectorEnv` is
gymnasium's, with random actions and no policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
import tyro
from metarl_envs.half_cheetah import HalfCheetahVelocity
from mujoco.batch import Batch
from torch import Tensor

from benchmarks.rollouts import rollouts
from benchmarks.timing import print_race, race
from metarl.sim import MujocoFamily, Tasks, make_vec
from metarl.sim.physics import quiet


@dataclass(frozen=True)
class HalfCheetahBenchmark:
    """What is measured."""

    worlds: tuple[int, ...] = (64, 256, 1024)
    """Numbers of worlds."""
    steps: int = 10
    """Environment steps of a turn's repetition."""
    threads: int = 2
    """CPU threads of the physics; torch has one."""
    rounds: int = 7
    """Turns of each form."""
    seconds: float = 0.5
    """Length of a turn."""


@dataclass(frozen=True)
class HeavyCheetah(HalfCheetahVelocity):
    """A cheetah whose mass is another in each world, by what its velocity is."""

    def model_fields(self, tasks: Tasks) -> dict[str, Tensor]:
        """See `MujocoFamily.model_fields`."""
        share = (0.5 + tasks["velocity"] / self.fastest).unsqueeze(1)
        mass = self.default("body_mass", share) * share
        return {
            "body_mass": mass,
            "body_inertia": self.default("body_inertia", share) * share.unsqueeze(2),
        }


def main(settings: HalfCheetahBenchmark) -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    for worlds in settings.worlds:
        candidates = {
            "SyncVectorEnv": _gymnasium(settings, worlds),
            "physics": _physics(settings, worlds),
            "MetaRL": _rollouts(settings, HalfCheetahVelocity(), worlds),
            "MetaRL, own models": _rollouts(settings, HeavyCheetah(), worlds),
        }
        times = race(candidates, settings.rounds, settings.seconds)
        print_race(
            f"{worlds} half cheetahs, {settings.steps} steps, {settings.threads} threads",
            times, ["SyncVectorEnv", "physics"],
        )  # fmt: skip
        rate = worlds * settings.steps / times["MetaRL"].median  # per millisecond
        print(f"MetaRL: {rate:.1f} thousand environment steps a second")


def _gymnasium(settings: HalfCheetahBenchmark, worlds: int) -> Callable[[], None]:
    with quiet():
        envs = gymnasium.make_vec("HalfCheetah-v5", worlds, vectorization_mode="sync")
    envs.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (settings.steps, worlds, 6))

    def run() -> None:
        for chosen in actions:
            envs.step(chosen)

    return run


def _physics(settings: HalfCheetahBenchmark, worlds: int) -> Callable[[], None]:
    family = HalfCheetahVelocity()
    batch = Batch(family.compiled, worlds, settings.threads)
    controls = np.random.default_rng(0).uniform(-1, 1, (settings.steps, worlds, 6))

    def run() -> None:
        for chosen in controls:
            batch.ctrl = chosen
            batch.step(nstep=family.frame_skip)

    return run


def _rollouts(
    settings: HalfCheetahBenchmark, family: MujocoFamily, worlds: int
) -> Callable[[], None]:
    env = make_vec(family, worlds, device="cpu", threads=settings.threads, autoreset="disabled")
    return rollouts(env, settings.steps)


if __name__ == "__main__":
    main(tyro.cli(HalfCheetahBenchmark))
