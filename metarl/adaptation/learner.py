"""What a learner is: the meta-loss that training uses and the verbs that evaluation uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl.adaptation.update_rules import State
from metarl.models.base import Params, Statistics
from metarl.tasks.base import Examples, TaskBatch


@dataclass(frozen=True)
class MetaInputs:
    """All that one meta-iteration computes on; every tensor has the tasks leading.

    Attributes:
        tasks: Support and query of each task.
        batches: Indices of the support examples of each step, [T, steps, batch], or None for all.
        weights: Weight of the query loss after 0..K steps, [T, K + 1], the same for all tasks;
            None where every one that counts is 1.
        query_steps: The numbers of steps after which the query loss counts.
        start: Parameters to adapt from, [T, *shape] per name, where they are not theta.
        state: The update rule's state to go on from, or None for a fresh one.
    """

    tasks: TaskBatch
    batches: Tensor | None = None
    weights: Tensor | None = None
    query_steps: tuple[int, ...] = ()
    start: Params | None = None
    state: State | None = None


class MetaLoss(NamedTuple):
    """What a learner gives for a batch of tasks.

    Attributes:
        losses: The outer objective of each task, [T]; their mean is minimised.
        metrics: TensorBoard tag -> value per task, [T], detached.
        carry: What the learner's `after_update` takes over; tensors detached, tasks leading.
    """

    losses: Tensor
    metrics: dict[str, Tensor]
    carry: dict[str, Any]


@dataclass
class Adapted:
    """A gradient-based learner after some adaptation, on T tasks.

    Attributes:
        params: The parameters of each task, [T, *shape] per name.
        support: The inputs it adapted on, [T, N, *input].
        statistics: Batch-norm statistics of the episode, for learners that keep them.
    """

    params: Params
    support: Tensor
    statistics: Statistics | None = field(default=None)


class Learner(nn.Module, ABC):
    """Interface of everything that adapts to a task and is trained over tasks.

    Training calls `collect` (draws all randomness, rollouts included), `forward` (pure: chunks of
    tasks may go through it one by one, and it may be compiled) and `after_update` (after the outer
    update). Evaluation goes by the kind of task: see `SupervisedLearner` and `ControlLearner`.
    """

    @abstractmethod
    def collect(self, tasks: Any, generator: torch.Generator, iteration: int) -> Any:
        """Draws what a meta-iteration needs beside its tasks.

        Args:
            tasks: What the task distribution sampled: T tasks.
            generator: The only source of randomness.
            iteration: Meta-iterations done so far.

        Returns:
            The inputs of `forward`: a dataclass with a field `tasks` whose tensors all have the
            tasks leading.
        """

    @abstractmethod
    def forward(self, inputs: Any) -> MetaLoss:
        """Computes the outer objective of each task, differentiable in all parameters."""

    def preferred_chunk_size(self, inputs: Any) -> int | None:
        """Returns how many tasks go through `forward` quickest at once; None: all of them."""
        del inputs
        return None

    def after_update(self, carry: dict[str, Any]) -> None:
        """Takes over what passes from one meta-iteration to the next."""
        del carry

    def extra_state(self) -> dict[str, Any]:
        """Returns what a resumed run needs beside parameters and buffers: plain nested tensors."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back what `extra_state` returned."""
        del state


class SupervisedLearner(Learner):
    """Interface of learners that adapt on a support set and predict on queries.

    Attributes:
        transduces: Whether `predict` can let queries share batch-norm statistics. If not, its
            `transductive` changes nothing and no result counts as transductive.
    """

    transduces: bool = True

    @abstractmethod
    def collect(self, tasks: TaskBatch, generator: torch.Generator, iteration: int) -> Any:
        """See `Learner.collect`."""

    @abstractmethod
    def adaptation(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Iterator[Any]:
        """Yields what `predict` takes after 0..steps adaptation steps on the support of T tasks.

        `Adapted` for learners that adapt by gradients; learners that do not yield the same thing
        for every step.
        """

    @abstractmethod
    def predict(self, adapted: Any, inputs: Tensor, transductive: bool = True) -> Tensor:
        """Predicts on query inputs [T, N, *input] of the tasks that it adapted to.

        Args:
            adapted: What `adaptation` yielded.
            inputs: Query inputs.
            transductive: Whether queries may share batch-norm statistics with each other. If not,
                each query is normalised with the support set and itself alone, or with the
                running statistics of the episode where the learner keeps them.
        """


class ControlLearner(Learner):
    """Interface of learners that adapt on rollouts and are judged by their returns.

    Attributes:
        environment_steps: How many training has taken so far, those of adaptation included.
    """

    environment_steps: int = 0

    @property
    def adaptation_cost(self) -> int:
        """Environment steps that an adaptation step takes of each task; 0 where none is told.

        Episodes that end early take fewer.
        """
        return 0

    @abstractmethod
    def returns(self, tasks: Any, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yields the undiscounted return of each task, [T], after 0..steps adaptation steps.

        Args:
            tasks: What the family sampled: T tasks.
            steps: Adaptation steps, at least 0.
            generator: Source of all randomness in the rollouts.
        """


class StreamLearner(Learner):
    """Interface of learners that meet a task example by example, each before its label."""

    @abstractmethod
    def accuracies(
        self, tasks: TaskBatch, steps: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yields the accuracy on each task, [T], on what comes after 0..steps of its class.

        Args:
            tasks: Streams, see `metarl.tasks.streams`: support and query are the same.
            steps: Earlier instances of the class, at least 0.
            generator: Source of all that a learner draws.
        """
