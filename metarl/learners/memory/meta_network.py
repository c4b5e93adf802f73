"""Meta Networks (Munkhdalai & Yu 2017): fast weights from gradients on the support set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.adaptation.coordinates import unpack
from metarl.adaptation.learner import MetaLoss, SupervisedLearner
from metarl.adaptation.metric import Metric
from metarl.errors import SettingsError
from metarl.learners.class_labels import check_equal_shots, check_way, on_random_outputs
from metarl.learners.images.embeddings import ImageShape
from metarl.learners.memory.fast_weights import AugmentedNetwork, GradientMap, GradientReader
from metarl.learners.metric.comparisons import cosines
from metarl.learners.padding import refuse_mask, refuse_padding
from metarl.models.base import Params, task_params
from metarl.models.described import described
from metarl.ranges import Range, check_int, check_number
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import check_queries, checked_examples, checked_tasks, parameter_type
from metarl.tasks.losses import cross_entropy
from metarl.tasks.metrics import MetricFunction

MARGIN = 1.0  # m of the contrastive loss (Hadsell et al. 2006)


@dataclass(frozen=True)
class MetaNetworkInputs:
    """Inputs of one meta-iteration of a `MetaNetwork`; dimension 0 of every tensor is the task.

    Attributes:
        tasks: Support and query set of each task.
        chosen: Indices of the support examples of each embedding loss, in the order in which d
            reads the gradients: [T, E, 1], or [T, E, 2] for pairs; int64.
    """

    tasks: TaskBatch
    chosen: Tensor


class FastWeights(NamedTuple):
    """The memory of a `MetaNetwork` after adaptation to M support examples of T tasks.

    Attributes:
        embedding: Q*, the fast weights of the representation, one row per task, [T, P].
        keys: r'_i, the representation of each support example, [T, M, features].
        values: W*_i, the fast weights of the base network for each example, [T, M, P'].
    """

    embedding: Tensor
    keys: Tensor
    values: Tensor


@described
class MetaNetwork(SupervisedLearner):
    """A base network b and a representation u, both with fast weights (algorithm 1).

        Q* = d(G, {grad_Q loss_emb(u(Q, x'_e), y'_e)}_e)
        W*_i = m(Z, grad_W loss_task(b(W, x'_i), y'_i)),  r'_i = u(Q, Q*, x'_i)
        a = softmax(beta cos(r', u(Q, Q*, x))),  W* = sum_i a_i W*_i,  outputs b(W, W*, x)

    The inner gradients are constants: the meta-gradient does not flow through them. With one
    support example per class, the embedding loss of an example is the cross-entropy of u's output
    as logits, and d reads the examples in a random order. With more examples per class, it is the
    contrastive loss of random pairs, as many pairs as examples. All examples of all tasks form one
    batch. The number of adaptation steps has no effect.

    Args:
        images: Shape of the images.
        way: Number of classes per task.
        generator: Source of the initial weights.
        filters: Number of filters of each convolution.
        features: Width of the representation, at least `way`.
        units: Width of the layers of m and d.
        strength: Factor beta of the cosines, above 0; the paper has none. With 1, none of M
            support examples gets more than e^2 / (e^2 + M - 1) of the attention.
        train_way: Number of classes of a training task, at most `way`; None: `way`. Learning starts
            with few classes: on tasks of 20, it did not start at all.
        metric: The metric: a name of `METRICS` or a function; None: the accuracy.

    Raises:
        SettingsError: A number is not above 0, there are more classes than features, or more in
            training than at test.
    """

    transduces = False

    def __init__(
        self,
        images: ImageShape,
        way: int,
        generator: torch.Generator,
        filters: int = 64,
        features: int = 64,
        units: int = 20,
        *,
        strength: float = 1.0,
        train_way: int | None = None,
        metric: str | MetricFunction | None = None,
    ) -> None:
        super().__init__()
        self.measure = Metric(metric)
        if features < way:
            raise SettingsError(
                f"Expected a feature for each of {way} classes at least, got {features}."
            )
        self.way = way
        self.train_way = (
            way if train_way is None else check_int("train_way", train_way, Range(1, way))
        )
        self.strength = check_number("strength", strength)
        self.base = AugmentedNetwork(images, way, generator, filters)
        self.representation = AugmentedNetwork(images, features, generator, filters)
        self.gradient_map = GradientMap(generator, units)
        self.gradient_reader = GradientReader(generator, units)

    # Training

    def collect(
        self, tasks: TaskBatch, generator: torch.Generator, iteration: int
    ) -> MetaNetworkInputs:
        """Draws the support examples, or pairs, of the embedding losses.

        Raises:
            TaskError: The targets are not labels of `train_way` classes, or a support set lacks a
                class or has unequal shots.
        """
        del iteration
        tasks = checked_tasks(tasks, parameter_type(self))
        refuse_padding(self, tasks.support, tasks.query)
        check_way(self.train_way, tasks.support.targets, tasks.query.targets)
        chosen = self._draw_examples(tasks.support, self.train_way, generator)
        tasks = on_random_outputs(tasks, self.train_way, self.way, generator)
        return MetaNetworkInputs(tasks, chosen)

    def forward(self, inputs: MetaNetworkInputs) -> MetaLoss:
        query = inputs.tasks.query
        adapted = self.fast_weights(inputs.tasks.support, inputs.chosen)
        outputs = self._query_logits(adapted, query.inputs)
        losses = cross_entropy(outputs, query.targets)
        tag = f"train/{self.measure.name(query.targets)}"
        return MetaLoss(losses, {tag: self.measure.train(outputs, query, inputs.tasks)}, {})

    # Evaluation

    @torch.no_grad()
    def adapt(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Iterator[FastWeights]:
        """Yields the fast weights and keys `steps + 1` times.

        Raises:
            TaskError: The targets are not labels of `way` classes, or a support set lacks a class
                or has unequal shots.
        """
        support = checked_examples(support, parameter_type(self))
        refuse_padding(self, support)
        check_way(self.way, support.targets)
        chosen = self._draw_examples(support, self.way, generator)
        adapted = self.fast_weights(support, chosen)
        for _ in range(steps + 1):
            yield adapted

    @torch.no_grad()
    def predict(
        self,
        adapted: FastWeights,
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
        return self._query_logits(adapted, inputs)

    def fast_weights(self, support: Examples, indices: Tensor) -> FastWeights:
        """Returns the fast weights and keys (algorithm 1); reads no value of a tensor in Python.

        Args:
            support: The support set of each task.
            indices: Those of the examples of each embedding loss; see `MetaNetworkInputs.chosen`.
        """
        representation, base = self.representation, self.base
        tasks, count = support.targets.shape
        patches = representation.patches(support.inputs)
        embedding = self._embedding_weights(patches, support.targets, indices)
        # r'_i = u(Q, Q*, x'_i)
        keys = representation(patches, self._as_params(representation, embedding))
        examples = base.patches(support.inputs).flatten(0, 1).unsqueeze(1)
        labels = support.targets.reshape(-1, 1)
        # W*_i = m(Z, grad_W loss_task(b(W, x'_i), y'_i))
        gradients = base.gradients(examples, lambda outputs: cross_entropy(outputs, labels))
        values = self.gradient_map(gradients).view(tasks, count, -1)
        return FastWeights(embedding, keys, values)

    # Helpers

    def _draw_examples(self, support: Examples, way: int, generator: torch.Generator) -> Tensor:
        """Draws indices of support examples, [T, E, 1], or of pairs of examples, [T, E, 2]."""
        shots = check_equal_shots(support, way)
        count, options = support.targets.shape, {"generator": generator, "device": generator.device}
        first = torch.rand(count, **options).argsort(1)
        if shots == 1:
            return first.unsqueeze(2)
        offset = torch.randint(1, count[1], count, **options)  # never 0: two different examples
        return torch.stack((first, (first + offset) % count[1]), dim=2)

    def _embedding_weights(self, patches: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Returns the fast weights of the representation, Q*, [T, P]."""
        tasks, count, examples_per_loss = indices.shape
        rows = torch.arange(tasks, device=indices.device).view(-1, 1, 1)
        labels = labels[rows, indices].flatten(0, 1)
        loss = cross_entropy if examples_per_loss == 1 else contrastive
        # Q* = d(G, {grad_Q loss_emb(u(Q, x'_e), y'_e)}_e)
        gradients = self.representation.gradients(
            patches[rows, indices].flatten(0, 1), lambda outputs: loss(outputs, labels)
        )
        return self.gradient_reader(gradients.view(tasks, count, -1))

    def _query_logits(self, adapted: FastWeights, images: Tensor) -> Tensor:
        """Returns the logits [T, N, way] of query images [T, N, C, H, W]."""
        # a = softmax(beta cos(r', u(Q, Q*, x)))
        fast = self._as_params(self.representation, adapted.embedding)
        representations = self.representation(self.representation.patches(images), fast)
        attention = (self.strength * cosines(representations, adapted.keys)).softmax(2)
        # W* = sum_i a_i W*_i, one set of fast weights per query
        values = torch.bmm(attention, adapted.values).flatten(0, 1)
        # b(W, W*, x)
        examples = self.base.patches(images).flatten(0, 1).unsqueeze(1)
        outputs = self.base(examples, self._as_params(self.base, values))
        return outputs.view(*images.shape[:2], self.way)

    @staticmethod
    def _as_params(network: AugmentedNetwork, rows: Tensor) -> Params:
        return unpack(rows, task_params(network.augmented, rows.shape[0]))


def contrastive(outputs: Tensor, labels: Tensor) -> Tensor:
    """Computes the contrastive loss of pairs (Hadsell et al. 2006, equation 4).

    The loss is D^2 for pairs of the same class and max(0, m - D)^2 for others, where D is the
    Euclidean distance and m = 1 the margin.

    Args:
        outputs: Shape [B, 2, features].
        labels: Shape [B, 2], int64.

    Returns:
        Shape [B].
    """
    # L = (1 - Y) D^2 + Y max(0, m - D)^2, Y = 1 for different classes (without the factor 1/2)
    squared = (outputs[:, 0] - outputs[:, 1]).square().sum(1)
    hinge = F.relu(MARGIN - (squared + 1e-12).sqrt()).square()
    return torch.where(labels[:, 0] == labels[:, 1], squared, hinge)
