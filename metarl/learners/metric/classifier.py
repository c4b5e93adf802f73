"""A baseline: nearest neighbour on the features of a classifier of all training classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import MetaLoss, SupervisedLearner
from metarl.adaptation.metric import Metric
from metarl.errors import SettingsError, TaskError
from metarl.learners.class_labels import count_classes
from metarl.learners.images.embeddings import Embedding
from metarl.learners.images.layers import Moments, absorb_moments, dense, moments_by_name
from metarl.learners.metric.comparisons import NearestNeighbour, Reference
from metarl.learners.metric.metric_learner import MetricLearner
from metarl.learners.padding import joined_mask, joined_weights, mask_option, noise_option
from metarl.models.described import described
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import checked_tasks, join_inputs, label_range, parameter_type
from metarl.tasks.losses import accuracy, cross_entropy
from metarl.tasks.metrics import MetricFunction

LABELS = "labels"


@dataclass(frozen=True)
class ClassifierInputs:
    """Inputs of one meta-iteration of a `FeatureClassifier`.

    Attributes:
        tasks: Support and query set of each task; the classifier is trained on both.
        labels: Index of each image's class among all training classes, support before query,
            [T, N], int64.
        noise: What dropout draws in the embedding, [T, *]; None for embeddings without.
    """

    tasks: TaskBatch
    labels: Tensor
    noise: Tensor | None = None


@described
class FeatureClassifier(SupervisedLearner):
    """Trains an ordinary classifier of all training classes, and compares its features.

    In evaluation, a query gets the class of the support image whose features have the largest
    cosine similarity with the query's (the baseline of Vinyals et al. 2016 and of Ravi &
    Larochelle 2017).

    Args:
        embedding: Maps images to features [T, N, D].
        features: Number of features, D.
        classes: Number of training classes; rotated classes count separately.
        generator: Source of the initial weights.
        metric: The metric of evaluations: a name of `METRICS` or a function; None: the accuracy.

    Raises:
        SettingsError: There are fewer than 2 classes.
    """

    transduces = False
    stores_in_buffers = True

    def __init__(
        self,
        embedding: Embedding,
        features: int,
        classes: int,
        generator: torch.Generator,
        *,
        metric: str | MetricFunction | None = None,
    ) -> None:
        super().__init__()
        self.measure = Metric(metric)
        if classes < 2:
            raise SettingsError(f"Expected at least 2 training classes, got {classes}.")
        self.neighbours = MetricLearner(embedding, NearestNeighbour())
        # The scale of the cosines does not change the predicted class, so it is not trained.
        self.neighbours.comparison.requires_grad_(False)
        self.head = dense(features, classes, generator)

    def collect(
        self, tasks: TaskBatch, generator: torch.Generator, iteration: int
    ) -> ClassifierInputs:
        """Looks up the index of every image's class among all training classes in `tasks.info`.

        Raises:
            TaskError: `tasks.info` has no indices, or too few, or one is not below the number of
                classes.
        """
        del iteration
        tasks = checked_tasks(tasks, parameter_type(self))
        self.neighbours.check_padding(tasks)
        targets = torch.cat((tasks.support.targets, tasks.query.targets), 1)
        way = count_classes(targets)
        if LABELS not in tasks.info:
            raise TaskError(
                f"A classifier of all classes needs info[{LABELS!r}], the number of each class of "
                "an episode among them, [T, way]. `FewShot` provides it; for other tasks, use a "
                "metric learner."
            )
        known = tasks.info[LABELS].long()
        if known.dim() != 2 or known.shape[1] < way:
            raise TaskError(
                f"Expected info[{LABELS!r}], a number for each of the {way} classes of an episode, "
                f"[T, {way}], got {list(known.shape)}."
            )
        labels = known.gather(1, targets)
        (low, high), classes = label_range(labels), self.head.out_features
        if low < 0 or high >= classes:
            raise TaskError(
                f"Expected labels of the {classes} training classes, got {low} to {high}; "
                "build the learner with the `num_classes` of the tasks that it trains on."
            )
        noise = self.neighbours.embedding.started(tasks.query.inputs, generator, tasks.query.mask)
        return ClassifierInputs(tasks, labels, noise)

    def forward(self, inputs: ClassifierInputs) -> MetaLoss:
        """Computes the cross-entropy of all images of each task."""
        weights = joined_weights(inputs.tasks)
        moments = Moments(weights)
        images = join_inputs(inputs.tasks.support.inputs, inputs.tasks.query.inputs)
        embedding = self.neighbours.embedding
        options = mask_option(embedding, joined_mask(inputs.tasks)) | noise_option(inputs.noise)
        outputs = self.head(embedding(images, moments, **options))
        metrics = {"train/accuracy": accuracy(outputs.detach(), inputs.labels, weights)}
        losses = cross_entropy(outputs, inputs.labels, weights)
        return MetaLoss(losses, metrics, moments_by_name(self, moments))

    def use_bfloat16(self) -> None:
        self.neighbours.embedding.use_bfloat16()

    def after_update(self, carry: dict[str, Any]) -> None:
        """Updates the running moments of the batch normalisation."""
        absorb_moments(self, carry)

    def adapt(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Iterator[Reference]:
        return self.neighbours.adapt(support, steps, generator)

    def predict(
        self,
        adapted: Reference,
        inputs: Tensor,
        transductive: bool = False,
        *,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        return self.neighbours.predict(adapted, inputs, transductive, weights=weights, mask=mask)
