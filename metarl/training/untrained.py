"""The outer update of learners that have nothing to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metarl.adaptation.learner import Learner
from metarl.errors import SettingsError
from metarl.training.outer_update import MetaResult, OuterUpdate, UpdateSettings
from metarl.training.settings import TrainingSettings


@dataclass(frozen=True)
class NoUpdateSettings(UpdateSettings):
    """No outer update: the learner is judged as it is."""

    def build(self, learner: Learner, training: TrainingSettings) -> OuterUpdate:
        """See `UpdateSettings.build`.

        Raises:
            SettingsError: Meta-iterations are asked for.
        """
        if training.iterations:
            raise SettingsError(
                f"A {type(learner).__name__} has nothing to meta-train: expected "
                f"--training.iterations 0, got {training.iterations}."
            )
        return NoUpdate()


class NoUpdate(OuterUpdate):
    """Updates nothing, and says so when it is asked to."""

    def __call__(self, inputs: Any, iteration: int) -> MetaResult:
        """See `OuterUpdate.__call__`.

        Raises:
            SettingsError: Always.
        """
        del inputs, iteration
        raise SettingsError("There is nothing to meta-train; set `iterations` to 0.")

    def state_dict(self) -> dict[str, Any]:
        """See `OuterUpdate.state_dict`: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `OuterUpdate.load_state_dict`."""
        if state:
            raise ValueError("it is that of a learner that was trained")
