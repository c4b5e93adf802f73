"""Several trained learners that predict together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from metarl.adaptation.learner import SupervisedLearner
from metarl.errors import SettingsError
from metarl.registry import check_choice
from metarl.tasks.base import Examples, TaskBatch

Average = Literal["probabilities", "outputs"]


class Ensemble(SupervisedLearner):
    """Averages the predictions of trained learners, such as those of several seeds.

    Each learner adapts to the support set alone. The ensemble evaluates and predicts; its learners
    are trained one by one.

    Args:
        members: The learners, all with the same kind of outputs and the same metric.
        average: "probabilities": the outputs are logits [T, N, C], and the prediction is the
            logarithm of the mean of their softmax (Lakshminarayanan et al. 2017, section 2.4);
            "outputs": the mean of the outputs, for regression.

    Raises:
        SettingsError: There is no member, their metrics differ, or `average` is something else.
    """

    members: nn.ModuleList

    def __init__(
        self, members: Sequence[SupervisedLearner], average: Average = "probabilities"
    ) -> None:
        super().__init__()
        check_choice("average", average, ("probabilities", "outputs"))
        if not members:
            raise SettingsError("Expected at least one learner for an ensemble, got none.")
        labels = torch.zeros(1, 1, dtype=torch.int64)
        names = sorted({member.measure.name(labels) for member in members})
        if len(names) > 1:
            raise SettingsError(
                f"Expected learners of one metric for an ensemble, got {', '.join(names)}; give "
                "all the same `metric=`."
            )
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
        return zip(*(m.adapt(support, steps, generator) for m in self._all()), strict=True)

    def adapt_to(
        self, tasks: TaskBatch, steps: int, generator: torch.Generator
    ) -> Iterator[tuple[Any, ...]]:
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
        # log p(y) = log 1/M sum_m softmax(z_m)_y
        return torch.logsumexp(outputs.log_softmax(-1), 0) - math.log(len(outputs))

    def _all(self) -> list[SupervisedLearner]:
        return list(self.members)  # pyright: ignore[reportReturnType]

    @staticmethod
    def _tensor(outputs: Any) -> Tensor:
        if not isinstance(outputs, Tensor):
            raise SettingsError(
                f"Expected learners whose output is one tensor, got {type(outputs).__name__}."
            )
        return outputs
