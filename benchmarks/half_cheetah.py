"""Speed on the half cheetah: rollouts with a policy against the physics alone and gymnasium.

    python -m benchmarks.half_cheetah                      # 64, 256 and 1024 worlds
    python -m benchmarks.half_cheetah --worlds 64 --rounds 3
    python -m benchmarks.half_cheetah --worlds 64 --others # processes and EnvPool too
    python -m benchmarks.half_cheetah --worlds --iteration # the parts of a MAML-TRPO meta-iteration

Prints a table per number of worlds with these candidates:

- "MetaRL": an episode with a policy (2 x 100), resets, observations and rewards, as in training.
  "step by step" uses `step` and has no resets. With "own models", masses differ between worlds.
- "physics": MuJoCo's batch with random controls only, with the same model, number of threads and
  steps. "physics, own models" has different masses in each world.
- `SyncVectorEnv`: gymnasium's, with random actions and no policy.
- With `--others`, also without a policy: gymnasium's `AsyncVectorEnv` and Stable-Baselines3's
  `SubprocVecEnv`, each with a process per world, and EnvPool if it is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from metarl_envs.half_cheetah import HalfCheetahVelocity
from mujoco.batch import Batch
from stable_baselines3.common.vec_env import SubprocVecEnv
from torch import Tensor

from benchmarks.parts import print_parts
from benchmarks.rollouts import episodes, rollouts
from benchmarks.timing import MetaIteration, TurnSettings, print_race, race
from metarl.adaptation import MAML
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.sim import MujocoFamily, Tasks, TensorVectorEnv, make_vec
from metarl.sim.mujoco.physics import quiet
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings

ROBOT = "HalfCheetah-v5"
MOST_PROCESSES = 64
OWN = ", own models"


@dataclass(frozen=True)
class HalfCheetahBenchmark(TurnSettings):
    """Settings of the benchmark."""

    worlds: tuple[int, ...] = (64, 256, 1024)
    """Numbers of worlds."""
    steps: int = 50
    """Environment steps per call and per episode."""
    threads: int = 2
    """CPU threads of the physics; torch uses one."""
    rounds: int = 7
    seconds: float = 0.5
    others: bool = False
    """Also measures one process per world, for up to 64 worlds, and EnvPool if installed."""
    iteration: bool = False
    """Measures a meta-iteration: 40 tasks x 20 trajectories x 100 steps, with 1 inner step."""
    tasks: int = 40
    """Tasks per meta-iteration."""
    workers: int = 2
    """Chunks of tasks computed in parallel, each on one CPU thread."""


@dataclass(frozen=True)
class HeavyCheetah(HalfCheetahVelocity):
    """A half cheetah whose mass differs between worlds, as a function of the target velocity."""

    def model_fields(self, tasks: Tasks) -> dict[str, Tensor]:
        share = (0.5 + tasks["velocity"] / self.fastest).unsqueeze(1)
        mass = self.default("body_mass", share) * share
        return {
            "body_mass": mass,
            "body_inertia": self.default("body_inertia", share) * share.unsqueeze(2),
        }


def main(settings: HalfCheetahBenchmark) -> None:
    """Runs the benchmark and prints its results."""
    torch.set_num_threads(1)
    for worlds in settings.worlds:
        candidates = {
            "SyncVectorEnv": _gymnasium(settings, worlds),
            "physics": _physics(settings, HalfCheetahVelocity(), worlds),
            f"physics{OWN}": _physics(settings, HeavyCheetah(), worlds),
            "MetaRL": episodes(_vector(settings, HalfCheetahVelocity, worlds)),
            f"MetaRL{OWN}": episodes(_vector(settings, HeavyCheetah, worlds)),
            "MetaRL, step by step": rollouts(
                _vector(settings, HalfCheetahVelocity, worlds), settings.steps
            ),
        }
        with ExitStack() as stack:
            if settings.others and worlds <= MOST_PROCESSES:
                candidates |= _others(settings, worlds, stack)
            times = race(candidates, settings.rounds, settings.seconds)
        print_race(
            f"{worlds} half cheetahs, {settings.steps} steps, {settings.threads} threads",
            times, ["SyncVectorEnv", "physics"],
        )  # fmt: skip
        rate = worlds * settings.steps / times["MetaRL"].median  # per millisecond
        shared, own = (
            times[f"physics{which}"].median / times[f"MetaRL{which}"].median for which in ("", OWN)
        )
        extra = times[f"MetaRL{OWN}"].median / times["MetaRL"].median - 1
        print(
            f"MetaRL: {rate:.1f} thousand environment steps a second, {shared:.2f} of the physics;"
            f"\nown models: {own:.2f} of their physics, {extra:+.0%} time compared with one for all"
        )
    if settings.iteration:
        print_parts("HalfCheetahVelocity-v1", _meta_iteration(settings), settings.rounds)


def _gymnasium(settings: HalfCheetahBenchmark, worlds: int) -> Callable[[], None]:
    with quiet():
        envs = gymnasium.make_vec(ROBOT, worlds, vectorization_mode="sync")
    return _driven(settings, envs, worlds)


def _driven(settings: HalfCheetahBenchmark, envs: Any, worlds: int) -> Callable[[], None]:
    envs.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (settings.steps, worlds, 6))

    def run() -> None:
        for chosen in actions:
            envs.step(chosen)

    return run


def _others(
    settings: HalfCheetahBenchmark, worlds: int, stack: ExitStack
) -> dict[str, Callable[[], None]]:
    made: dict[str, Any] = {
        "AsyncVectorEnv": gymnasium.make_vec(ROBOT, worlds, vectorization_mode="async"),
        "SubprocVecEnv": SubprocVecEnv([partial(gymnasium.make, ROBOT)] * worlds),
    }
    if find_spec("envpool"):
        envpool: Any = import_module("envpool")
        threads = {"num_envs": worlds, "num_threads": settings.threads}
        made["EnvPool"] = envpool.make_gymnasium(ROBOT, **threads)
    for envs in made.values():
        stack.callback(envs.close)
    return {name: _driven(settings, envs, worlds) for name, envs in made.items()}


def _meta_iteration(settings: HalfCheetahBenchmark) -> MetaIteration:
    family = HalfCheetahVelocity(horizon=100)
    policy = policy_for(family, torch.Generator().manual_seed(0), init_std=0.5)
    training = TrainingSettings(
        meta_batch_size=settings.tasks, task_chunk_size=4, workers=settings.workers
    )
    learner = PolicyLearner(MAML(policy, 0.1), family, task_chunk_size=4)
    return MetaIteration(
        learner, family, training, TrustRegionSettings(fisher_trajectories=2, fisher_support=2)
    )


def _physics(
    settings: HalfCheetahBenchmark, family: MujocoFamily, worlds: int
) -> Callable[[], None]:
    batch = Batch(family.compiled, worlds, settings.threads)
    fields = family.model_fields(family.sample(worlds, torch.Generator()).values)
    for name, values in fields.items():
        batch.expand(name)[:] = values.numpy()
    if fields:
        batch.set_const()
    controls = np.random.default_rng(0).uniform(-1, 1, (settings.steps, worlds, 6))

    def run() -> None:
        batch.reset()
        for chosen in controls:
            batch.ctrl = chosen
            batch.step(nstep=family.frame_skip)

    return run


def _vector(
    settings: HalfCheetahBenchmark, family: type[HalfCheetahVelocity], worlds: int
) -> TensorVectorEnv:
    made = family(horizon=settings.steps)
    return make_vec(made, worlds, device="cpu", threads=settings.threads, autoreset="disabled")


if __name__ == "__main__":
    main(tyro.cli(HalfCheetahBenchmark))
