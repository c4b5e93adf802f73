"""Adaptation curves: how good a learner is after 0, 1, ..., K adaptation steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.adaptation.learner import (
    ControlLearner,
    Learner,
    StreamLearner,
    SupervisedLearner,
)
from metarl.errors import SettingsError
from metarl.sim.family import Tasks
from metarl.tasks.base import TaskBatch, TaskSource
from metarl.tasks.losses import metric_name, task_metric
from metarl.trees import concatenate_tasks


@dataclass(frozen=True)
class AdaptationCurve:
    """The metric of each task after each number of adaptation steps.

    Attributes:
        metric: What was measured: "mse", "accuracy" or "return".
        values: Shape [steps + 1, tasks] ([1, tasks] of the last step only), float32, CPU.
        transductive: Whether queries shared batch-norm statistics.
        tasks: What tells control tasks apart, [tasks, *] per name; None of other tasks.
    """

    metric: str
    values: Tensor
    transductive: bool
    tasks: Tasks | None = None


def adaptation_curve(
    learner: Learner,
    distribution: TaskSource,
    *,
    num_tasks: int,
    steps: int,
    generator: torch.Generator,
    chunk_size: int = 100,
    transductive: bool = True,
    last_only: bool = False,
) -> AdaptationCurve:
    """Adapts a learner to fresh tasks and judges it after every step.

    Supervised learners are judged on the queries, control learners by their undiscounted returns;
    learners of streams on what comes after 0, 1, ... examples of its class.

    Args:
        learner: Any learner; it is not changed.
        distribution: Where the tasks come from; take the split that is meant.
        num_tasks: Number of tasks.
        steps: Adaptation steps, at least 0; may be more than in training.
        generator: Source of the tasks; the learner draws from one derived from it, so that every
            learner meets the same tasks.
        chunk_size: Tasks adapted at once.
        transductive: See `SupervisedLearner.predict`; False for learners that do not transduce.
        last_only: Judges the learner after the last step only: one row of values.

    Raises:
        SettingsError: `num_tasks` or `chunk_size` is below 1 or `steps` below 0.
    """
    if min(num_tasks, chunk_size) < 1 or steps < 0:
        raise SettingsError(
            "Expected num_tasks >= 1, steps >= 0 and chunk_size >= 1, got "
            f"{num_tasks}, {steps} and {chunk_size}."
        )
    if isinstance(learner, SupervisedLearner):
        transductive = transductive and learner.transduces
    own = derived(generator)
    columns, name, told = [], "", []
    for start in range(0, num_tasks, chunk_size):
        tasks = distribution.sample(min(chunk_size, num_tasks - start), generator)
        if isinstance(learner, ControlLearner):
            name, rows = "return", learner.returns(tasks, steps, own)
            told.append(tasks.values)
        elif isinstance(learner, StreamLearner):
            name, rows = "accuracy", learner.accuracies(tasks, steps, own)
        else:
            name = metric_name(tasks.query.targets)
            columns.append(judge(learner, tasks, steps, own, transductive, last_only))
            continue
        values = torch.stack(list(rows)).cpu()
        columns.append(values[-1:] if last_only else values)
    values = torch.cat(columns, dim=1)
    return AdaptationCurve(name, values, transductive, concatenate_tasks(told) if told else None)


def judge(
    learner: Learner,
    tasks: TaskBatch,
    steps: int,
    generator: torch.Generator,
    transductive: bool = True,
    last_only: bool = False,
) -> Tensor:
    """Adapts a learner to given tasks and returns their metric, [steps + 1, tasks], on the CPU.

    The arguments are those of `adaptation_curve`, but that `generator` is the learner's own.
    """
    assert isinstance(learner, SupervisedLearner)
    rows = []
    for step, adapted in enumerate(learner.adaptation(tasks.support, steps, generator)):
        if last_only and step < steps:
            continue
        outputs = learner.predict(adapted, tasks.query.inputs, transductive)
        rows.append(task_metric(outputs.detach(), tasks.query.targets))
    return torch.stack(rows).float().cpu()


def derived(generator: torch.Generator) -> torch.Generator:
    """Returns another generator on the same device, seeded by the state of `generator`.

    The state itself stays as it is.
    """
    other = torch.Generator(generator.device)
    other.set_state(generator.get_state())
    seed = torch.randint(2**62, (), generator=other, device=generator.device)
    return other.manual_seed(int(seed))
