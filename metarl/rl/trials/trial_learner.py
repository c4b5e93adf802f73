"""What learners that play trials share: their worlds, their returns, their count of steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import ControlLearner
from metarl.rl.trials.play import Agent, Trials, draw_trial_noise, play
from metarl.rl.worlds import Worlds
from metarl.sim.family import ControlTasks, TaskFamily
from metarl.trees import concatenate_tasks, cut_tasks


class TrialLearner(ControlLearner):
    """A learner that adapts by playing on: K adaptation steps are the first K episodes of a trial.

    Args:
        family: Where the tasks come from.
        trials: Trials of each task, N.
        task_chunk_size: Tasks whose trials are played at once. None: all.
        observe_task: Tells the agent the task, behind the observation (the oracle).
    """

    def __init__(
        self,
        family: TaskFamily,
        trials: int,
        task_chunk_size: int | None = None,
        observe_task: bool = False,
    ) -> None:
        super().__init__()
        self.family = family
        self.trials = trials
        self.task_chunk_size = task_chunk_size
        self.worlds = Worlds(family, observe_task)

    @property
    @abstractmethod
    def agent(self) -> Agent:
        """Who plays."""

    def play(self, tasks: ControlTasks, episodes: int, generator: torch.Generator) -> Trials:
        """Plays trials of so many episodes; the randomness is drawn before all of them.

        Raises:
            SettingsError: There is no episode.
        """
        counts = (tasks.num_tasks, self.trials, episodes)
        noise = draw_trial_noise(self.agent, self.family, *counts, generator)
        parts = [
            play(self.worlds.get(part), self.agent, some.values, part)
            for some, part in cut_tasks((tasks, noise), self.task_chunk_size)
        ]
        return parts[0] if len(parts) == 1 else concatenate_tasks(parts)

    def returns(
        self, tasks: ControlTasks, steps: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """See `ControlLearner.returns`: those of the episodes of one trial, after one another."""
        played = self.play(tasks, steps + 1, generator)
        yield from played.returns.mean(1).unbind(1)

    def after_update(self, carry: dict[str, Any]) -> None:
        """See `Learner.after_update`; counts the steps of the trials."""
        self.environment_steps += int(carry["environment_steps"].sum())

    def extra_state(self) -> dict[str, Any]:
        """See `Learner.extra_state`."""
        return {"environment_steps": self.environment_steps}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """See `Learner.load_extra_state`."""
        self.environment_steps = state["environment_steps"]
