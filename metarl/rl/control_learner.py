"""The interface of learners of control tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import Learner
from metarl.rl.worlds import Worlds
from metarl.sim.family import ControlTasks


def nan_where_undefined(returns: Tensor, log_probs: Tensor) -> Tensor:
    """Returns the returns, and NaN for tasks with an action of undefined probability.

    A categorical policy with logits of NaN takes action 0.

    Args:
        returns: Shape [T, *].
        log_probs: Log-probabilities of the actions taken, [T, *].
    """
    defined = log_probs.isfinite().flatten(1).all(1).view(-1, *[1] * (returns.dim() - 1))
    return torch.where(defined, returns, float("nan"))


class ControlLearner(Learner):
    """Interface of learners that adapt on rollouts and are evaluated by their returns.

    Attributes:
        worlds: The environments in which it acts; None if they cannot be observed.
        plays_trials: Whether an adaptation step is one more episode of a trial.
        learns_in_evaluation: Whether an evaluation trains from scratch, which takes long.
    """

    worlds: Worlds | None = None
    plays_trials: bool = False
    learns_in_evaluation: bool = False
    _counted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_counted", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def environment_steps(self) -> int:
        """Environment steps that training has taken so far, those of adaptation included."""
        return int(self._counted)

    @environment_steps.setter
    def environment_steps(self, steps: int) -> None:
        self._counted.fill_(steps)

    def count_steps(self, steps: Tensor) -> None:
        """Adds environment steps, [*] int64, without waiting for a GPU; reading them waits."""
        self._counted += steps.sum()

    def notes(self) -> list[str]:
        return [] if self.worlds is None else self.worlds.notes()

    def performance(self) -> dict[str, float]:
        return {} if self.worlds is None else self.worlds.measured()

    def extra_state(self) -> dict[str, Any]:
        return {"environment_steps": self.environment_steps}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.environment_steps = state.get("environment_steps", 0)

    @property
    def adaptation_cost(self) -> int:
        """Environment steps that an adaptation step takes of each task; 0 if it is not known.

        Episodes that end early take fewer.
        """
        return 0

    def check_steps(self, steps: int) -> None:
        """Raises SettingsError if the learner cannot adapt in so many steps."""
        del steps

    def returns(
        self,
        tasks: ControlTasks,
        steps: int,
        generator: torch.Generator,
        scales: Sequence[float] = (),
        trajectories: int | None = None,
    ) -> Iterator[Tensor]:
        """Yields the undiscounted return of each task, [T], after 0, 1, ..., `steps` steps.

        It is NaN for a task whose policy has no defined probabilities.

        Args:
            tasks: T tasks.
            steps: Adaptation steps, at least 0.
            generator: Source of all randomness in the rollouts.
            scales: Factor on the inner rate of each step, 1 after the last factor. Learners without
                an inner rate ignore it.
            trajectories: Rollouts per task and step; None for as many as in training. Learners that
                play trials or learn in evaluation ignore it.
        """
        for measured in self.measures(tasks, steps, generator, scales, trajectories):
            yield measured["return"]

    @abstractmethod
    def measures(
        self,
        tasks: ControlTasks,
        steps: int,
        generator: torch.Generator,
        scales: Sequence[float] = (),
        trajectories: int | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Yields what `returns` yields as "return", and the means of the family's metrics, [T].

        The arguments are those of `returns`.
        """

    def metric(self, tasks: ControlTasks) -> str:
        del tasks
        return "return"

    def evaluate(
        self,
        tasks: ControlTasks,
        steps: int,
        generator: torch.Generator,
        *,
        last_only: bool = False,
    ) -> Iterator[Tensor]:
        for measured in self.evaluate_metrics(tasks, steps, generator, last_only=last_only):
            yield measured["return"]

    def evaluate_metrics(
        self,
        tasks: ControlTasks,
        steps: int,
        generator: torch.Generator,
        *,
        last_only: bool = False,
        **options: Any,
    ) -> Iterator[dict[str, Tensor]]:
        del options
        for step, measured in enumerate(self.measures(tasks, steps, generator)):
            if step == steps or not last_only:
                yield measured
