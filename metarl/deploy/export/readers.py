"""How metric and memory learners read a support set, as pure functions of tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from metarl.deploy.export.capture import ROUGH_TOLERANCE, TOLERANCE
from metarl.errors import SettingsError
from metarl.learners.memory.episode_reader import EpisodeReader
from metarl.learners.memory.meta_network import MetaNetwork
from metarl.learners.metric.classifier import FeatureClassifier
from metarl.learners.metric.metric_learner import MetricLearner
from metarl.learners.metric.zero_shot import DESCRIBED, DESCRIPTIONS, ZeroShotPrototypes
from metarl.learners.padding import mask_option
from metarl.tasks.base import Examples

ORDER, PAIRS = "order", "pairs"
Draws = Literal["order", "pairs"]
READERS = (MetricLearner, FeatureClassifier, EpisodeReader, MetaNetwork, ZeroShotPrototypes)
"""The learners that read a support set once."""


@dataclass(frozen=True)
class Task:
    """A support set of one task as a graph takes it.

    Attributes:
        inputs: Shape [N, *input].
        mask: True for the real elements of padded sequences, [N, L], bool; None: no padding.
        targets: Labels, [N], int64.
        classes: The labels in the order of the scores, [C], int64.
        chosen: A permutation [N], or pairs [N, 2], int64; None for learners that draw nothing.
        weights: Weight of each example, [N]; None: all 1.
        descriptions: Numbers that describe each class, [C, D]; None for learners without.
        described: Which classes have a description, [C], bool; None for learners without.
    """

    inputs: Tensor
    mask: Tensor | None
    targets: Tensor
    classes: Tensor
    chosen: Tensor | None
    weights: Tensor | None = None
    descriptions: Tensor | None = None
    described: Tensor | None = None

    @property
    def examples(self) -> Examples:
        """The support set with a task dimension."""
        weights, mask = (None if t is None else t.unsqueeze(0) for t in (self.weights, self.mask))
        return Examples(self.inputs.unsqueeze(0), self.targets.unsqueeze(0), weights, mask)

    @property
    def info(self) -> dict[str, Tensor]:
        """`TaskBatch.info` with the descriptions."""
        assert self.descriptions is not None and self.described is not None
        return {
            DESCRIPTIONS: self.descriptions.unsqueeze(0), DESCRIBED: self.described.unsqueeze(0)
        }  # fmt: skip

    @property
    def members(self) -> Tensor:
        """One-hot labels, [1, N, C]."""
        dtype = self.inputs.dtype if self.inputs.is_floating_point() else torch.float32
        return (self.targets.unsqueeze(1) == self.classes).to(dtype).unsqueeze(0)

    @property
    def order(self) -> Tensor:
        """What was drawn, with a task dimension."""
        assert self.chosen is not None
        return self.chosen.unsqueeze(0)


@dataclass(frozen=True)
class Reader:
    """How a learner reads a support set.

    Attributes:
        read: Maps a task to the state of the adapted learner, nested tensors [1, *].
        draws: What the learner draws for a task: "order", a permutation of the examples; "pairs"
            of examples; None: nothing.
        way: Number of classes that it is built for; None: any.
        equal_shots: Whether it needs as many examples of each class.
        steps_through: Whether it reads example by example, so that a graph has a fixed number.
        describes: Whether its classes have descriptions, and may have no examples.
        tolerance: The largest difference of a file's outputs, relative to max(1, max |output|).
    """

    read: Callable[[Task], Any]
    draws: Draws | None = None
    way: int | None = None
    equal_shots: bool = False
    steps_through: bool = False
    describes: bool = False
    tolerance: float = TOLERANCE


@functools.singledispatch
def reader_of(learner: object, shots: int) -> Reader:
    """Returns how a learner reads a support set.

    Args:
        learner: The learner.
        shots: Examples of each class, if they are equal.

    Raises:
        SettingsError: It does not adapt by reading a support set once.
    """
    del shots
    raise SettingsError(f"{type(learner).__name__} does not adapt by reading a support set.")


@reader_of.register(MetricLearner)
def _(learner: MetricLearner, shots: int) -> Reader:
    del shots
    if learner.comparison.ordered:
        return Reader(
            lambda t: learner.reference(t.examples, t.members, t.order), ORDER, steps_through=True
        )
    return Reader(lambda t: learner.reference(t.examples, t.members, None))


@reader_of.register(FeatureClassifier)
def _(learner: FeatureClassifier, shots: int) -> Reader:
    return reader_of(learner.neighbours, shots)


@reader_of.register(EpisodeReader)
def _(learner: EpisodeReader, shots: int) -> Reader:
    del shots

    def read(task: Task) -> Any:
        return learner.recollection(task.examples.inputs, task.members, task.order)

    return Reader(read, ORDER, learner.way, equal_shots=True, steps_through=True)


@reader_of.register(MetaNetwork)
def _(learner: MetaNetwork, shots: int) -> Reader:
    # With one example of each class, the losses are of examples; otherwise of pairs.
    single = shots == 1

    def read(task: Task) -> Any:
        chosen = task.order.unsqueeze(2) if single else task.order
        return learner.fast_weights(task.examples, chosen)

    # The networks read small gradients times e^7, with as much of their rounding errors.
    return Reader(
        read, ORDER if single else PAIRS, learner.way,
        equal_shots=True, steps_through=True, tolerance=ROUGH_TOLERANCE,
    )  # fmt: skip


@reader_of.register(ZeroShotPrototypes)
def _(learner: ZeroShotPrototypes, shots: int) -> Reader:
    del shots

    def read(task: Task) -> Any:
        examples = task.examples
        options = mask_option(learner.embedding, examples.mask)
        features = learner.embedding(examples.inputs, None, **options)
        return learner.prototypes(features, examples, task.info)

    return Reader(read, describes=True)
