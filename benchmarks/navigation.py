"""Speed on 2D navigation: rollouts and MAML-TRPO meta-iterations against a per-task loop.

    python -m benchmarks.navigation                        # rollouts, meta-iterations, their parts
    python -m benchmarks.navigation --growth --memory      # more tasks and steps, peak memory
    python -m benchmarks.navigation --compile              # also the compiled meta-iteration
    python -m benchmarks.navigation --tasks 4 --rounds 3   # a quick run

Prints a table for each of:

- the rollouts of 20 tasks x 20 trajectories x 100 steps with a policy (2 x 100) per task, against
  gymnasium's `SyncVectorEnv` over plain Python environments and against the policy's matrix
  products alone;
- a meta-iteration of that size against the loop, with the Fisher matrix of all rollouts and of a
  few ("thinned");
- the share of the parts of a meta-iteration.

Takes about six minutes, and as long again for growth and memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from metarl_envs.navigation import Navigation2D
from rich.console import Console
from rich.table import Table

from benchmarks.navigation_loop import LoopPolicy, NavigationLoop, vector_env
from benchmarks.navigation_loop import collect as collect_in_loop
from benchmarks.parts import print_parts
from benchmarks.timing import (
    MetaIteration,
    TurnSettings,
    peak_memory,
    print_growth,
    print_race,
    race,
)
from metarl.adaptation import MAML
from metarl.models.base import Params, task_params
from metarl.rl.policies import GaussianPolicy
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.rollouts import collect, draw_noise
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim import make_vec
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings

TASKS, STEPS = (5, 20, 80, 320), (1, 2, 3, 5)
INNER_LR = 0.1


@dataclass(frozen=True)
class NavigationBenchmark(TurnSettings):
    """Settings of the benchmark."""

    collection: bool = True
    """Measures the collection of rollouts."""
    iterations: bool = True
    """Measures meta-iterations and the share of their parts."""
    growth: bool = False
    """Measures the growth of the cost with the number of tasks and adaptation steps."""
    memory: bool = False
    """Measures peak memory with and without chunks of tasks."""
    tasks: int = 20
    """Tasks per meta-iteration."""
    trajectories: int = 20
    """Rollouts per task and adaptation step."""
    horizon: int = 100
    """Steps per rollout."""
    fisher_trajectories: int = 2
    """Rollouts per task for the thinned Fisher matrix."""
    task_chunk_size: int = 4
    """Tasks per chunk, computed at once."""
    compile: bool = False
    """Also measures a compiled meta-iteration, with the thinned Fisher matrix."""
    rounds: int = 7
    seconds: float = 0.5
    workers: int = 1
    """Chunks computed in parallel, each on one CPU thread."""

    @property
    def family(self) -> Navigation2D:
        """The family of the tasks."""
        return Navigation2D(horizon=self.horizon)

    @property
    def gradients(self) -> PolicyGradientSettings:
        """Settings of rollouts and surrogates."""
        return PolicyGradientSettings(trajectories=self.trajectories)


def main(settings: NavigationBenchmark) -> None:
    """Runs the benchmark and prints its results."""
    torch.set_num_threads(settings.threads)
    if settings.collection:
        _race_collection(settings)
    if settings.iterations:
        _race_iterations(settings)
        for name, kept in (("all rollouts", None), ("thinned", settings.fisher_trajectories)):
            print_parts(f"Fisher matrix: {name}", _ours(settings, kept), settings.rounds)
        if settings.compile:
            run = _ours(settings, settings.fisher_trajectories, compiled=True)
            print_parts("Fisher matrix: thinned; compiled", run, settings.rounds)
    if settings.growth:
        _print_growth(settings)
    if settings.memory:
        _print_memory(settings)


# Rollouts


def _race_collection(settings: NavigationBenchmark) -> None:
    policy = _policy(settings)
    params = {n: p.detach().clone() for n, p in task_params(policy, settings.tasks).items()}
    candidates = {
        "SyncVectorEnv": _collect_task_by_task(settings, policy),
        "MetaRL": _collect_at_once(settings, policy, params),
        "matrix products": _products(settings, params),
    }
    times = race(candidates, settings.rounds, settings.seconds)
    print_race(
        f"{settings.tasks} tasks x {settings.trajectories} rollouts x {settings.horizon} steps",
        times, ["SyncVectorEnv", "matrix products"],
    )  # fmt: skip
    steps = settings.tasks * settings.trajectories * settings.horizon
    print(f"MetaRL: {steps / times['MetaRL'].median / 1e3:.2f} million environment steps a second")


def _collect_task_by_task(
    settings: NavigationBenchmark, policy: GaussianPolicy
) -> Callable[[], None]:
    goals = settings.family.sample(settings.tasks, _generator()).values["goal"].numpy()
    policies = [LoopPolicy(policy) for _ in goals]
    envs = vector_env(settings.trajectories, settings.horizon)

    def run() -> None:
        for goal, own in zip(goals, policies, strict=True):
            envs.call("set_task", goal)
            collect_in_loop(envs, own, settings.horizon)

    return run


def _collect_at_once(
    settings: NavigationBenchmark, policy: GaussianPolicy, params: Params
) -> Callable[[], None]:
    family, generator = settings.family, _generator()
    tasks = family.sample(settings.tasks, generator).values
    worlds = settings.tasks * settings.trajectories
    env = make_vec(family, worlds, device="cpu", autoreset="disabled")

    def run() -> None:
        noise = draw_noise(policy, family, settings.tasks, settings.trajectories, generator)
        collect(env, policy, params, tasks, noise)

    return run


def _products(settings: NavigationBenchmark, params: Params) -> Callable[[], None]:
    """Returns a function that computes only the matrix products of the policies' forward passes."""
    weights = [p.mT for p in params.values() if p.dim() == 3]
    shape = (settings.tasks, settings.trajectories)
    inputs = [torch.rand(*shape, w.shape[1]) for w in weights]
    outputs = [torch.empty(*shape, w.shape[2]) for w in weights]

    def run() -> None:
        for _ in range(settings.horizon):
            for x, w, y in zip(inputs, weights, outputs, strict=True):
                torch.bmm(x, w, out=y)

    return run


# Meta-iterations


def _race_iterations(settings: NavigationBenchmark) -> None:
    thin = settings.fisher_trajectories
    candidates = {
        "loop": _loop(settings, None),
        "loop, thinned": _loop(settings, thin),
        "MetaRL": _ours(settings, None),
        "MetaRL, thinned": _ours(settings, thin),
    }
    if settings.compile:
        candidates["MetaRL, thinned, compiled"] = _ours(settings, thin, compiled=True)
    times = race(candidates, settings.rounds, settings.seconds)
    print_race("MAML-TRPO, a meta-iteration", times, ["loop", "loop, thinned"])


# Growth and memory


def _print_growth(settings: NavigationBenchmark) -> None:
    thin = settings.fisher_trajectories
    by_tasks = {str(n): _ours(settings, thin, tasks=n) for n in TASKS}
    by_steps = {str(n): _ours(settings, thin, steps=n) for n in STEPS}
    for what, candidates in (("tasks", by_tasks), ("steps", by_steps)):
        times = race(candidates, settings.rounds, settings.seconds)
        print_growth(f"MAML-TRPO, more {what}", what, times)


def _print_memory(settings: NavigationBenchmark) -> None:
    table = Table(
        "tasks", f"chunks of {settings.task_chunk_size}", "all at once", title="Peak memory, MB"
    )
    for tasks in TASKS[:-1]:
        peaks = [
            peak_memory(_ours, settings, settings.fisher_trajectories, tasks, 1, whole)
            for whole in (False, True)
        ]
        table.add_row(str(tasks), *(f"{peak:.0f}" for peak in peaks))
    Console().print(table)


def _ours(
    settings: NavigationBenchmark,
    kept: int | None,
    tasks: int | None = None,
    steps: int = 1,
    whole: bool = False,
    compiled: bool = False,
) -> MetaIteration:
    training = TrainingSettings(
        meta_batch_size=tasks or settings.tasks, workers=settings.workers, compile=compiled,
        task_chunk_size=None if whole else settings.task_chunk_size,
    )  # fmt: skip
    learner = PolicyLearner(
        MAML(_policy(settings), INNER_LR, steps), settings.family, settings.gradients
    )
    update = TrustRegionSettings(fisher_trajectories=kept, fisher_support=kept)
    return MetaIteration(learner, settings.family, training, update)


def _loop(settings: NavigationBenchmark, kept: int | None) -> NavigationLoop:
    return NavigationLoop(
        LoopPolicy(_policy(settings)), settings.gradients,
        TrustRegionSettings(fisher_trajectories=kept, fisher_support=kept),
        INNER_LR, 1, settings.tasks, settings.horizon,
    )  # fmt: skip


def _policy(settings: NavigationBenchmark) -> GaussianPolicy:
    family = settings.family
    observation, action = family.observation_space.shape, family.action_space.shape
    return GaussianPolicy(observation[0], action[0], _generator())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


if __name__ == "__main__":
    main(tyro.cli(NavigationBenchmark))
