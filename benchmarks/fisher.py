"""What TRPO's step loses if few rollouts estimate the Fisher matrix, on a checkpoint of a run.

    metarl train navigation2d --algorithm mamlplusplus --training.iterations 100
    python -m benchmarks.fisher latest

Prints a row per number of rollouts: the divergence that the matrix predicts for its step over the
true one, the fall of the loss at equal true divergence relative to that of the whole matrix, and
the time of the step. Takes some minutes, most of them for the whole matrix.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from metarl.lab.saved_run import reopened
from metarl.rl.fisher import flatten, unflatten
from metarl.rl.policy_learner import PolicyLearner
from metarl.training.trust_region import TrustRegionSettings, TrustRegionUpdate

MAX_KL = 0.02
ROLLOUTS = ((None, None), (2, None), (2, 2), (2, 5), (5, 10))
HALVINGS = 9


def main(run: Annotated[Path, tyro.conf.Positional], seed: int = 5, threads: int = 1) -> None:
    """Runs the benchmark.

    Args:
        run: A run folder of a policy, a checkpoint, or "latest".
        seed: Seed of the tasks and rollouts.
        threads: CPU threads of torch.
    """
    torch.set_num_threads(threads)
    with reopened(run) as (components, loop, _):
        learner, generator = components.learner, torch.Generator().manual_seed(seed)
        assert isinstance(learner, PolicyLearner), "a run of a policy that adapts by gradients"
        training = loop.settings
        tasks = components.tasks.sample(training.meta_batch_size, generator)
        inputs = learner.collect(tasks, generator, training.iterations)
        whole = None
        print("last rollouts, support rollouts | predicted / true KL | gain | seconds")
        for last, support in ROLLOUTS:
            settings = TrustRegionSettings(
                max_kl=MAX_KL, fisher_trajectories=last, fisher_support=support
            )
            update = TrustRegionUpdate(learner, training, settings)
            step, seconds = _step(update, inputs)
            divergence, gain = _judge(update, inputs, step)
            whole = gain if whole is None else whole
            counts = f"{last or 'all'}, {support or 'all'}"
            print(
                f"{counts:>31} | {MAX_KL / divergence:>19.2f} | {gain / whole:4.2f} | {seconds:.2f}"
            )


def _step(update: TrustRegionUpdate, inputs: object) -> tuple[Tensor, float]:
    """Returns the step of the quadratic model, [P], and the seconds of its computation."""
    update.gradient(inputs)
    slope = flatten([torch.zeros_like(p) if p.grad is None else p.grad for p in update.params])
    start = time.perf_counter()
    step = update._natural_gradient_step(slope, inputs)  # pyright: ignore[reportArgumentType]
    return step, time.perf_counter() - start


@torch.no_grad()
def _judge(update: TrustRegionUpdate, inputs: object, step: Tensor) -> tuple[float, float]:
    """Returns the true divergence of a step, and the fall of the loss where it is `MAX_KL`."""
    before = [p.clone() for p in update.params]

    def at(share: float) -> tuple[float, float]:
        for p, old, move in zip(update.params, before, unflatten(step, before), strict=True):
            p.copy_(old + share * move)
        result = update.learner(inputs)
        for p, old in zip(update.params, before, strict=True):
            p.copy_(old)
        return result.losses.mean().item(), result.metrics["meta/kl"].mean().item()

    loss = at(0.0)[0]
    low, high = 0.0, 2.0
    for _ in range(HALVINGS):  # bisection: the divergence grows with the length of the step
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle)[1] <= MAX_KL else (low, middle)
    return at(1.0)[1], loss - at(low)[0]


if __name__ == "__main__":
    tyro.cli(main)
