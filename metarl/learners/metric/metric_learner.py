"""The learner of all metric-based algorithms: an embedding and a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import MetaLoss, SupervisedLearner, check_adapted
from metarl.adaptation.metric import Metric
from metarl.errors import ShapeError, TaskError
from metarl.learners.class_labels import check_classes, count_classes, memberships
from metarl.learners.images.embeddings import Embedding
from metarl.learners.images.layers import Moments, absorb_moments, moments_by_name
from metarl.learners.metric.comparison_check import check_comparison
from metarl.learners.metric.comparisons import Comparison, Reference
from metarl.learners.padding import joined_mask, joined_weights, mask_option, noise_option
from metarl.models.described import described
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import (
    check_queries,
    checked_examples,
    checked_tasks,
    join_inputs,
    parameter_type,
)
from metarl.tasks.metrics import MetricFunction

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
        noise: What dropout draws in the embedding, [T, *]; None for embeddings without.
    """

    tasks: TaskBatch
    way: int
    order: Tensor | None = None
    noise: Tensor | None = None


@described
class MetricLearner(SupervisedLearner):
    """Embeds the support set and compares embedded queries with it.

    Adaptation needs no gradient, so the number of adaptation steps has no effect. Batch
    normalisation uses the moments of each episode in training and the running moments in
    evaluation, so predictions are never transductive.

    Args:
        embedding: Maps images to features.
        comparison: Scores the classes of the support set for embedded queries.
        augment: Augments the training images [T, N, C, H, W]; None: no augmentation.
        metric: The metric: a name of `METRICS` or a function; None: the accuracy.
    """

    transduces = False
    stores_in_buffers = True

    def __init__(
        self,
        embedding: Embedding,
        comparison: Comparison,
        augment: Augment | None = None,
        *,
        metric: str | MetricFunction | None = None,
    ) -> None:
        super().__init__()
        self.measure = Metric(metric)
        self.embedding = embedding
        self.comparison = comparison
        self.augment = augment
        self._checked = False

    # Training

    def collect(self, tasks: TaskBatch, generator: torch.Generator, iteration: int) -> MetricInputs:
        """Augments the images and draws the order in which the support set is read.

        Raises:
            TaskError: The targets are not class labels, a support set lacks a class, or there is
                one class alone.
            ShapeError: The embedding has no use for the weights or the mask of the examples.
        """
        del iteration
        tasks = checked_tasks(tasks, parameter_type(self))
        self.check_padding(tasks)
        way = count_classes(tasks.support.targets, tasks.query.targets)
        check_classes(tasks.support, way)
        if way == 1:
            raise TaskError(
                "Expected tasks of at least 2 classes for training, got 1: any query is of this "
                "class, which trains nothing. Raise `way`."
            )
        if self.augment is not None:
            support, query = (
                examples._replace(inputs=self.augment(examples.inputs, generator))
                for examples in (tasks.support, tasks.query)
            )
            tasks = TaskBatch(support, query, tasks.info)
        order = self._draw_order(tasks.support, generator)
        noise = self.embedding.started(tasks.query.inputs, generator, tasks.query.mask)
        inputs = MetricInputs(tasks, way, order, noise)
        if not self._checked:
            check_comparison(self, self.embedding, self.comparison, inputs)
            self._checked = True
        return inputs

    def forward(self, inputs: MetricInputs) -> MetaLoss:
        support, query = inputs.tasks.support, inputs.tasks.query
        moments = Moments(joined_weights(inputs.tasks))
        count = support.targets.shape[1]
        images = join_inputs(support.inputs, query.inputs)
        noise = noise_option(inputs.noise)
        features = self._embed(images, moments, joined_mask(inputs.tasks), **noise)
        members = memberships(support, inputs.way).to(features.dtype)  # of tokens: integers
        support_set = Reference(features[:, :count], members, support.weights)
        reference = self.comparison.condense(support_set, inputs.order)
        outputs = self.comparison(reference, features[:, count:], moments)
        if query.weights is None:
            losses = self.comparison.loss(outputs, query.targets)
        else:
            losses = self.comparison.loss(outputs, query.targets, query.weights)
        tag = f"train/{self.measure.name(query.targets)}"
        metrics = {tag: self.measure.train(outputs.detach(), query, inputs.tasks)}
        return MetaLoss(losses, metrics, moments_by_name(self, moments))

    def preferred_chunk_size(self, inputs: MetricInputs) -> int | None:
        """Returns the number of tasks with 200 images together (at least 1) on a CPU, else None."""
        tasks = inputs.tasks
        if tasks.support.inputs.device.type != "cpu":
            return None
        count = tasks.support.targets.shape[1] + tasks.query.targets.shape[1]
        return max(1, IMAGES_AT_ONCE // count)

    def use_bfloat16(self) -> None:
        self.embedding.use_bfloat16()

    def after_update(self, carry: dict[str, Any]) -> None:
        """Updates the running moments of the batch normalisation."""
        absorb_moments(self, carry)

    def notes(self) -> list[str]:
        """Returns how an ordinary module runs as the embedding."""
        return self.embedding.notes()

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
        reference = self.reference(support, memberships(support, way), order)
        for _ in range(steps + 1):
            yield reference

    def reference(self, support: Examples, members: Tensor, order: Tensor | None) -> Reference:
        """Returns what queries are compared with; reads no value of a tensor in Python.

        Args:
            support: The support set of each task.
            members: Its one-hot labels times its weights, [T, N, way].
            order: A permutation of each support set, [T, N], int64, if the comparison is ordered.
        """
        features = self._embed(support.inputs, None, support.mask)
        members = members.to(features.dtype)
        return self.comparison.condense(Reference(features, members, support.weights), order)

    @torch.no_grad()
    def predict(
        self,
        adapted: Reference,
        inputs: Tensor,
        transductive: bool = False,
        *,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Returns scores [T, N, way]. `transductive` has no effect: queries are independent."""
        del transductive, weights
        check_adapted(adapted, Reference)
        check_queries(inputs, parameter_type(self))
        return self.comparison(adapted, self._embed(inputs, None, mask), None)

    # Helpers

    def _embed(
        self, inputs: Tensor, moments: Moments | None, mask: Tensor | None, **noise: Tensor
    ) -> Tensor:
        options = {**mask_option(self.embedding, mask), **noise}
        features = self.embedding(inputs, moments, **options)
        if not features.is_floating_point():
            raise ShapeError(
                f"Expected features of real numbers, got {features.dtype}. Convert the inputs "
                "(`inputs.float()`, for bytes of images / 255), or what the network returns."
            )
        return features

    def check_padding(self, tasks: TaskBatch) -> None:
        """Raises ShapeError for weights that the embedding would not respect in training."""
        if joined_weights(tasks) is not None and not self.embedding.respects_weights:
            raise ShapeError(
                f"The examples have weights, and {type(self.embedding).__name__} does not say that "
                "examples of weight 0 leave the features of the others unchanged. Set its "
                "attribute `respects_weights` if they do, or use tasks with as many examples each."
            )

    def _draw_order(self, support: Examples, generator: torch.Generator) -> Tensor | None:
        if not self.comparison.ordered:
            return None
        shape, device = support.targets.shape, generator.device
        return torch.rand(shape, generator=generator, device=device).argsort(1)
