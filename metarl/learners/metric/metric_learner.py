"""The learner of all metric-based algorithms: an embedding and a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import MetaLoss, SupervisedLearner
from metarl.learners.class_labels import check_classes, count_classes, memberships
from metarl.learners.images.embeddings import Embedding
from metarl.learners.images.layers import Moments, absorb_moments, moments_by_name
from metarl.learners.metric.comparisons import Comparison, Reference
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import (
    check_inputs,
    checked_examples,
    checked_tasks,
    join_inputs,
    parameter_type,
)
from metarl.tasks.losses import accuracy

IMAGES_AT_ONCE = 200
"""Images per chunk on a CPU. With more, the allocator frees memory that the next chunk requests."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Augments images at random. The generator is the only source of randomness."""


@dataclass(frozen=True)
class MetricInputs:
    """Inputs of one meta-iteration of a metric learner; dimension 0 of every tensor is the task.

    Attributes:
        tasks: Support and query set of each task.
        way: Number of classes per task.
        order: A permutation of the support set of each task, [T, N], int64, for comparisons that
            read it as a sequence; None for the others.
    """

    tasks: TaskBatch
    way: int
    order: Tensor | None = None


class MetricLearner(SupervisedLearner):
    """Embeds the support set and compares embedded queries with it.

    Adaptation needs no gradient, so the number of adaptation steps has no effect. Batch
    normalisation uses the moments of each episode in training and the running moments in
    evaluation, so predictions are never transductive.

    Args:
        embedding: Maps images to features.
        comparison: Scores the classes of the support set for embedded queries.
        augment: Augments the training images [T, N, C, H, W]; None: no augmentation.
    """

    transduces = False

    def __init__(
        self, embedding: Embedding, comparison: Comparison, augment: Augment | None = None
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.comparison = comparison
        self.augment = augment

    # Training

    def collect(self, tasks: TaskBatch, generator: torch.Generator, iteration: int) -> MetricInputs:
        """Augments the images and draws the order in which the support set is read.

        Raises:
            TaskError: The targets are not class labels, or a support set lacks a class.
        """
        del iteration
        tasks = checked_tasks(tasks, parameter_type(self))
        way = count_classes(tasks.support.targets, tasks.query.targets)
        check_classes(tasks.support, way)
        if self.augment is not None:
            support, query = (
                examples._replace(inputs=self.augment(examples.inputs, generator))
                for examples in (tasks.support, tasks.query)
            )
            tasks = TaskBatch(support, query, tasks.info)
        return MetricInputs(tasks, way, self._draw_order(tasks.support, generator))

    def forward(self, inputs: MetricInputs) -> MetaLoss:
        support, query = inputs.tasks.support, inputs.tasks.query
        moments: Moments = {}
        count = support.targets.shape[1]
        images = join_inputs(support.inputs, query.inputs)
        features = self.embedding(images, moments)
        support_set = Reference(features[:, :count], memberships(support, inputs.way))
        reference = self.comparison.condense(support_set, inputs.order)
        outputs = self.comparison(reference, features[:, count:], moments)
        losses = self.comparison.loss(outputs, query.targets)
        metrics = {"train/accuracy": accuracy(outputs.detach(), query.targets)}
        return MetaLoss(losses, metrics, moments_by_name(self, moments))

    def preferred_chunk_size(self, inputs: MetricInputs) -> int | None:
        """Returns the number of tasks with 200 images together (at least 1) on a CPU, else None."""
        tasks = inputs.tasks
        if tasks.support.inputs.device.type != "cpu":
            return None
        count = tasks.support.targets.shape[1] + tasks.query.targets.shape[1]
        return max(1, IMAGES_AT_ONCE // count)

    def after_update(self, carry: dict[str, Any]) -> None:
        """Updates the running moments of the batch normalisation."""
        absorb_moments(self, carry)

    # Evaluation

    @torch.no_grad()
    def adapt(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Iterator[Reference]:
        """Yields the embedded support set `steps + 1` times.

        Classes may have different numbers of support examples, at least one each.

        Raises:
            TaskError: The targets are not class labels, or a support set lacks a class.
        """
        support = checked_examples(support, parameter_type(self))
        way = count_classes(support.targets)
        check_classes(support, way)
        order = self._draw_order(support, generator)
        support_set = Reference(self.embedding(support.inputs, None), memberships(support, way))
        reference = self.comparison.condense(support_set, order)
        for _ in range(steps + 1):
            yield reference

    @torch.no_grad()
    def predict(self, adapted: Reference, inputs: Tensor, transductive: bool = False) -> Tensor:
        """Returns scores [T, N, way]. `transductive` has no effect: queries are independent."""
        del transductive
        check_inputs(inputs, parameter_type(self))
        return self.comparison(adapted, self.embedding(inputs, None), None)

    # Helpers

    def _draw_order(self, support: Examples, generator: torch.Generator) -> Tensor | None:
        if not self.comparison.ordered:
            return None
        shape, device = support.targets.shape, generator.device
        return torch.rand(shape, generator=generator, device=device).argsort(1)
