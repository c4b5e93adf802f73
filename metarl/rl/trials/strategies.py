"""Strategies: players with nothing to learn over tasks, to hold learners against."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NoReturn

import torch

from metarl.errors import SettingsError
from metarl.rl.trials.play import Agent
from metarl.rl.trials.trial_learner import TrialLearner
from metarl.sim.family import ControlTasks, TaskFamily


class StrategySettings(ABC):
    """Interface: settings that build a strategy for a family."""

    @abstractmethod
    def build(self, family: TaskFamily) -> Agent:
        """Builds the strategy.

        Raises:
            SettingsError: It does not suit the family.
        """


class StrategyLearner(TrialLearner):
    """Plays trials by a fixed strategy; it has nothing to train.

    Args:
        strategy: Who plays.
        family: Where the tasks come from.
        trials: Trials of each task.
    """

    def __init__(self, strategy: Agent, family: TaskFamily, trials: int = 1) -> None:
        super().__init__(family, trials)
        self._strategy = strategy

    @property
    def agent(self) -> Agent:
        """See `TrialLearner.agent`."""
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
