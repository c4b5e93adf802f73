"""Prototypes of classes that are described instead of shown (Snell et al. 2017, section 2.6)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.adaptation.checks.network import alike
from metarl.adaptation.learner import MetaLoss, SupervisedLearner
from metarl.adaptation.metric import Metric
from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.learners.class_labels import memberships
from metarl.learners.images.embeddings import Embedding
from metarl.learners.images.layers import Moments, absorb_moments, moments_by_name
from metarl.learners.metric.comparisons import squared_distances
from metarl.learners.padding import joined_mask, joined_weights, mask_option, noise_option
from metarl.models.described import described
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.batches import (
    check_inputs,
    check_labels,
    check_queries,
    checked_tasks,
    label_range,
    parameter_type,
)
from metarl.tasks.losses import cross_entropy
from metarl.tasks.metrics import MetricFunction

DESCRIPTIONS = "descriptions"
DESCRIBED = "described"


@dataclass(frozen=True)
class ZeroShotInputs:
    """Inputs of one meta-iteration; dimension 0 of every tensor is the task.

    Attributes:
        tasks: Support and query set of each task. `info["descriptions"]` describes the classes.
        noise: What dropout draws in the embedding, [T, *]; None for embeddings without.
    """

    tasks: TaskBatch
    noise: Tensor | None = None


@described
class ZeroShotPrototypes(SupervisedLearner):
    """Prototypical networks whose classes are given by descriptions, by examples, or by both.

    A description v_k (attributes, an embedded text) is mapped to the space of the features by a
    second network g. A description counts as n_0 examples, a number that is learned:

        c_k = (sum_i w_i f(x_i) + n_0 g(v_k)) / (sum_i w_i + n_0)

    over the support examples i of class k with their weights w_i. Without examples, this is
    c_k = g(v_k), as in the paper; without a description, it is the mean of the examples.

    Tasks have `info["descriptions"]`, [T, way, D], one for each label from 0 to way - 1, and, if
    some classes have none, `info["described"]`, [T, way], bool. A support set may be empty
    ([T, 0, *input]), or lack classes that are described. Adaptation needs no gradient, so the
    number of adaptation steps has no effect.

    Args:
        embedding: Maps inputs to features [T, N, F]: f.
        describe: Maps descriptions [B, D] to features [B, F], each alone: g.
        unit_length: Whether g(v) is scaled to norm 1, as in the paper, because descriptions and
            inputs come from different domains.
        count: Initial value of n_0, above 0.
        metric: The metric: a name of `METRICS` (such as "generalised_accuracy") or a function;
            None: the accuracy.

    Raises:
        SettingsError: The count is not finite and above 0.
    """

    transduces = False
    stores_in_buffers = True

    def __init__(
        self,
        embedding: Embedding,
        describe: nn.Module,
        *,
        unit_length: bool = True,
        count: float = 1.0,
        metric: str | MetricFunction | None = None,
    ) -> None:
        super().__init__()
        if not 0 < count < math.inf:
            raise SettingsError(f"Expected a finite `count` above 0, got {count}.")
        self.embedding = embedding
        self.describe = describe
        self.unit_length = unit_length
        parameter = next(iter(describe.parameters()), torch.empty(()))
        self.log_count = nn.Parameter(parameter.new_full((), math.log(count)).detach())
        self.measure = Metric(metric)
        self._checked = False

    # Training

    def collect(
        self, tasks: TaskBatch, generator: torch.Generator, iteration: int
    ) -> ZeroShotInputs:
        """Checks labels and descriptions, and draws what dropout needs.

        Raises:
            TaskError: There are no descriptions, a label has none, or a class has neither a
                description nor an example.
            ShapeError: A tensor has another shape or type than expected, or `describe` mixes
                descriptions.
        """
        del iteration
        tasks = self._checked_tasks(tasks)
        if joined_weights(tasks) is not None and not self.embedding.respects_weights:
            raise ShapeError(
                f"The examples have weights, and {type(self.embedding).__name__} does not say that "
                "examples of weight 0 leave the features of the others unchanged; see "
                "`Embedding.respects_weights`."
            )
        noise = self.embedding.started(tasks.query.inputs, generator, tasks.query.mask)
        return ZeroShotInputs(tasks, noise)

    def forward(self, inputs: ZeroShotInputs) -> MetaLoss:
        tasks = inputs.tasks
        support, query = tasks.support, tasks.query
        moments = Moments(joined_weights(tasks))
        count = support.targets.shape[1]
        both = torch.cat((support.inputs, query.inputs), dim=1)
        options = mask_option(self.embedding, joined_mask(tasks)) | noise_option(inputs.noise)
        features = self.embedding(both, moments, **options)
        prototypes = self.prototypes(features[:, :count], support, tasks.info)
        outputs = -squared_distances(features[:, count:], prototypes)
        losses = cross_entropy(outputs, query.targets, query.weights)
        tag = f"train/{self.measure.name(query.targets)}"
        metrics = {tag: self.measure.train(outputs, query, tasks)}
        return MetaLoss(losses, metrics, moments_by_name(self, moments))

    def use_bfloat16(self) -> None:
        self.embedding.use_bfloat16()

    def after_update(self, carry: dict[str, Any]) -> None:
        """Updates the running moments of the batch normalisation."""
        absorb_moments(self, carry)

    def prototypes(self, features: Tensor, support: Examples, info: dict[str, Tensor]) -> Tensor:
        """Computes the prototype of each class.

        Args:
            features: Embedded support examples, [T, M, F]; M may be 0.
            support: The support examples.
            info: `TaskBatch.info`, with the descriptions.

        Returns:
            Shape [T, way, F].

        Raises:
            ShapeError: The features of examples and descriptions differ in number.
        """
        descriptions = info[DESCRIPTIONS]
        tasks, way = descriptions.shape[:2]
        mapped = self.describe(descriptions.flatten(0, 1)).unflatten(0, (tasks, way))
        if self.unit_length:
            mapped = F.normalize(mapped, dim=2)
        if features.shape[2] != mapped.shape[2]:
            raise ShapeError(
                f"Expected `describe` to return as many features as the embedding, "
                f"{features.shape[2]}, got {mapped.shape[2]}."
            )
        members = memberships(support, way)
        pseudo = self.log_count.exp().expand(tasks, way)  # n_0
        if DESCRIBED in info:
            pseudo = pseudo * info[DESCRIBED]
        # c_k = (sum_i w_i f(x_i) + n_0 g(v_k)) / (sum_i w_i + n_0)
        total = torch.bmm(members.mT, features) + pseudo.unsqueeze(2) * mapped
        return total / (members.sum(1) + pseudo).unsqueeze(2)

    # Evaluation

    @torch.no_grad()
    def adapt(
        self,
        support: Examples,
        steps: int,
        generator: torch.Generator,
        info: dict[str, Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Yields the prototypes [T, way, F] `steps + 1` times.

        Args:
            support: The support examples, M of each task; M may be 0.
            steps: Adaptation steps, at least 0.
            generator: Not used.
            info: `TaskBatch.info`, with the descriptions.

        Raises:
            TaskError: See `collect`.
            ShapeError: See `collect`.
        """
        del generator
        tasks = self._checked_tasks(TaskBatch(support, support, info or {}))
        support = tasks.support
        if support.targets.shape[1]:
            options = mask_option(self.embedding, support.mask)
            features = self.embedding(support.inputs, None, **options)
        else:
            first = self.describe(tasks.info[DESCRIPTIONS][:1, 0])
            features = first.new_empty(len(support.targets), 0, first.shape[1])
        prototypes = self.prototypes(features, support, tasks.info)
        for _ in range(steps + 1):
            yield prototypes

    def adapt_to(
        self, tasks: TaskBatch, steps: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        return self.adapt(tasks.support, steps, generator, tasks.info)

    @torch.no_grad()
    def predict(
        self,
        adapted: Tensor,
        inputs: Tensor,
        transductive: bool = False,
        *,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Returns scores [T, N, way]. `transductive` has no effect: queries are independent."""
        del transductive, weights
        check_queries(inputs, parameter_type(self))
        features = self.embedding(inputs, None, **mask_option(self.embedding, mask))
        return -squared_distances(features, adapted)

    # Helpers

    def _checked_tasks(self, tasks: TaskBatch) -> TaskBatch:
        dtype = parameter_type(self)
        tasks = checked_tasks(tasks, dtype, may_be_empty=True)
        way = self._checked_way(tasks, dtype)
        sets = [s for s in (tasks.support, tasks.query) if s.targets.numel()]
        for examples in sets:
            if examples.targets.is_floating_point() or examples.targets.dim() != 2:
                raise TaskError(
                    f"Expected integer class labels [T, N], got {examples.targets.dtype} "
                    f"{tuple(examples.targets.shape)}."
                )
        if sets:
            check_labels(label_range(*(s.targets for s in sets)), way)
        self._check_classes(tasks, way)
        if not self._checked:
            self._check_alone(tasks.info[DESCRIPTIONS])
            self._checked = True
        return tasks

    def _checked_way(self, tasks: TaskBatch, dtype: torch.dtype | None) -> int:
        """Returns the number of classes; checks the descriptions."""
        if DESCRIPTIONS not in tasks.info:
            raise TaskError(
                f"Expected info[{DESCRIPTIONS!r}], a description of each class of an episode, "
                "[T, way, D]. Tasks whose classes are given by examples alone suit "
                "`MetricLearner` with `Prototypes`."
            )
        descriptions = tasks.info[DESCRIPTIONS]
        if descriptions.dim() != 3 or len(descriptions) != tasks.num_tasks:
            raise ShapeError(
                f"Expected descriptions [{tasks.num_tasks}, way, D], got "
                f"{list(descriptions.shape)}."
            )
        check_inputs(descriptions, dtype)
        way = descriptions.shape[1]
        described = tasks.info.get(DESCRIBED)
        is_mask = described is None or described.dtype == torch.bool
        if not is_mask or (described is not None and described.shape != descriptions.shape[:2]):
            raise ShapeError(
                f"Expected info[{DESCRIBED!r}], bool, [{tasks.num_tasks}, {way}], got "
                f"{described.dtype if described is not None else None}."
            )
        return way

    @staticmethod
    def _check_classes(tasks: TaskBatch, way: int) -> None:
        if DESCRIBED not in tasks.info:
            return
        known = tasks.info[DESCRIBED] | (memberships(tasks.support, way).sum(1) > 0)
        unknown = (~known).nonzero()
        if len(unknown):
            task, label = unknown[0].tolist()
            raise TaskError(
                f"Class {label} of task {task} has neither a description nor an example; leave "
                "the class out."
            )

    @torch.no_grad()
    def _check_alone(self, descriptions: Tensor) -> None:
        """Checks that `describe` treats each description alone, as batch normalisation does not."""
        flat = descriptions.flatten(0, 1)
        together, two = self.describe(flat), self.describe(flat[:2])
        if not alike(together[:2], two):
            raise ShapeError(
                "Expected `describe` to map each description alone, but its result changes with "
                "the others (batch normalisation or dropout). Use layer normalisation, and no "
                "dropout."
            )
