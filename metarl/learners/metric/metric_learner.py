"""The one learner behind every algorithm that adapts by comparing."""

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
from metarl.tasks.losses import accuracy

IMAGES_AT_ONCE = 200
"""More on a CPU, and its allocator gives back memory that the next chunk has to ask for again."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Changes images at random, with the generator as its only source of randomness."""


@dataclass(frozen=True)
class MetricInputs:
    """All that one meta-iteration of a metric learner computes on; the tasks lead every tensor.

    Attributes:
        tasks: Support and query of each task.
        way: Classes of each task.
        order: A permutation of the support of each task, [T, N], for comparisons that read it as
            a sequence.
    """

    tasks: TaskBatch
    way: int
    order: Tensor | None = None


class MetricLearner(SupervisedLearner):
    """An embedding and a comparison: it adapts by embedding the support set, without a gradient.

    More adaptation steps change nothing. Batch normalisation uses the moments of each episode in
    training and the running ones at evaluation, so predictions are never transductive.

    Args:
        embedding: Maps images to features.
        comparison: Scores the classes of the support set for embedded queries.
        augment: Changes the images [T, N, C, H, W] of training at random; None: as they are.
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
        """See `Learner.collect`.

        Raises:
            TaskError: The targets are no class labels, or a support set lacks a class.
        """
        del iteration
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
        """See `Learner.forward`."""
        support, query = inputs.tasks.support, inputs.tasks.query
        moments: Moments = {}
        count = support.targets.shape[1]
        images = torch.cat((support.inputs, query.inputs), dim=1)
        features = self.embedding(images, moments)
        known = Reference(features[:, :count], memberships(support, inputs.way))
        reference = self.comparison.condense(known, inputs.order)
        outputs = self.comparison(reference, features[:, count:], moments)
        losses = self.comparison.loss(outputs, query.targets)
        metrics = {"train/accuracy": accuracy(outputs.detach(), query.targets)}
        return MetaLoss(losses, metrics, moments_by_name(self, moments))

    def preferred_chunk_size(self, inputs: MetricInputs) -> int | None:
        """See `Learner.preferred_chunk_size`: on a CPU those of 200 images, or one."""
        tasks = inputs.tasks
        if tasks.support.inputs.device.type != "cpu":
            return None
        count = tasks.support.targets.shape[1] + tasks.query.targets.shape[1]
        return max(1, IMAGES_AT_ONCE // count)

    def after_update(self, carry: dict[str, Any]) -> None:
        """See `Learner.after_update`; takes up the batch-norm moments."""
        absorb_moments(self, carry)

    # Evaluation

    @torch.no_grad()
    def adapt(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Iterator[Reference]:
        """See `SupervisedLearner.adapt`; yields the same for every step.

        Supports may have more examples of one class than of another, not none.

        Raises:
            TaskError: The targets are no class labels, or a support set lacks a class.
        """
        way = count_classes(support.targets)
        check_classes(support, way)
        order = self._draw_order(support, generator)
        known = Reference(self.embedding(support.inputs, None), memberships(support, way))
        reference = self.comparison.condense(known, order)
        for _ in range(steps + 1):
            yield reference

    @torch.no_grad()
    def predict(self, adapted: Reference, inputs: Tensor, transductive: bool = True) -> Tensor:
        """See `SupervisedLearner.predict`; each query is on its own either way."""
        del transductive
        return self.comparison(adapted, self.embedding(inputs, None), None)

    # Parts

    def _draw_order(self, support: Examples, generator: torch.Generator) -> Tensor | None:
        if not self.comparison.ordered:
            return None
        shape, device = support.targets.shape, generator.device
        return torch.rand(shape, generator=generator, device=device).argsort(1)
