"""The interface of outer updates, and of their settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from metarl.adaptation.learner import Learner
from metarl.errors import SettingsError
from metarl.training.settings import TrainingSettings


class MetaResult(NamedTuple):
    """The result of a meta-iteration.

    Attributes:
        losses: Outer objective per task, [T].
        metrics: TensorBoard tag -> value per task, [T], or one value for all.
        carry: The argument of the learner's `after_update`.
        grad_norm: Norm of the meta-gradient before clipping.
        finite: False if a loss or the gradient norm was not finite; nothing was then updated. A
            bool tensor, [], after `OuterUpdate.read_late`: its value is on the device, and reading
            it waits for the iteration.
        failed: Returns the result of the step that was not finite, for the error, where an update
            takes several and `finite` is a tensor; None: it is this result.
    """

    losses: Tensor
    metrics: dict[str, Tensor]
    carry: dict[str, Any]
    grad_norm: Tensor
    finite: bool | Tensor
    failed: Callable[[], MetaResult] | None = None


class OuterUpdate(ABC):
    """Interface of an update of a learner's parameters, once per meta-iteration."""

    @abstractmethod
    def __call__(self, inputs: Any, iteration: int) -> MetaResult:
        """Updates the parameters, or leaves them unchanged if a number is not finite.

        Args:
            inputs: The return value of the learner's `collect`.
            iteration: Meta-iterations done so far.
        """

    def read_late(self) -> None:
        """Lets the host read `finite` iterations later, where the update allows it.

        From the first result on that is not finite, no update changes the parameters or the state,
        and no result is finite, until this function is called again. What such a result carries
        goes to the learner by `store_if_finite`.
        """
        return

    def rate(self, iteration: int) -> float | None:
        """Returns the outer rate at an iteration, counted from 0, or None if there is none."""
        del iteration
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns the state that a resumed run needs: nested tensors and numbers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state that `state_dict` returned.

        Raises:
            ValueError: It is the state of another kind of update.
        """


class UpdateSettings(ABC):
    """Interface: settings that build an outer update."""

    @abstractmethod
    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
        """Builds the update of a learner's parameters.

        Raises:
            SettingsError: The update does not suit the learner.
        """


def checked_result(result: Any, update: OuterUpdate) -> MetaResult:
    """Returns the result of an update; raises SettingsError unless it can be logged."""
    if not isinstance(result, MetaResult):
        wrong = f"{type(result).__name__}"
    elif not isinstance(result.losses, Tensor) or result.losses.dim() != 1:
        given = result.losses
        wrong = f"losses {list(given.shape) if isinstance(given, Tensor) else type(given).__name__}"
    elif not isinstance(result.grad_norm, Tensor):
        wrong = f"a grad_norm that is a {type(result.grad_norm).__name__}"
    else:
        return result
    raise SettingsError(
        f"Expected {type(update).__name__} to return a MetaResult with the loss of each task, [T], "
        f"and a tensor `grad_norm`, [], got {wrong}. See metarl.training.outer_update.MetaResult."
    )
