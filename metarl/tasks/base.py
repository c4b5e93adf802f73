"""What a task distribution is, and the batch of tasks that it samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.registry import check_choice

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Examples(NamedTuple):
    """Labelled examples of T tasks, N for each.

    Attributes:
        inputs: Shape [T, N, *input], float32.
        targets: Shape [T, N] int64 class labels, or [T, N, *target] float32 values.
    """

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class TaskBatch:
    """A batch of T tasks; the tasks lead every tensor.

    Attributes:
        support: The experience to adapt on.
        query: Held-out experience of the same tasks, to judge the adapted learner on.
        info: What tells the tasks apart (amplitudes, class indices), each [T, ...]. Checks,
            figures and per-task tables read it; of learners only a classifier of all training
            classes does, in training.
    """

    support: Examples
    query: Examples
    info: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_tasks(self) -> int:
        """The number of tasks, T."""
        return self.support.inputs.shape[0]


class TaskSource(Protocol):
    """What training and evaluation need of tasks of any kind: batches of them."""

    def sample(self, num_tasks: int, generator: torch.Generator) -> Any:
        """Draws a batch of tasks, with all tensors on the generator's device."""
        ...


@runtime_checkable
class TaskDistribution(Protocol):
    """A distribution over tasks. Two methods make one; `check_task_distribution` checks it.

    Example:
        >>> class Lines:
        ...     def sample(self, num_tasks, generator):
        ...         options = {"generator": generator, "device": generator.device}
        ...         slope = torch.randn(num_tasks, 1, 1, **options)
        ...         x, new_x = torch.randn(2, num_tasks, 10, 1, **options)
        ...         support, query = Examples(x, slope * x), Examples(new_x, slope * new_x)
        ...         return TaskBatch(support, query, {"slope": slope})
        ...
        ...     def split(self, name):
        ...         check_split(name)
        ...         return self  # slopes are drawn anew: no task is met twice
        >>> check_task_distribution(Lines())
    """

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Draws a batch of tasks, with all tensors on the generator's device.

        Args:
            num_tasks: How many tasks to draw, at least 1.
            generator: The only source of randomness: the same state gives the same tasks.
        """
        ...

    def split(self, name: Split) -> TaskDistribution:
        """Returns the distribution over the tasks of one split; splits share no task."""
        ...


def check_split(name: str) -> Split:
    """Returns `name` if it is a split.

    Raises:
        SettingsError: It is not.
    """
    check_choice("split", name, SPLITS)
    return name  # pyright: ignore[reportReturnType]


def check_num_tasks(num_tasks: int) -> None:
    """Raises SettingsError unless `num_tasks` is at least 1."""
    if num_tasks < 1:
        raise SettingsError(f"Expected at least 1 task, got {num_tasks}.")
