"""Adaptation curves: how good a learner is after 0, 1, ..., K adaptation steps."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import Learner
from metarl.chunks import FittingChunks
from metarl.devices import check_generator
from metarl.errors import SettingsError
from metarl.evaluation.watch import Watch, unwatched, watched
from metarl.tasks.base import TaskSource, check_source
from metarl.tasks.batches import warn_of_other_count
from metarl.trees import concatenate_tasks, cut_tasks


@dataclass(frozen=True)
class AdaptationCurve:
    """The metric of each task after each number of adaptation steps.

    Attributes:
        metric: Name of the metric: "mse", "accuracy" or "return".
        values: Shape [rows, tasks], float32, CPU; a row for each number of steps.
        transductive: Whether queries shared batch-norm statistics; without meaning for returns.
        tasks: What distinguishes the tasks, [tasks, *] per name: their `info`.
        others: Further metrics, such as success: name -> values of the same shape.
        first_step: Adaptation steps of the first row: 0, or more where only the last is evaluated.
    """

    metric: str
    values: Tensor
    transductive: bool
    tasks: dict[str, Tensor] | None = None
    others: dict[str, Tensor] = field(default_factory=dict)
    first_step: int = 0


def adaptation_curve(
    learner: Learner,
    distribution: TaskSource,
    *,
    num_tasks: int,
    steps: int,
    generator: torch.Generator,
    chunk_size: int = 100,
    transductive: bool = False,
    last_only: bool = False,
    watch: Watch = unwatched,
    name: str = "test tasks",
) -> AdaptationCurve:
    """Adapts a learner to fresh tasks and evaluates it after every step.

    Args:
        learner: Any learner; it is not changed.
        distribution: The task distribution; pass the split to evaluate on.
        num_tasks: Number of tasks.
        steps: Adaptation steps, at least 0; may be more than in training.
        generator: Source of the tasks. The learner draws from a generator derived from it, so that
            every learner meets the same tasks.
        chunk_size: Tasks adapted at once.
        transductive: See `SupervisedLearner.predict`; False for learners that do not transduce.
            Name it for a published comparison.
        last_only: Returns the values after the last step only: one row.
        watch: Watches the evaluation.
        name: What is evaluated, for `watch`.

    Returns:
        The curve. Values are NaN, with a warning that names the tasks, where the outputs or the
        targets of a task are not finite.

    Raises:
        SettingsError: `num_tasks` or `chunk_size` is below 1 or `steps` below 0, or no tasks can be
            sampled.
    """
    if min(num_tasks, chunk_size) < 1 or steps < 0:
        raise SettingsError(
            "Expected num_tasks >= 1, steps >= 0 and chunk_size >= 1, got "
            f"{num_tasks}, {steps} and {chunk_size}."
        )
    check_source(distribution, "tasks")
    transductive = transductive and learner.transduces
    # Learners that act in environments or read streams have no such argument.
    has_argument = "transductive" in inspect.signature(learner.evaluate).parameters
    options: dict[str, Any] = {"transductive": transductive} if has_argument else {}
    learner_generator = derived(generator)
    metric, parts, infos, fitting = "", [], [], FittingChunks("evaluations")
    with watch(name, num_tasks * (1 if last_only else steps + 1)) as advance:
        for start in range(0, num_tasks, chunk_size):
            count = min(chunk_size, num_tasks - start)
            tasks = distribution.sample(count, generator)
            warn_of_other_count(tasks, count)
            metric = learner.metric(tasks)

            def rows(part: Any) -> Iterable[dict[str, Tensor]]:
                found = learner.evaluate_metrics(
                    part, steps, learner_generator, last_only=last_only, **options
                )
                return watched(found, advance)

            parts.append(fitted(rows, tasks, learner_generator, fitting))
            infos.append(tasks.info)
    values = _joined(parts)
    for key, value in values.items():
        warn_if_not_finite(value, key, "task")
    return AdaptationCurve(
        metric, values.pop(metric), transductive, concatenate_tasks(infos), values,
        first_step=steps if last_only else 0,
    )  # fmt: skip


def fitted(
    rows: Callable[[Any], Iterable[dict[str, Tensor]]],
    tasks: Any,
    generator: torch.Generator,
    fitting: FittingChunks,
) -> dict[str, Tensor]:
    """Returns the metrics of tasks, of fewer at once if a GPU's memory does not suffice.

    Args:
        rows: Evaluates some of the tasks, and yields their metrics after each step.
        tasks: T tasks.
        generator: What `rows` draws from; it starts again if the tasks do not fit.
        fitting: Halves the number of tasks.

    Returns:
        Name -> values [steps, T], float32, CPU.
    """
    state = generator.get_state()

    def evaluate(size: int | None) -> dict[str, Tensor]:
        generator.set_state(state)
        return _joined([stack_steps(rows(part)) for part in cut_tasks(tasks, size)])

    return fitting(evaluate, None, tasks.num_tasks)


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Joins metrics [steps, tasks] of parts of the tasks."""
    return {key: torch.cat([part[key] for part in parts], dim=1) for key in parts[0]}


def stack_steps(rows: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns metrics of each step, [tasks] each, as [steps, tasks] per name, float32, CPU."""
    rows = list(rows)
    return {name: torch.stack([row[name] for row in rows]).float().cpu() for name in rows[0]}


def warn_if_not_finite(values: Tensor, metric: str, kind: str) -> None:
    """Warns of tasks with a metric that is NaN or infinite.

    Args:
        values: The metric, [steps, tasks].
        metric: Its name.
        kind: What a column is, for the message: "task".
    """
    broken = (~values.isfinite()).any(0).nonzero().flatten().tolist()
    if broken:
        names = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        found = "NaN" if values.isnan().any() else "infinite"
        reason = "outputs or targets are not finite"
        if metric == "r2":
            reason += ", or the targets of a task are all the same, as those of a single query"
        warnings.warn(
            f"The {metric} of {kind} {names} is {found} ({len(broken)} of {values.shape[1]}, "
            f"counted from 0): {reason}. Means over these are NaN too. If the adaptation "
            "diverges, lower the inner rate or take fewer steps.",
            RuntimeWarning,
            stacklevel=3,
        )


def derived(generator: torch.Generator) -> torch.Generator:
    """Returns another generator on the same device, seeded by the state of `generator`.

    The state of `generator` does not change.

    Raises:
        SettingsError: It is no generator, such as a seed.
    """
    check_generator(generator)
    other = torch.Generator(generator.device)
    other.set_state(generator.get_state())
    seed = torch.randint(2**62, (), generator=other, device=generator.device)
    return other.manual_seed(int(seed))
