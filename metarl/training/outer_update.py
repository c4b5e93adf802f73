"""What an outer update is: it turns the inputs of a meta-iteration into better parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from metarl.adaptation.learner import Learner
from metarl.training.settings import TrainingSettings


class MetaResult(NamedTuple):
    """What a meta-iteration gave.

    Attributes:
        losses: Outer objective per task, [T].
        metrics: TensorBoard tag -> value per task, [T], or one value for all.
        carry: What the learner's `after_update` takes over.
        grad_norm: Norm of the meta-gradient before clipping.
        finite: False if a loss or the gradient norm was not finite: then nothing was updated.
    """

    losses: Tensor
    metrics: dict[str, Tensor]
    carry: dict[str, Any]
    grad_norm: Tensor
    finite: bool


class OuterUpdate(ABC):
    """Interface of what updates a learner's parameters once per meta-iteration."""

    @abstractmethod
    def __call__(self, inputs: Any, iteration: int) -> MetaResult:
        """Updates the parameters, or leaves them to the bit if a number is not finite.

        Args:
            inputs: What the learner's `collect` returned.
            iteration: Meta-iterations done so far.
        """

    def rate(self, iteration: int) -> float | None:
        """Returns the outer rate at an iteration, counted from 0, or None where there is none."""
        del iteration
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs to go on: plain nested tensors and numbers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned.

        Raises:
            ValueError: It is that of another kind of update.
        """


class UpdateSettings(ABC):
    """Interface: settings that build an outer update."""

    @abstractmethod
    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
        """Builds the update of a learner's parameters.

        Raises:
            SettingsError: The learner is none that the update suits.
        """
