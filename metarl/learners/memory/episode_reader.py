"""Few-shot episodes by memory: the support is read as a sequence, every query after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.adaptation.learner import MetaLoss, SupervisedLearner
from metarl.learners.class_labels import check_equal_shots, check_way, memberships
from metarl.learners.images.embeddings import Embedding
from metarl.learners.images.layers import Moments, absorb_moments, moments_by_name
from metarl.learners.memory.sequences import SequenceNetwork
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.losses import accuracy, cross_entropy
from metarl.trees import map_tensors


@dataclass(frozen=True)
class EpisodeInputs:
    """All that one meta-iteration of an `EpisodeReader` computes on; the tasks lead every tensor.

    Attributes:
        tasks: Support and query of each task.
        order: In which the support of each task is read, [T, N], int64.
    """

    tasks: TaskBatch
    order: Tensor


class Recollection(NamedTuple):
    """What an `EpisodeReader` knows after the support set.

    Attributes:
        state: The network's, the tasks leading.
        label: The label of the last example, one-hot, [T, way].
    """

    state: Any
    label: Tensor


class EpisodeReader(SupervisedLearner):
    """A network that reads episodes as it would streams (Santoro et al. 2016), query by query.

    The support comes in a random order, each image beside the label of the one before; a query is
    one more step from the state after that, which no other query sees. The loss counts every
    step, as in a stream: with that of the queries alone, training stays where it starts. More
    adaptation steps change nothing, and predictions are never transductive.

    Args:
        embedding: Maps images to features.
        network: Reads these beside the label before, `way` numbers; `way` outputs.
        way: Classes of a task.
    """

    transduces = False

    def __init__(self, embedding: Embedding, network: SequenceNetwork, way: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.network = network
        self.way = way

    # Training

    def collect(
        self, tasks: TaskBatch, generator: torch.Generator, iteration: int
    ) -> EpisodeInputs:
        """See `Learner.collect`.

        Raises:
            TaskError: The targets are not labels of `way` classes, a support set lacks a class or
                has more examples of one than of another, or is longer than the memory.
        """
        del iteration
        check_way(self.way, tasks.support.targets, tasks.query.targets)
        return EpisodeInputs(tasks, self._draw_order(tasks.support, generator))

    def forward(self, inputs: EpisodeInputs) -> MetaLoss:
        """See `Learner.forward`."""
        support, query = inputs.tasks.support, inputs.tasks.query
        moments: Moments = {}
        count = support.targets.shape[1]
        images = torch.cat((support.inputs, query.inputs), dim=1)
        features = self.embedding(images, moments)
        labels = memberships(support, self.way)
        guesses, known = self._read(features[:, :count], labels, inputs.order)
        outputs = self._answer(known, features[:, count:])
        targets = torch.cat((support.targets.gather(1, inputs.order), query.targets), dim=1)
        losses = cross_entropy(torch.cat((guesses, outputs), dim=1), targets)
        metrics = {"train/accuracy": accuracy(outputs.detach(), query.targets)}
        return MetaLoss(losses, metrics, moments_by_name(self, moments))

    def after_update(self, carry: dict[str, Any]) -> None:
        """See `Learner.after_update`; takes up the batch-norm moments."""
        absorb_moments(self, carry)

    # Evaluation

    @torch.no_grad()
    def adapt(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Iterator[Recollection]:
        """See `SupervisedLearner.adapt`; yields the same for every step.

        Raises:
            TaskError: As of `collect`.
        """
        check_way(self.way, support.targets)
        order = self._draw_order(support, generator)
        features = self.embedding(support.inputs, None)
        _, known = self._read(features, memberships(support, self.way), order)
        for _ in range(steps + 1):
            yield known

    @torch.no_grad()
    def predict(self, adapted: Recollection, inputs: Tensor, transductive: bool = True) -> Tensor:
        """See `SupervisedLearner.predict`; each query is on its own either way."""
        del transductive
        return self._answer(adapted, self.embedding(inputs, None))

    # Parts

    def _draw_order(self, support: Examples, generator: torch.Generator) -> Tensor:
        check_equal_shots(support, self.way)
        shape = support.targets.shape
        self.network.check_length(shape[1] + 1)  # a query comes after them
        return torch.rand(shape, generator=generator, device=generator.device).argsort(1)

    def _read(self, features: Tensor, labels: Tensor, order: Tensor) -> tuple[Tensor, Recollection]:
        """Reads the support; returns the outputs [T, N, way] before each label, and what stays."""
        rows = torch.arange(len(order), device=order.device).unsqueeze(1)
        features, labels = features[rows, order], labels[rows, order]
        before = F.pad(labels[:, :-1], (0, 0, 1, 0))
        outputs, state = self.network.run(torch.cat((features, before), dim=2))
        return outputs, Recollection(state, labels[:, -1])

    def _answer(self, known: Recollection, features: Tensor) -> Tensor:
        tasks, count = features.shape[:2]
        label = known.label.unsqueeze(1).expand(-1, count, -1)
        encoded = self.network.encode(torch.cat((features, label), dim=2)).flatten(0, 1)
        copies = map_tensors(lambda t: t.repeat_interleave(count, dim=0), known.state)
        outputs, _ = self.network.step(encoded, copies)
        return outputs.view(tasks, count, self.way)
