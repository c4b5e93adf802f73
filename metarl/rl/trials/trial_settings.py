"""The options that all algorithms with a memory of trials have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from metarl.errors import SettingsError
from metarl.ranges import COUNT, NOT_NEGATIVE, POSITIVE, WIDTH, Range, check_fields, check_int
from metarl.rl.control_learner import ControlLearner
from metarl.rl.problem import ControlProblem
from metarl.rl.trials.history import MemoryName, MemorySettings

ValueLoss = Literal["squared", "huber"]
ValueTargets = Literal["returns", "lambda"]


@dataclass(frozen=True)
class TrialSettings(ABC):
    """Interface of the options of algorithms that train a memory by PPO on whole trials."""

    episodes: int = 1
    """Episodes of a training trial, at least 1; an evaluation of K steps plays K + 1."""
    units: int = 64
    """Width of the memory."""
    embedding: int = 0
    """Width of a ReLU layer before the memory; 0: none."""
    value_weight: float = 0.5
    """Weight of the value function's error in the loss, above 0."""
    entropy_weight: float = 0.0
    """Weight of the policy's entropy in the loss, at least 0."""
    memory: MemoryName = "gru"
    """Network that reads the trial: gru, or attention (a causal transformer), which cannot play
    longer trials than those of training."""
    layer_norm: bool = False
    """Layer normalisation of the GRU's products; a transformer always has its own."""
    blocks: int = 2
    """Blocks of the transformer, at least 1."""
    heads: int = 4
    """Attention heads of each block, at least 1; they divide `units`."""
    value_loss: ValueLoss = "squared"
    """Loss of the values, in standard deviations of their targets: squared, or huber (linear above
    1)."""
    value_targets: ValueTargets = "returns"
    """Targets of the values: returns to the end of the trial; or lambda: TD(lambda) estimates from
    later values, with the lambda of the advantages, which vary less."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting is out of its range.
        """
        check_fields(self, value_weight=POSITIVE, entropy_weight=NOT_NEGATIVE)
        if min(self.episodes, self.units) < 1 or self.embedding < 0:
            raise SettingsError(
                "Expected at least 1 episode, 1 unit and an embedding of at least 0, got "
                f"episodes={self.episodes}, units={self.units} and embedding={self.embedding}."
            )
        for name in ("units", "embedding"):
            check_int(name, getattr(self, name), Range(0, WIDTH.high))
        check_fields(self, blocks=COUNT, heads=COUNT)
        if self.memory == "attention" and self.units % self.heads:
            raise SettingsError(
                f"Expected `heads` that divide `units`, got {self.heads} and {self.units}."
            )

    @abstractmethod
    def build(self, problem: ControlProblem, /) -> ControlLearner:
        """Builds the policy and its learner; see `ControlAlgorithm.build`."""

    def memory_of(self, problem: ControlProblem) -> MemorySettings:
        """Returns the memory for the trials of a problem."""
        steps = self.episodes * problem.family.horizon
        return MemorySettings(self.memory, self.layer_norm, self.blocks, self.heads, steps)
