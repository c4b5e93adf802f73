"""What training in bfloat16 changes: gradients, and the accuracy after a short training.

    python -m benchmarks.precision
    python -m benchmarks.precision --iterations 500 --seeds 5

For metric learners on 5-way glyphs (`--training.precision bfloat16`): the difference of the outer
gradient from that in float32, relative to its norm, before and after a training in float32; then
the accuracy on new classes after training in either, mean and standard deviation over seeds. The
last rows are MAML on sine under autocast, which MetaRL refuses: the gradient contains derivatives
of rounded inner steps. Takes about ten minutes.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import tyro
from torch import Tensor

from metarl.adaptation import MAML, GradientLearner
from metarl.adaptation.learner import Learner
from metarl.evaluation.curves import adaptation_curve
from metarl.learners import ImageShape
from metarl.learners.metric import algorithms as metric
from metarl.learners.problem import ImageProblem
from metarl.models import MLP
from metarl.tasks import Glyphs, Sine
from metarl.tasks.base import Split
from metarl.training import TrainingSettings
from metarl.training.meta_step import MetaStep

WAY, SHOTS, QUERIES = 5, 1, 5
NEW_SEED = 1_000_003
LEARNERS = {
    "prototypical": metric.PrototypicalAlgorithm(),
    "matching": metric.MatchingAlgorithm(),
    "relation": metric.RelationAlgorithm(),
    "prototypical, pyramid": metric.PrototypicalAlgorithm(metric.EmbeddingSettings("pyramid")),
}


@dataclass(frozen=True)
class PrecisionBenchmark:
    """Settings of the benchmark."""

    iterations: int = 200
    """Meta-iterations of each training."""
    seeds: int = 3
    """Trainings in each precision."""
    filters: int = 16
    """Filters of the networks."""
    tasks: int = 8
    """Tasks per meta-iteration."""


@cache
def glyphs(split: Split = "train") -> Any:
    """Returns 5-way tasks of a split."""
    return Glyphs(WAY, SHOTS, QUERIES, alphabets=12, characters=20, drawings=20).split(split)


def build(name: str, settings: PrecisionBenchmark, seed: int, bfloat16: bool) -> Learner:
    """Returns an untrained learner."""
    generator = torch.Generator().manual_seed(seed)
    problem = ImageProblem(ImageShape(), WAY, settings.filters, 0, generator, None)
    learner = LEARNERS[name].build(problem)
    if bfloat16:
        learner.use_bfloat16()
    return learner


def train(learner: Learner, settings: PrecisionBenchmark, seed: int) -> None:
    """Trains a learner on glyphs by Adam."""
    step = MetaStep(learner, TrainingSettings(meta_batch_size=settings.tasks))
    tasks, generator = glyphs(), torch.Generator().manual_seed(seed)
    for i in range(settings.iterations):
        inputs = learner.collect(tasks.sample(settings.tasks, generator), generator, i)
        learner.after_update(step(inputs, i).carry)


def gradient(learner: Learner) -> Tensor:
    """Returns the outer gradient for 16 tasks as a vector."""
    generator = torch.Generator().manual_seed(NEW_SEED)
    inputs = learner.collect(glyphs().sample(16, generator), generator, 0)
    params = [p for p in learner.parameters() if p.requires_grad]
    grads = torch.autograd.grad(learner(inputs).losses.mean(), params)
    return torch.cat([g.flatten() for g in grads])


def relative(rounded: Tensor, exact: Tensor) -> float:
    """Returns the norm of the difference, relative to the norm of the second."""
    return float((rounded - exact).norm() / exact.norm())


def accuracy(learner: Learner) -> float:
    """Returns the accuracy on 100 tasks of new classes."""
    curve = adaptation_curve(
        learner, glyphs("test"), num_tasks=100, steps=0,
        generator=torch.Generator().manual_seed(NEW_SEED), transductive=True,
    )  # fmt: skip
    return float(curve.values[0].mean())


def row(name: str, settings: PrecisionBenchmark) -> list[str]:
    """Returns the row of a metric learner."""
    accuracies: dict[bool, list[float]] = {False: [], True: []}
    errors: list[float] = []
    for seed in range(settings.seeds):
        for bfloat16 in (False, True):
            learner = build(name, settings, seed, bfloat16)
            if not bfloat16 and seed == 0:
                errors.append(relative(gradient(build(name, settings, 0, True)), gradient(learner)))
            train(learner, settings, seed)
            accuracies[bfloat16].append(accuracy(learner))
            if not bfloat16 and seed == 0:
                exact = gradient(learner)
                learner.use_bfloat16()
                errors.append(relative(gradient(learner), exact))
    spreads = [statistics.stdev(a) if len(a) > 1 else 0.0 for a in accuracies.values()]
    means = [statistics.mean(a) for a in accuracies.values()]
    cells = [f"{m:.1%} ± {s:.1%}" for m, s in zip(means, spreads, strict=True)]
    return [name, *(f"{e:.1%}" for e in errors), *cells]


def refused_row(settings: PrecisionBenchmark, steps: int) -> list[str]:
    """Returns the row of MAML on sine under autocast, which MetaRL refuses; without accuracies."""
    net = MLP((1, 40, 40, 1), torch.Generator().manual_seed(0))
    learner, errors = GradientLearner(MAML(net, 0.01, steps)), list[float]()
    step = MetaStep(learner, TrainingSettings())
    for iterations in (0, settings.iterations):
        generator = torch.Generator().manual_seed(0)
        for i in range(iterations):
            step(learner.collect(Sine().sample(25, generator), generator, i), i)
        inputs = learner.collect(Sine().sample(25, generator), generator, 0)
        exact, rounded = (_sine_gradient(learner, inputs, flag) for flag in (False, True))
        errors.append(relative(rounded, exact))
    return [f"MAML on sine, {steps} step(s)", *(f"{e:.1%}" for e in errors), "refused", "refused"]


def _sine_gradient(learner: Learner, inputs: Any, bfloat16: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        grads = torch.autograd.grad(learner(inputs).losses.mean(), list(learner.parameters()))
    return torch.cat([g.flatten() for g in grads])


def main(settings: PrecisionBenchmark) -> None:
    """Runs the benchmark and prints its rows."""
    torch.set_num_threads(1)
    print("learner | gradient, untrained | trained | accuracy, float32 | bfloat16", flush=True)
    for name in LEARNERS:
        print(" | ".join(row(name, settings)), flush=True)
    for steps in (1, 5):
        print(" | ".join(refused_row(settings, steps)), flush=True)


if __name__ == "__main__":
    main(tyro.cli(PrecisionBenchmark))
