"""What training in bfloat16 changes: gradients, and the accuracy after a short training.

    python -m benchmarks.precision
    python -m benchmarks.precision --iterations 500 --seeds 5

For metric learners on 5-way glyphs (`--training.precision bfloat16`): the difference of the outer
gradient from that in float32, relative to its norm, before and after a training in float32; then
the accuracy on new classes after training in either, mean and standard deviation over seeds. The
last row is MAML with its inner loop under autocast, which MetaRL refuses: second derivatives
through a step in bfloat16. Takes about ten minutes.
"""

from __future__ import annotations

import statistics
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from metarl.adaptation import MAML, GradientLearner
from metarl.adaptation.learner import Learner
from metarl.evaluation.curves import adaptation_curve
from metarl.learners import ImageShape
from metarl.learners.metric import algorithms as metric
from metarl.learners.problem import ImageProblem
from metarl.models import Conv4
from metarl.tasks import Glyphs
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
    tasks, generator = Glyphs(WAY, SHOTS, QUERIES), torch.Generator().manual_seed(seed)
    for i in range(settings.iterations):
        inputs = learner.collect(tasks.sample(settings.tasks, generator), generator, i)
        learner.after_update(step(inputs, i).carry)


def gradient(learner: Learner, bfloat16: bool = False) -> Tensor:
    """Returns the outer gradient for 64 tasks as a vector."""
    generator = torch.Generator().manual_seed(NEW_SEED)
    inputs = learner.collect(Glyphs(WAY, SHOTS, QUERIES).sample(64, generator), generator, 0)
    params = [p for p in learner.parameters() if p.requires_grad]
    with torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext():
        grads = torch.autograd.grad(learner(inputs).losses.mean(), params)
    return torch.cat([g.flatten() for g in grads])


def relative(rounded: Tensor, exact: Tensor) -> float:
    """Returns the norm of the difference, relative to the norm of the second."""
    return float((rounded - exact).norm() / exact.norm())


def accuracy(learner: Learner) -> float:
    """Returns the accuracy on 200 tasks of new classes."""
    curve = adaptation_curve(
        learner, Glyphs(WAY, SHOTS, QUERIES).split("test"), num_tasks=200, steps=0,
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


def refused_row(settings: PrecisionBenchmark) -> list[str]:
    """Returns the row of MAML, without trainings."""
    net = Conv4(WAY, torch.Generator().manual_seed(0), filters=settings.filters)
    learner = GradientLearner(MAML(net, 0.4))
    before = relative(gradient(learner, True), gradient(learner))
    train(learner, settings, 0)
    after = relative(gradient(learner, True), gradient(learner))
    return ["MAML, 1 step (refused)", f"{before:.1%}", f"{after:.1%}", "", ""]


def main(settings: PrecisionBenchmark) -> None:
    """Runs the benchmark and prints its table."""
    table = Table(box=SIMPLE, title="Training in bfloat16")
    for column in ("", "gradient, untrained", "trained", "accuracy, float32", "bfloat16"):
        table.add_column(column, no_wrap=True)
    for name in LEARNERS:
        table.add_row(*row(name, settings))
    table.add_row(*refused_row(settings))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(PrecisionBenchmark))
