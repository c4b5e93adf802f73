"""The options of PPO from scratch; Stable-Baselines3 is imported when the learner is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from metarl.errors import SettingsError
from metarl.rl.problem import ControlProblem

if TYPE_CHECKING:
    from metarl.sb3.baseline import PPOLearner


@dataclass(frozen=True)
class PPOAlgorithm:
    """Stable-Baselines3's PPO on each test task alone; the defaults are its own."""

    meta_trains: ClassVar[bool] = False

    learning_rate: float = 3e-4
    """Rate of Adam, above 0."""
    epochs: int = 10
    """Passes over the rollouts of a step."""
    batch_size: int = 64
    """Upper bound on the samples in a minibatch; the largest divisor of a step's samples below it
    is taken."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation, in [0, 1]."""
    clip: float = 0.2
    """The ratio is clipped to 1 +- this, above 0."""
    entropy: float = 0.0
    """Weight of the entropy."""

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            SettingsError: An option is out of its range.
        """
        if min(self.epochs, self.batch_size - 1) < 1 or min(self.learning_rate, self.clip) <= 0:
            raise SettingsError(
                "Expected at least 1 epoch, a `batch_size` of at least 2, and a `learning_rate` "
                f"and a `clip` above 0, got {self}."
            )

    def build(self, problem: ControlProblem, /) -> PPOLearner:
        """Builds the learner; see `Algorithm.build`."""
        from metarl.sb3.baseline import PPOLearner

        return PPOLearner(
            self, problem.family, problem.gradients,
            problem.hidden, problem.init_std, problem.observe_task,
        )  # fmt: skip
