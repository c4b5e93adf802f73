"""What is exported of each kind of learner; the kinds register themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from metarl.deploy.export.capture import Graph
from metarl.deploy.export.theta import Start
from metarl.errors import SettingsError
from metarl.tasks.base import Examples, TaskBatch


@dataclass(frozen=True)
class Request:
    """What an export is made for.

    Attributes:
        tasks: Returns tasks of a supervised learner, whose examples give shapes and types.
        horizon: Steps of an episode that a policy's batch has room for; None for the family's.
        generator: Draws the start, for learners that start afresh on each task.
    """

    tasks: Callable[[], TaskBatch]
    horizon: int | None
    generator: torch.Generator


@dataclass(frozen=True)
class Exported:
    """What is written of a learner.

    Attributes:
        kind: "supervised", "support", "control", "recurrent" or "stream".
        start: The initial theta and state.
        graphs: The graphs besides "start".
        notes: What the metadata says of the learner, JSON values.
    """

    kind: str
    start: Start
    graphs: list[Graph]
    notes: dict[str, Any]


MASK = "true for the real elements of padded sequences"
"""What the input "mask" is."""


def first_support(tasks: TaskBatch) -> Examples:
    """Returns the first support set without padding examples, [1, N, *]."""
    return first_task(tasks).support


def first_task(tasks: TaskBatch) -> TaskBatch:
    """Returns the first task without padding examples; each tensor is [1, *]."""
    sets = [_without_padding(examples) for examples in (tasks.support, tasks.query)]
    return TaskBatch(sets[0], sets[1], {n: t[:1] for n, t in tasks.info.items()})


def refuse_horizon(request: Request) -> None:
    """Raises SettingsError if a supervised learner is asked for the steps of an episode."""
    if request.horizon is not None:
        raise SettingsError("`horizon` belongs to policies; supervised tasks have no episodes.")


def _without_padding(examples: Examples) -> Examples:
    """Returns the examples of the first task whose weight is above 0, [1, N, *]."""
    rows = torch.arange(examples.targets.shape[1])
    if examples.weights is not None:
        rows = rows[examples.weights[0] > 0]
    mask = None if examples.mask is None else examples.mask[:1, rows]
    return Examples(examples.inputs[:1, rows], examples.targets[:1, rows], mask=mask)


@functools.singledispatch
def exported(learner: object, request: Request) -> Exported:
    """Returns what is written of a learner, which is on the CPU.

    Raises:
        SettingsError: The learner is of a kind that is not exported, or the request does not suit.
        ExportError: A part of the learner cannot be exported.
    """
    raise SettingsError(
        "The adaptation by gradients, of metric and memory learners, of recurrent policies and of "
        f"learners of streams is exported; {type(learner).__name__} adapts in another way."
    )


@functools.singledispatch
def adapted_network(
    learner: object, tasks: Callable[[], TaskBatch], steps: int, generator: torch.Generator
) -> Graph:
    """Returns the graph of a supervised learner's network, adapted to the first of the tasks.

    Args:
        learner: The learner, on the CPU.
        tasks: Returns its tasks.
        steps: Adaptation steps, at least 0.
        generator: Of the adaptation.

    Raises:
        SettingsError: The learner has no network that can be exported.
    """
    raise SettingsError(
        "Policies that adapt by gradients and supervised learners are exported; "
        f"{type(learner).__name__} "
        "adapts in another way. A recurrent policy or a learner of streams is exported "
        "`--with adaptation`, as a graph with the state in and out."
    )
