"""Meta Networks (Munkhdalai & Yu 2017): fast weights from the gradients of the support's losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.adaptation.coordinates import unpack
from metarl.adaptation.learner import MetaLoss, SupervisedLearner
from metarl.errors import SettingsError
from metarl.learners.class_labels import check_equal_shots, check_way
from metarl.learners.images.embeddings import ImageShape
from metarl.learners.memory.fast_weights import AugmentedNetwork, GradientMap, GradientReader
from metarl.learners.metric.comparisons import cosines
from metarl.models.base import Params, task_params
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.losses import accuracy, cross_entropy

MARGIN = 1.0  # of the contrastive loss (Hadsell et al. 2006)


@dataclass(frozen=True)
class MetaNetworkInputs:
    """All that one meta-iteration of a `MetaNetwork` computes on; the tasks lead every tensor.

    Attributes:
        tasks: Support and query of each task.
        chosen: Indices of the support examples whose embedding losses are read, in that order:
            [T, E, 1], or [T, E, 2] for pairs; int64.
    """

    tasks: TaskBatch
    chosen: Tensor


class FastWeights(NamedTuple):
    """What a `MetaNetwork` keeps of M support examples of T tasks.

    Attributes:
        embedding: Q*, the representation's fast weights, one row per task, [T, P].
        keys: r', the representation of each support example, [T, M, features].
        values: W*, the base network's fast weights of each, [T, M, P'].
    """

    embedding: Tensor
    keys: Tensor
    values: Tensor


class MetaNetwork(SupervisedLearner):
    """A base network b and a representation u, both with fast weights (algorithm 1).

        Q* = d(G, {grad_Q loss_emb(u(Q, x'_e), y'_e)}_e)
        W*_i = m(Z, grad_W loss_task(b(W, x'_i), y'_i)),  r'_i = u(Q, Q*, x'_i)
        a = softmax(cos(r', u(Q, Q*, x))),  W* = sum_i a_i W*_i,  outputs b(W, W*, x)

    Gradients are constants. The embedding loss is the cross-entropy of u's first numbers, one for
    each class, where a class has one example, all of which are read in a random order; with more
    it is the contrastive loss of as many random pairs as there are examples. The tasks, and the
    examples in them, are one batch. More adaptation steps change nothing.

    Args:
        images: What it takes.
        way: Classes of a task.
        generator: Source of the initial weights.
        filters: Filters of each convolution.
        features: Numbers of a representation, at least `way`.
        units: Width of m's and d's layers.

    Raises:
        SettingsError: A number is not positive, or there are more classes than features.
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
    ) -> None:
        super().__init__()
        if features < way:
            raise SettingsError(
                f"Expected a feature for each of {way} classes at least, got {features}."
            )
        self.way = way
        self.base = AugmentedNetwork(images, way, generator, filters)
        self.representation = AugmentedNetwork(images, features, generator, filters)
        self.gradient_map = GradientMap(generator, units)
        self.gradient_reader = GradientReader(generator, units)

    # Training

    def collect(
        self, tasks: TaskBatch, generator: torch.Generator, iteration: int
    ) -> MetaNetworkInputs:
        """See `Learner.collect`.

        Raises:
            TaskError: The targets are not labels of `way` classes, or a support set lacks a class
                or has more examples of one than of another.
        """
        del iteration
        check_way(self.way, tasks.support.targets, tasks.query.targets)
        return MetaNetworkInputs(tasks, self._choose(tasks.support, generator))

    def forward(self, inputs: MetaNetworkInputs) -> MetaLoss:
        """See `Learner.forward`."""
        query = inputs.tasks.query
        adapted = self._adapt(inputs.tasks.support, inputs.chosen)
        outputs = self._answer(adapted, query.inputs)
        losses = cross_entropy(outputs, query.targets)
        return MetaLoss(losses, {"train/accuracy": accuracy(outputs.detach(), query.targets)}, {})

    # Evaluation

    @torch.no_grad()
    def adapt(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Iterator[FastWeights]:
        """See `SupervisedLearner.adapt`; yields the same for every step.

        Raises:
            TaskError: As of `collect`.
        """
        check_way(self.way, support.targets)
        adapted = self._adapt(support, self._choose(support, generator))
        for _ in range(steps + 1):
            yield adapted

    @torch.no_grad()
    def predict(self, adapted: FastWeights, inputs: Tensor, transductive: bool = True) -> Tensor:
        """See `SupervisedLearner.predict`; each query is on its own either way."""
        del transductive
        return self._answer(adapted, inputs)

    # Parts

    def _choose(self, support: Examples, generator: torch.Generator) -> Tensor:
        """Draws the support examples, or pairs, whose embedding losses are read."""
        shots = check_equal_shots(support, self.way)
        count, options = support.targets.shape, {"generator": generator, "device": generator.device}
        first = torch.rand(count, **options).argsort(1)
        if shots == 1:
            return first.unsqueeze(2)
        further = torch.randint(1, count[1], count, **options)
        return torch.stack((first, (first + further) % count[1]), dim=2)

    def _adapt(self, support: Examples, chosen: Tensor) -> FastWeights:
        representation, base = self.representation, self.base
        tasks, count = support.targets.shape
        patches = representation.patches(support.inputs)
        embedding = self._embedding(patches, support.targets, chosen)
        keys = representation(patches, self._as_params(representation, embedding))
        examples = base.patches(support.inputs).flatten(0, 1).unsqueeze(1)
        labels = support.targets.view(-1, 1)
        gradients = base.gradients(examples, lambda outputs: cross_entropy(outputs, labels))
        values = self.gradient_map(gradients).view(tasks, count, -1)
        return FastWeights(embedding, keys, values)

    def _embedding(self, patches: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        """Returns the fast weights of the representation, Q*, [T, P]."""
        tasks, count, together = chosen.shape
        rows = torch.arange(tasks, device=chosen.device).view(-1, 1, 1)
        labels = labels[rows, chosen].flatten(0, 1)
        loss = cross_entropy if together == 1 else contrastive
        gradients = self.representation.gradients(
            patches[rows, chosen].flatten(0, 1), lambda outputs: loss(outputs, labels)
        )
        return self.gradient_reader(gradients.view(tasks, count, -1))

    def _answer(self, adapted: FastWeights, images: Tensor) -> Tensor:
        fast = self._as_params(self.representation, adapted.embedding)
        found = self.representation(self.representation.patches(images), fast)
        attention = cosines(found, adapted.keys).softmax(2)
        values = torch.bmm(attention, adapted.values).flatten(0, 1)  # a set for every query
        examples = self.base.patches(images).flatten(0, 1).unsqueeze(1)
        outputs = self.base(examples, self._as_params(self.base, values))
        return outputs.view(*images.shape[:2], self.way)

    @staticmethod
    def _as_params(network: AugmentedNetwork, rows: Tensor) -> Params:
        return unpack(rows, task_params(network.augmented, len(rows)))


def contrastive(outputs: Tensor, labels: Tensor) -> Tensor:
    """Returns the contrastive loss of pairs (Hadsell et al. 2006, equation 4), [B].

    The squared distance of two of one class; for two others max(0, 1 - distance)^2.

    Args:
        outputs: Shape [B, 2, features].
        labels: Shape [B, 2], int64.
    """
    squared = (outputs[:, 0] - outputs[:, 1]).square().sum(1)
    apart = F.relu(MARGIN - (squared + 1e-12).sqrt()).square()
    return torch.where(labels[:, 0] == labels[:, 1], squared, apart)
