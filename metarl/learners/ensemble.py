"""Several trained learners that predict together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from metarl.adaptation.learner import SupervisedLearner
from metarl.errors import SettingsError
from metarl.registry import check_choice
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.losses import are_shares

Average = Literal["probabilities", "outputs"]


class Ensemble(SupervisedLearner):
    """Averages the predictions of trained learners, such as those of several seeds.

    Each learner adapts to the support set alone. The ensemble evaluates and predicts; its learners
    are trained one by one.

    Args:
        members: The learners, all with the same kind of outputs and the same metric.
        average: "probabilities": the outputs are logits [T, N, C], and the prediction is the
            logarithm of the mean of their softmax (Lakshminarayanan et al. 2017, section 2.4);
            "outputs": the mean of the outputs, for regression, several labels per example or one
            logit for yes or no.

    Raises:
        SettingsError: There is no member, their metrics differ, or `average` is something else.
            When it adapts or predicts: targets or outputs have no classes, which "probabilities"
            are of.
    """

    members: nn.ModuleList

    def __init__(
        self, members: Sequence[SupervisedLearner], average: Average = "probabilities"
    ) -> None:
        super().__init__()
        check_choice("average", average, ("probabilities", "outputs"))
        found = list(members) if isinstance(members, Iterable) else []
        if not found or not all(hasattr(member, "adapt_to") for member in found):
            kinds = ", ".join(sorted({type(m).__name__ for m in found})) or type(members).__name__
            raise SettingsError(
                f"Expected a list of at least one learner for an ensemble, got {kinds}; of an "
                "adaptation, GradientLearner(MAML(net)) is the learner."
            )
        labels = torch.zeros(1, 1, dtype=torch.int64)
        names = sorted({member.measure.name(labels) for member in members})
        if len(names) > 1:
            raise SettingsError(
                f"Expected learners of one metric for an ensemble, got {', '.join(names)}; give "
                "all the same `metric=`."
            )
        if names == ["binary_accuracy"] and average == "probabilities":
            raise _no_classes("a logit for each yes or no")
        self.members = nn.ModuleList(members)
        self.average = average
        self.measure = members[0].measure
        self.transduces = all(member.transduces for member in members)

    def collect(self, tasks: TaskBatch, generator: torch.Generator, iteration: int) -> NoReturn:
        """Refuses training.

        Raises:
            SettingsError: Always.
        """
        raise SettingsError(
            "An ensemble is not trained: train each of its learners, then join them."
        )

    def forward(self, inputs: Any) -> NoReturn:
        """Refuses training, as `collect` does."""
        return self.collect(inputs, torch.Generator(), 0)

    def adapt(
        self, support: Examples, steps: int, generator: torch.Generator
    ) -> Iterator[tuple[Any, ...]]:
        """Yields what each learner yields after 0, 1, ..., `steps` adaptation steps."""
        self._check_targets(support)
        return zip(*(m.adapt(support, steps, generator) for m in self._all()), strict=True)

    def adapt_to(
        self, tasks: TaskBatch, steps: int, generator: torch.Generator
    ) -> Iterator[tuple[Any, ...]]:
        self._check_targets(tasks.support)
        return zip(*(m.adapt_to(tasks, steps, generator) for m in self._all()), strict=True)

    def predict(
        self,
        adapted: tuple[Any, ...],
        inputs: Tensor,
        transductive: bool = False,
        **padding: Any,
    ) -> Tensor:
        """Returns log-probabilities [T, N, C], or the mean of the outputs."""
        outputs = torch.stack(
            [
                self._tensor(member.predict(state, inputs, transductive, **padding))
                for member, state in zip(self._all(), adapted, strict=True)
            ]
        )
        if self.average == "outputs":
            return outputs.mean(0)
        if outputs.dim() < 4 or outputs.shape[-1] < 2:
            raise _no_classes(f"outputs {list(outputs.shape[1:])}")
        # log p(y) = log 1/M sum_m softmax(z_m)_y
        return torch.logsumexp(outputs.log_softmax(-1), 0) - math.log(len(outputs))

    def _check_targets(self, support: Examples) -> None:
        """Raises SettingsError if values are to be predicted by probabilities of classes."""
        targets = support.targets
        if self.average == "outputs" or not targets.is_floating_point() or are_shares(targets):
            return
        raise _no_classes(f"targets that are values, {list(targets.shape)} {targets.dtype}")

    def _all(self) -> list[SupervisedLearner]:
        return list(self.members)  # pyright: ignore[reportReturnType]

    @staticmethod
    def _tensor(outputs: Any) -> Tensor:
        if not isinstance(outputs, Tensor):
            raise SettingsError(
                f"Expected learners whose output is one tensor, got {type(outputs).__name__}."
            )
        return outputs


def _no_classes(found: str) -> SettingsError:
    return SettingsError(
        f"Expected learners of classes, [T, N, C] with 2 classes or more, for an ensemble that "
        f'averages probabilities; got {found}. Give `average="outputs"`.'
    )
