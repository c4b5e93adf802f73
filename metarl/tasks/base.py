"""Task distributions and the batches of tasks that they sample."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from metarl.devices import check_generator
from metarl.errors import SettingsError, short_repr
from metarl.ranges import ANY_INT, check_int
from metarl.registry import check_choice

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Examples(NamedTuple):
    """Labelled examples of T tasks, N per task.

    Tasks with fewer than N examples are filled up with padding rows of weight 0, whose inputs are
    zeros and whose labels are 0.

    Attributes:
        inputs: Shape [T, N, *input], float32, or int64 indices such as those of characters.
        targets: Shape [T, N] int64 class labels, or [T, N, *target] float32 values.
        weights: Weight of each example, [T, N], of the parameters' type, at least 0 and above 0
            somewhere in each task; 0 for padding rows. None: all 1.
        mask: True where an element of a padded sequence is real, [T, N, L], bool. None: there is
            no padding within an example.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class TaskBatch:
    """A batch of T tasks; the first dimension of every tensor is the task dimension.

    Attributes:
        support: The examples to adapt on.
        query: Held-out examples of the same tasks, to evaluate the adapted learner on.
        info: The parameters that identify each task (amplitudes, class indices), each [T, ...].
            Checks, figures and per-task tables use them. Learners ignore them, except for a
            classifier of all training classes, which uses them in training.
    """

    support: Examples
    query: Examples
    info: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_tasks(self) -> int:
        """The number of tasks, T."""
        return self.support.inputs.shape[0]


class TaskSource(Protocol):
    """Interface of anything that samples batches of tasks for training and evaluation."""

    def sample(self, num_tasks: int, generator: torch.Generator) -> Any:
        """Samples a batch of tasks, with all tensors on the generator's device."""
        ...


def check_source(source: Any, what: str) -> None:
    """Checks that tasks can be sampled from an object.

    Args:
        source: What should be a `TaskSource`.
        what: What these tasks are, for the message.

    Raises:
        SettingsError: It is a class, or has no method `sample(num_tasks, generator)`.
    """
    sample = getattr(source, "sample", None)
    advice = "`FewShotData` and others make one of data (docs/your_data.md)."
    if isinstance(source, type):
        advice = f"Pass an instance: {source.__name__}(...)."
    elif isinstance(source, TaskBatch):
        advice = "A batch is one sample: pass the distribution that it came from."
    elif callable(sample):
        try:
            signature = inspect.signature(sample)
        except ValueError:  # built in
            return
        try:
            signature.bind(1, None)
            return
        except TypeError as error:
            advice = f"Its `sample{signature}` does not take these arguments: {error}."
    raise SettingsError(
        f"Expected {what} as an object with `sample(num_tasks, generator)`, got "
        f"{short_repr(source, 60)} ({type(source).__name__}). {advice}"
    )


@runtime_checkable
class TaskDistribution(Protocol):
    """Interface of a distribution over tasks; `check_task_distribution` checks implementations.

    A distribution whose `sample` depends on nothing but its arguments and reads no value of a
    tensor in Python may say so by an attribute `samples_on_device = True`: on a GPU, training then
    samples by a CUDA graph.

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
        ...         return self  # slopes are continuous: no task is sampled twice
        >>> check_task_distribution(Lines())
    """

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Samples a batch of tasks, with all tensors on the generator's device.

        Args:
            num_tasks: Number of tasks to sample, at least 1.
            generator: The only source of randomness; the same state yields the same tasks.
        """
        ...

    def split(self, name: Split) -> TaskDistribution:
        """Returns the distribution over the tasks of one split; the splits are disjoint."""
        ...


def check_split(name: str) -> Split:
    """Checks that `name` is one of `SPLITS` and returns it.

    Raises:
        SettingsError: If `name` is not a split.
    """
    check_choice("split", name, SPLITS)
    return name  # pyright: ignore[reportReturnType]


def check_sampling(num_tasks: int, generator: torch.Generator) -> None:
    """Checks the arguments of `sample`.

    Raises:
        SettingsError: `num_tasks` is below 1, or `generator` is no generator, but a seed.
    """
    if check_int("num_tasks", num_tasks, ANY_INT) < 1:
        raise SettingsError(f"Expected at least 1 task, got {num_tasks}.")
    check_generator(generator)
