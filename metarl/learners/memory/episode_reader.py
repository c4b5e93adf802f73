"""A learner of few-shot episodes that reads the support set, then each query, as a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.adaptation.learner import MetaLoss, SupervisedLearner
from metarl.adaptation.metric import Metric
from metarl.learners.class_labels import check_equal_shots, check_way, memberships
from metarl.learners.images.embeddings import Embedding
from metarl.learners.images.layers import Moments, absorb_moments, moments_by_name
from metarl.learners.memory.sequences import SequenceNetwork
from metarl.learners.padding import noise_option, refuse_mask, refuse_padding
from metarl.models.described import described
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import (
    check_queries,
    checked_examples,
    checked_tasks,
    join_inputs,
    parameter_type,
)
from metarl.tasks.losses import cross_entropy
from metarl.tasks.metrics import MetricFunction
from metarl.trees import map_tensors


@dataclass(frozen=True)
class EpisodeInputs:
    """Inputs of one meta-iteration of an `EpisodeReader`; dimension 0 of every tensor is the task.

    Attributes:
        tasks: Support and query set of each task.
        order: Order in which the support set of each task is read, a permutation [T, N], int64.
        noise: What dropout draws in the embedding, [T, *]; None for embeddings without.
    """

    tasks: TaskBatch
    order: Tensor
    noise: Tensor | None = None


class Recollection(NamedTuple):
    """The state of an `EpisodeReader` after it has read the support set.

    Attributes:
        state: The state of the network; dimension 0 of every tensor is the task.
        label: The label of the last example, one-hot, [T, way].
    """

    state: Any
    label: Tensor


@described
class EpisodeReader(SupervisedLearner):
    """A sequence network that reads episodes in the way of Santoro et al. 2016.

    It reads the support set in a random order. The input of a step is an image and the label of
    the previous image. Each query is one more step from the state after the support set, so
    queries do not affect each other, and predictions are never transductive. The loss is the mean
    over all steps, as for streams: with the loss of the queries alone, training does not leave
    its starting point. The number of adaptation steps has no effect.

    Args:
        embedding: Maps images to features.
        network: Takes the features and the previous label, `way` numbers; has `way` outputs.
        way: Number of classes per task.
        metric: The metric: a name of `METRICS` or a function; None: the accuracy.
    """

    transduces = False
    stores_in_buffers = True

    def __init__(
        self,
        embedding: Embedding,
        network: SequenceNetwork,
        way: int,
        *,
        metric: str | MetricFunction | None = None,
    ) -> None:
        super().__init__()
        self.measure = Metric(metric)
        self.embedding = embedding
        self.network = network
        self.way = way

    # Training

    def collect(
        self, tasks: TaskBatch, generator: torch.Generator, iteration: int
    ) -> EpisodeInputs:
        """Draws the order in which the support sets are read, and what dropout needs.

        Raises:
            TaskError: The targets are not labels of `way` classes, or a support set lacks a
                class, has unequal shots or is too long for the memory.
        """
        del iteration
        tasks = checked_tasks(tasks, parameter_type(self))
        refuse_padding(self, tasks.support, tasks.query)
        check_way(self.way, tasks.support.targets, tasks.query.targets)
        order = self._draw_order(tasks.support, generator)
        return EpisodeInputs(tasks, order, self.embedding.started(tasks.query.inputs, generator))

    def forward(self, inputs: EpisodeInputs) -> MetaLoss:
        support, query = inputs.tasks.support, inputs.tasks.query
        moments = Moments()
        count = support.targets.shape[1]
        images = join_inputs(support.inputs, query.inputs)
        features = self.embedding(images, moments, **noise_option(inputs.noise))
        labels = memberships(support, self.way)
        support_outputs, memory = self._read_support(features[:, :count], labels, inputs.order)
        outputs = self._query_logits(memory, features[:, count:])
        targets = torch.cat((support.targets.gather(1, inputs.order), query.targets), dim=1)
        losses = cross_entropy(torch.cat((support_outputs, outputs), dim=1), targets)
        tag = f"train/{self.measure.name(query.targets)}"
        metrics = {tag: self.measure.train(outputs, query, inputs.tasks)}
        return MetaLoss(losses, metrics, moments_by_name(self, moments))

    def after_update(self, carry: dict[str, Any]) -> None:
        """Updates the running moments of the batch normalisation."""
        absorb_moments(self, carry)

    # Evaluation

    @torch.no_grad()
    def adapt(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Iterator[Recollection]:
        """Yields the state after the support set `steps + 1` times.

        Raises:
            TaskError: The targets are not labels of `way` classes, or a support set lacks a
                class, has unequal shots or is too long for the memory.
        """
        support = checked_examples(support, parameter_type(self))
        refuse_padding(self, support)
        check_way(self.way, support.targets)
        order = self._draw_order(support, generator)
        memory = self.recollection(support.inputs, memberships(support, self.way), order)
        for _ in range(steps + 1):
            yield memory

    def recollection(self, inputs: Tensor, labels: Tensor, order: Tensor) -> Recollection:
        """Returns the state after the support set; reads no value of a tensor in Python.

        Args:
            inputs: The support inputs, [T, N, *input].
            labels: Their one-hot labels, [T, N, way].
            order: The order in which they are read, a permutation [T, N], int64.
        """
        return self._read_support(self.embedding(inputs, None), labels, order)[1]

    @torch.no_grad()
    def predict(
        self,
        adapted: Recollection,
        inputs: Tensor,
        transductive: bool = False,
        *,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Returns logits [T, N, way]. `transductive` has no effect: queries are independent."""
        del transductive, weights
        refuse_mask(self, mask)
        check_queries(inputs, parameter_type(self))
        return self._query_logits(adapted, self.embedding(inputs, None))

    # Helpers

    def _draw_order(self, support: Examples, generator: torch.Generator) -> Tensor:
        check_equal_shots(support, self.way)
        shape = support.targets.shape
        self.network.check_length(shape[1] + 1)  # plus 1 step for a query
        return torch.rand(shape, generator=generator, device=generator.device).argsort(1)

    def _read_support(
        self, features: Tensor, labels: Tensor, order: Tensor
    ) -> tuple[Tensor, Recollection]:
        """Returns the outputs [T, N, way], each before its label is read, and the final state."""
        rows = torch.arange(len(order), device=order.device).unsqueeze(1)
        features, labels = features[rows, order], labels[rows, order]
        # the input of step t: (x_t, y_{t-1}), with y_0 = 0  (Santoro et al. 2016, section 2)
        previous_labels = F.pad(labels[:, :-1], (0, 0, 1, 0))
        outputs, state = self.network.run(torch.cat((features, previous_labels), dim=2))
        return outputs, Recollection(state, labels[:, -1])

    def _query_logits(self, memory: Recollection, features: Tensor) -> Tensor:
        """Returns the logits [T, N, way] of queries, each read from a copy of the state."""
        tasks, count = features.shape[:2]
        label = memory.label.unsqueeze(1).expand(-1, count, -1)
        encoded = self.network.encode(torch.cat((features, label), dim=2)).flatten(0, 1)
        copies = map_tensors(lambda t: t.repeat_interleave(count, dim=0), memory.state)
        outputs, _ = self.network.step(encoded, copies)
        return outputs.view(tasks, count, self.way)
