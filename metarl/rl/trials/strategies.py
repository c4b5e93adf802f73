"""Strategies: players with nothing to learn over tasks, to hold learners against."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, ClassVar, NoReturn

import torch

from metarl.errors import SettingsError
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.trials.play import Agent
from metarl.rl.trials.trial_learner import TrialLearner
from metarl.sim.family import ControlTasks, TaskFamily

GRADIENTS = tuple(f.name for f in fields(PolicyGradientSettings))


class StrategyAlgorithm(ABC):
    """Interface of the options of a fixed strategy, which has nothing to meta-train.

    Attributes:
        unused: See `ControlAlgorithm`: a strategy has no policy, and plays `trajectories` trials.
    """

    unused: ClassVar[tuple[str, ...]] = (
        "update", "policy", "hidden", "init_std", "observe_task",
        *(f"gradients.{name}" for name in GRADIENTS if name != "trajectories"),
    )  # fmt: skip

    @abstractmethod
    def agent(self, family: TaskFamily) -> Agent:
        """Builds the agent that follows the strategy.

        Raises:
            SettingsError: The strategy does not suit the family.
        """

    def build(self, problem: ControlProblem, /) -> StrategyLearner:
        """Builds the learner; see `ControlAlgorithm.build`."""
        agent, trials = self.agent(problem.family), problem.gradients.trajectories
        return StrategyLearner(agent, problem.family, trials, problem.task_chunk_size)


class StrategyLearner(TrialLearner):
    """Plays trials by a fixed strategy; there is nothing to train.

    Args:
        strategy: The agent.
        family: Where the tasks come from.
        trials: Trials of each task.
        task_chunk_size: Tasks whose trials are played at once. None: all.
    """

    def __init__(
        self,
        strategy: Agent,
        family: TaskFamily,
        trials: int = 1,
        task_chunk_size: int | None = None,
    ) -> None:
        super().__init__(family, trials, task_chunk_size)
        self._strategy = strategy

    @property
    def agent(self) -> Agent:
        return self._strategy

    def collect(self, tasks: ControlTasks, generator: torch.Generator, iteration: int) -> NoReturn:
        """Refuses to train.

        Raises:
            SettingsError: Always.
        """
        del tasks, generator, iteration
        raise SettingsError(
            f"{type(self._strategy).__name__} has nothing to train; evaluate it as it is."
        )

    def forward(self, inputs: Any) -> NoReturn:
        """Refuses to train, as `collect`."""
        self.collect(inputs.tasks, torch.Generator(), 0)
