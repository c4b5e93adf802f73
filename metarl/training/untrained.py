"""The outer update of learners that have nothing to meta-train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metarl.adaptation.learner import Learner
from metarl.errors import SettingsError
from metarl.training.outer_update import MetaResult, OuterUpdate, UpdateSettings
from metarl.training.settings import TrainingSettings


@dataclass(frozen=True)
class UntrainedSettings(UpdateSettings):
    """No outer update: the learner is evaluated as it is."""

    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
        check_untrained(training)
        return Untrained()


class Untrained(OuterUpdate):
    """Raises an error when it is called."""

    def __call__(self, inputs: Any, iteration: int) -> MetaResult:
        """Refuses to update.

        Raises:
            SettingsError: Always.
        """
        del inputs, iteration
        raise SettingsError("There is nothing to meta-train; set `iterations` to 0.")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError("it is that of a learner that was trained")


def check_untrained(training: TrainingSettings, name: str = "This algorithm") -> None:
    """Checks that no meta-iterations are asked for.

    Args:
        training: The settings of the outer loop.
        name: The algorithm, for the message.

    Raises:
        SettingsError: There are meta-iterations.
    """
    if training.iterations:
        raise SettingsError(
            f"{name} has nothing to meta-train: expected --training.iterations 0, got "
            f"{training.iterations}."
        )
