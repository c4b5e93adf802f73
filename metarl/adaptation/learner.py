"""The interface of learners: what training calls, and how a learner evaluates itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl.adaptation.loss_function import Outputs
from metarl.adaptation.metric import Metric
from metarl.adaptation.update_rules import State
from metarl.errors import SettingsError
from metarl.models.base import Params, Statistics
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import checked_tasks, parameter_type
from metarl.trees import map_tensors


@dataclass(frozen=True)
class MetaInputs:
    """The inputs of one meta-iteration; the task dimension leads every tensor.

    Attributes:
        tasks: Support and query of each task.
        batches: Indices of the support examples of each step, [T, steps, batch], or None for all.
        weights: Weight of the query loss after 0..K steps, [T, K + 1], the same for all tasks;
            None if all weights are 0 or 1.
        query_steps: The numbers of steps after which the query loss counts.
        start: Initial parameters, [T, *shape] per name; None for theta.
        state: Initial state of the update rule; None for a fresh one.
        noise: What dropout draws, [T, *], from `Model.draw_noise`; None for networks without.
    """

    tasks: TaskBatch
    batches: Tensor | None = None
    weights: Tensor | None = None
    query_steps: tuple[int, ...] = ()
    start: Params | None = None
    state: State | None = None
    noise: Tensor | None = None


class MetaLoss(NamedTuple):
    """The result of `Learner.forward` for a batch of tasks.

    Attributes:
        losses: The outer objective of each task, [T]; the outer loop minimises their mean.
        metrics: TensorBoard tag -> value per task, [T], detached.
        carry: The argument of `Learner.after_update`; tensors detached, tasks leading.
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
        weights: Weights of the examples it adapted on, [T, N], or None.
        mask: Their mask, [T, N, L], or None.
    """

    params: Params
    support: Tensor
    statistics: Statistics | None = field(default=None)
    weights: Tensor | None = None
    mask: Tensor | None = None


def check_adapted(adapted: object, kind: type) -> None:
    """Raises SettingsError unless a value is what `adapt` yields after a step."""
    if not isinstance(adapted, kind):
        given = f"a {type(adapted).__name__}" if adapted is not None else "None"
        raise SettingsError(
            f"Expected what `adapt` yields after a step, {kind.__name__}, got {given}. Take the "
            "last one: *_, adapted = learner.adapt(support, steps, generator)."
        )


class Learner(nn.Module, ABC):
    """Interface of everything that adapts to a task and is trained over tasks.

    Training calls `collect` (draws all randomness, rollouts included), `forward` (pure: chunks of
    tasks may pass through it one by one, and it may be compiled) and, after the outer update,
    `after_update`. Evaluation calls `evaluate`.

    Attributes:
        transduces: Whether queries can share batch-norm statistics in an evaluation.
        environment_steps: Environment steps that training has taken so far, those of adaptation
            included; None where tasks have no environment.
        collects_own: Whether `collect` returns the inputs of this rank's tasks only
            (`metarl.ranks.own`); if not, training takes them from those of all tasks.
        stores_in_buffers: Whether `after_update` changes nothing but buffers. Training on a GPU
            then does not wait in every iteration for the check that all numbers are finite: it can
            undo the change later.
    """

    collects_own: bool = False
    transduces: bool = True
    environment_steps: int | None = None
    stores_in_buffers: bool = False

    @abstractmethod
    def collect(self, tasks: Any, generator: torch.Generator, iteration: int) -> Any:
        """Draws the inputs of one meta-iteration.

        Args:
            tasks: T tasks, as the task distribution samples them.
            generator: The only source of randomness.
            iteration: Meta-iterations done so far.

        Returns:
            The argument of `forward`: a dataclass with a field `tasks`, in which the task
            dimension leads every tensor.
        """

    @abstractmethod
    def forward(self, inputs: Any) -> MetaLoss:
        """Computes the outer objective of each task, differentiable in all parameters."""

    def preferred_chunk_size(self, inputs: Any) -> int | None:
        """Returns how many tasks `forward` processes fastest at once; None for all of them."""
        del inputs
        return None

    def after_update(self, carry: dict[str, Any]) -> None:
        """Stores what one meta-iteration passes on to the next.

        Args:
            carry: `MetaLoss.carry` of all tasks.
        """
        del carry

    def use_bfloat16(self) -> None:
        """Makes training compute convolutions in bfloat16, for learners where this is safe.

        Raises:
            SettingsError: It is not known to be safe for this learner.
        """
        raise SettingsError(
            "`--training.precision bfloat16` is for metric learners with convolutions "
            "(prototypical, matching, relation and reconstruction networks, the classifier); got a "
            f"{type(self).__name__}. Inner steps and memories repeat the rounding to 8 bits, and "
            "their gradients contain its derivative. Train in float32; on a GPU, "
            "`--training.matmul-precision high` has 10 bits."
        )

    def notes(self) -> list[str]:
        """Returns lines that a training shows after its first iteration."""
        return []

    def extra_state(self) -> dict[str, Any]:
        """Returns the state that a resumed run needs in addition to parameters and buffers.

        Nested dicts and lists of tensors, numbers and strings.
        """
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restores the state that `extra_state` returned."""
        del state

    def performance(self) -> dict[str, float]:
        """Returns further scalars of the training for the log, by TensorBoard tag."""
        return {}

    @abstractmethod
    def metric(self, tasks: Any) -> str:
        """Returns the name of what `evaluate` measures on such tasks: "mse", "return", ..."""

    @abstractmethod
    def evaluate(
        self, tasks: Any, steps: int, generator: torch.Generator, *, last_only: bool = False
    ) -> Iterator[Tensor]:
        """Yields the metric of each task, [T], after 0, 1, ..., `steps` adaptation steps.

        Args:
            tasks: T tasks, as the task distribution samples them.
            steps: Adaptation steps, at least 0; may be more than in training.
            generator: Source of everything random in the adaptation.
            last_only: Evaluates after the last step only, and yields one value.
        """

    def evaluate_metrics(
        self,
        tasks: Any,
        steps: int,
        generator: torch.Generator,
        *,
        last_only: bool = False,
        **options: Any,
    ) -> Iterator[dict[str, Tensor]]:
        """Yields what `evaluate` yields by the name of the metric, and further metrics, [T] each.

        Args:
            tasks: See `evaluate`.
            steps: See `evaluate`.
            generator: See `evaluate`.
            last_only: See `evaluate`.
            **options: Further arguments of `evaluate`.
        """
        name = self.metric(tasks)
        for value in self.evaluate(tasks, steps, generator, last_only=last_only, **options):
            yield {name: value}


class SupervisedLearner(Learner):
    """Interface of learners that adapt on a support set and predict on queries.

    If a learner does not transduce, the argument `transductive` has no effect and no result counts
    as transductive.

    Attributes:
        measure: The metric of curves, tables and logs.
    """

    measure: Metric = Metric()

    @abstractmethod
    def collect(self, tasks: TaskBatch, generator: torch.Generator, iteration: int) -> Any: ...

    @abstractmethod
    def adapt(self, support: Examples, steps: int, generator: torch.Generator) -> Iterator[Any]:
        """Yields the argument of `predict` after 0, 1, ..., `steps` adaptation steps.

        Learners that adapt by gradients yield `Adapted`; the others yield the same value after
        every step.

        Args:
            support: Support examples of T tasks.
            steps: Adaptation steps, at least 0.
            generator: Source of everything random in the adaptation.
        """

    def adapt_to(self, tasks: TaskBatch, steps: int, generator: torch.Generator) -> Iterator[Any]:
        """Yields what `adapt` yields for the support set of tasks.

        Learners that need more of a task than its support set, from `tasks.info`, override it.
        """
        return self.adapt(tasks.support, steps, generator)

    @abstractmethod
    def predict(
        self,
        adapted: Any,
        inputs: Tensor,
        transductive: bool = False,
        *,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Outputs:
        """Predicts the targets of queries [T, N, *input] of the tasks adapted to.

        Args:
            adapted: A value that `adapt` yielded.
            inputs: Query inputs.
            transductive: Whether queries may share batch-norm statistics with each other. If not,
                as in a deployed classifier, the prediction of a query does not depend on the other
                queries: each is normalised with the support set and itself alone, or with the
                running statistics of the episode where the learner keeps them. Many published
                accuracies are transductive.
            weights: Weights of the queries, [T, N], 0 for padding rows; None: all 1. Predictions
                that share batch-norm statistics need them, the others ignore them.
            mask: True for the real elements of padded sequences, [T, N, L]; None without padding.

        Raises:
            ShapeError: There is a mask, and the network does not take one.
        """

    def metric(self, tasks: TaskBatch) -> str:
        return self.measure.name(tasks.query.targets)

    def evaluate(
        self,
        tasks: TaskBatch,
        steps: int,
        generator: torch.Generator,
        *,
        last_only: bool = False,
        transductive: bool = False,
    ) -> Iterator[Tensor]:
        """Yields the metric of each task on its queries; see `predict` for `transductive`.

        It is NaN for a task with outputs or targets that are not finite.

        Raises:
            TaskError: A label of the queries has no output.
            ShapeError: The metric does not suit outputs and targets.
        """
        tasks = checked_tasks(tasks, parameter_type(self), may_be_empty=True)
        checked, query = False, tasks.query
        padding = {"weights": query.weights, "mask": query.mask}
        padding = {name: value for name, value in padding.items() if value is not None}
        for step, adapted in enumerate(self.adapt_to(tasks, steps, generator)):
            if last_only and step < steps:
                continue
            outputs = self.predict(adapted, query.inputs, transductive, **padding)
            outputs = map_tensors(Tensor.detach, outputs)
            metric = self.measure.evaluate(outputs, query, tasks)
            if not checked:
                self.measure.check_labels(outputs, query.targets)
            checked = True
            yield metric
