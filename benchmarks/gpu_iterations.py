"""Iterations on a GPU in variants: graphs, late flags, optimisers, bfloat16; trials of robots.

Rows as in `gpu_speed`. The notes say whether a graph was captured, or why not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_speed import DeviceImages, Row, Sizes, milliseconds, row
from benchmarks.omniglot import OmniglotBenchmark
from benchmarks.timing import MetaIteration
from metarl.adaptation import MAML, GradientLearner
from metarl.cuda_graphs import allow_graphs
from metarl.devices import seeded_generator, set_matmul_precision
from metarl.learners import ConvEmbedding, ImageShape, MetricLearner, Prototypes
from metarl.models import MLP
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.trials.recurrent_learner import RL2Algorithm
from metarl.sim import TaskFamily, make_family
from metarl.tasks import Sine
from metarl.training import TrainingSettings
from metarl.training.captured_tasks import CapturedTasks
from metarl.training.meta_step import MetaStep

OPTIMIZERS = (
    "adam", "adamw", "sgd", "adagrad", "adadelta", "adamax", "asgd", "nadam", "radam", "rmsprop",
    "rprop",
)  # fmt: skip
"""Optimisers whose step can be in a graph."""


def one_graph(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """A sine iteration as one graph, and what each part of that changes."""
    tasks = sizes.tasks[0]
    time_of = partial(milliseconds, device=device, seconds=sizes.seconds)
    work = f"sine iteration, {tasks} tasks, 1 step"
    run = _sine(tasks, device)
    yield row(f"{work}: one graph, flag read late", time_of(run), goal=0.25, note=_graph(run))
    steps = _sine(tasks, device, steps=5)
    yield row(f"{work.replace('1 step', '5 steps')}: the same", time_of(steps), goal=0.6)
    run = _sine(tasks, device, late=False)
    yield row(f"{work}: flag read at once", time_of(run))
    run = _sine(tasks, device, optimizer_options=("fused=False",))
    yield row(f"{work}: optimiser outside", time_of(run))
    with _no_graphs():
        yield row(f"{work}: no graph", time_of(_sine(tasks, device)))
    generator, sine = seeded_generator(device, 0), Sine(10, 10)
    yield row(f"drawing {tasks} sine tasks", time_of(lambda: sine.sample(tasks, generator)))
    draw = CapturedTasks()
    ours = time_of(lambda: draw(sine, tasks, generator))
    yield row(f"drawing {tasks} sine tasks by a graph", ours, note=draw.refused or "")
    yield from _of_optimisers(device, tasks)


def _sine(
    tasks: int, device: torch.device, *, steps: int = 1, late: bool = True, **settings: object
) -> MetaIteration:
    net = MLP((1, 40, 40, 1), torch.Generator().manual_seed(0))
    learner = GradientLearner(MAML(net, 0.01, steps)).to(device)
    training = TrainingSettings(**{"meta_batch_size": tasks, **settings})
    return _on(device, MetaIteration(learner, Sine(10, 10), training, late=late))


def _on(device: torch.device, iteration: MetaIteration) -> MetaIteration:
    iteration.generator = seeded_generator(device, 0)
    return iteration


def _graph(run: MetaIteration) -> str:
    """Returns whether iterations are a graph, for the notes."""
    captured = run.step.captured if isinstance(run.step, MetaStep) else None
    if captured is None:
        return "no graph: a CPU, or an optimiser that cannot"
    return f"refused: {captured.refused}" if captured.refused else "captured"


def _of_optimisers(device: torch.device, tasks: int) -> Iterator[Row]:
    """Steps of every optimiser that can be captured, compared with those without a graph."""
    taken, notes = 0, list[str]()
    for name in OPTIMIZERS:
        run, other = _sine(tasks, device, optimizer=name), _sine(tasks, device, optimizer=name)
        for _ in range(4):
            run()
            with _no_graphs():
                other()
        error, graph = _largest_difference(run, other), _graph(run)
        if graph == "captured" and error < 1e-4:
            taken += 1
        else:
            notes.append(f"{name}: {graph}, differs by {error:.1e}")
    yield row("optimisers in the graph", taken, unit=f"of {len(OPTIMIZERS)}", note="; ".join(notes))


def _largest_difference(a: MetaIteration, b: MetaIteration) -> float:
    pairs = zip(a.learner.parameters(), b.learner.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


@contextmanager
def _no_graphs() -> Iterator[None]:
    allow_graphs(False)
    try:
        yield
    finally:
        allow_graphs(True)


def precisions(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Prototypical networks with Conv4 in float32, TF32 and bfloat16: speed and gradients."""
    small = sizes.filters < 64
    way, shots = (3, 1) if small else (20, 5)
    images = DeviceImages(OmniglotBenchmark(way=way, shots=shots, queries=shots))
    tasks = sizes.tasks[1]
    exact = _metric_gradient(images, sizes, device)
    for name in ("float32", "TF32", "bfloat16"):
        bfloat16 = name == "bfloat16"
        set_matmul_precision("high" if name == "TF32" else "highest")
        gradient = _metric_gradient(images, sizes, device, bfloat16)
        error = float((gradient - exact).norm() / exact.norm())
        learner = _metric_learner(sizes, device, bfloat16)
        run = MetaIteration(learner, images, TrainingSettings(meta_batch_size=tasks), late=True)
        ours = milliseconds(_on(device, run), device, sizes.seconds)
        work = f"prototypical networks, {tasks} tasks of {way} x ({shots} + {shots}) images"
        yield row(f"{work}, {name}", ours, note=f"gradients differ by {error:.1e}")
    set_matmul_precision("highest")


def _metric_learner(sizes: Sizes, device: torch.device, bfloat16: bool) -> MetricLearner:
    generator = torch.Generator().manual_seed(0)
    embedding = ConvEmbedding(ImageShape(), generator, sizes.filters, bfloat16=bfloat16)
    return MetricLearner(embedding, Prototypes()).to(device)


def _metric_gradient(
    images: DeviceImages, sizes: Sizes, device: torch.device, bfloat16: bool = False
) -> Tensor:
    learner, generator = _metric_learner(sizes, device, bfloat16), seeded_generator(device, 0)
    inputs = learner.collect(images.sample(2, generator), generator, 0)
    grads = torch.autograd.grad(learner(inputs).losses.mean(), list(learner.parameters()))
    return torch.cat([g.flatten() for g in grads])


def trials(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Trials of RL^2 on the half cheetah, with a graph between two steps of the physics or not."""
    tasks, per_task = sizes.iteration
    family: TaskFamily = make_family("HalfCheetahVelocity-v1", horizon=sizes.horizon)
    gradients = PolicyGradientSettings(trajectories=per_task, clip=0.2)
    start = torch.Generator().manual_seed(0)
    learner = RL2Algorithm(episodes=2).build(ControlProblem(family, start, gradients)).to(device)
    generator = seeded_generator(device, 0)
    batch = family.sample(tasks, generator)
    play = partial(learner.play, batch, 2, generator)
    work = f"RL^2 on the half cheetah, {tasks} x {per_task} trials of two episodes"
    yield row(work, milliseconds(play, device, sizes.seconds))
    with _no_graphs():
        yield row(f"{work}: no graph", milliseconds(play, device, sizes.seconds))


PARTS: dict[str, Callable[..., Iterator[Row]]] = {
    "one_graph": one_graph,
    "precisions": precisions,
    "trials": trials,
}
"""The measurements of this module by name, for `gpu_part`."""
