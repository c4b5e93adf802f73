"""The interface of learners that play trials: their worlds, returns and count of steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metarl import ranks
from metarl.chunks import FittingChunks
from metarl.rl.captured_rollouts import can_capture
from metarl.rl.captured_steps import can_capture_steps
from metarl.rl.control_learner import ControlLearner
from metarl.rl.rollouts import RolloutNoise
from metarl.rl.trials.captured_trial_steps import CapturedTrialSteps
from metarl.rl.trials.captured_trials import CapturedTrials
from metarl.rl.trials.play import Agent, Trials, draw_trial_noise, play
from metarl.rl.trials.trial_policy import TrialPolicy
from metarl.rl.units import Units
from metarl.rl.worlds import Worlds, check_policy_type
from metarl.sim.family import ControlTasks, TaskFamily, Tasks, check_control
from metarl.sim.physics_env import PhysicsVectorEnv
from metarl.sim.torch_engine import TorchVectorEnv
from metarl.tasks.batches import parameter_type


class TrialLearner(ControlLearner):
    """Interface of learners that adapt by acting: K steps are the first K episodes of a trial.

    Args:
        family: Where the tasks come from.
        trials: Trials of each task, N.
        task_chunk_size: Tasks whose trials are played at once. None: all.
        observe_task: Appends the task vector to the observation (an oracle).

    Attributes:
        keeps_next: Whether its trials contain the observation after each step.
    """

    plays_trials = True
    keeps_next: bool = False
    worlds: Worlds

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
        self._fitting = FittingChunks("trials")
        self.worlds = Worlds(family, observe_task)

    @property
    @abstractmethod
    def agent(self) -> Agent:
        """The agent that acts."""

    @property
    def units(self) -> Units | None:
        """The units of the agent; None: those of the environment."""
        return None

    def play(
        self, tasks: ControlTasks, episodes: int, generator: torch.Generator, *, own: bool = False
    ) -> Trials:
        """Plays trials of `episodes` episodes each; draws all randomness first.

        Args:
            tasks: The tasks.
            episodes: Episodes of a trial.
            generator: Source of all randomness.
            own: Plays this rank's tasks only.

        Raises:
            SettingsError: `episodes` is below 1.
            ShapeError: The parameters are not float32.
        """
        check_policy_type(parameter_type(self))
        check_control(tasks)
        counts = (tasks.num_tasks, self.trials, episodes)
        noise = draw_trial_noise(self.agent, self.family, *counts, generator)
        if own:
            tasks, noise = ranks.own((tasks, noise), tasks.num_tasks)

        def played(chunk: ControlTasks, numbers: RolloutNoise) -> Trials:
            parts = [
                self._played(values, draws)
                for _, values, draws in self.worlds.each(chunk.values, numbers)
            ]
            return self.worlds.join(parts, chunk.num_tasks)

        return self._fitting.map(played, (tasks, noise), self.task_chunk_size, tasks.num_tasks)

    def _played(self, tasks: Tasks, noise: RolloutNoise) -> Trials:
        """Plays the trials of `noise` at once; as graphs where they can be."""
        env, agent = self.worlds.get(noise), self.agent
        if isinstance(agent, TrialPolicy) and can_capture(env):
            assert isinstance(env, TorchVectorEnv)
            make = partial(CapturedTrials, env, agent, self.keeps_next)
        elif isinstance(agent, TrialPolicy) and can_capture_steps(env):
            assert isinstance(env, PhysicsVectorEnv)
            make = partial(CapturedTrialSteps, env, agent, self.keeps_next)
        else:
            return play(env, agent, tasks, noise, self.units, self.keeps_next)
        return self.worlds.captured(env, agent, make)(tasks, noise)

    def measures(
        self,
        tasks: ControlTasks,
        steps: int,
        generator: torch.Generator,
        scales: Sequence[float] = (),
        trajectories: int | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Yields the returns and the metrics of the successive episodes of one trial."""
        del scales, trajectories
        played = self.play(tasks, steps + 1, generator)
        returns = self.episode_returns(played)
        means = {name: values.mean(1) for name, values in played.metrics.items()}
        for episode in range(returns.shape[1]):
            others = {name: values[:, episode] for name, values in means.items()}
            yield {"return": returns[:, episode], **others}

    def episode_returns(self, trials: Trials) -> Tensor:
        """Returns the mean return of each episode, [T, E]."""
        return trials.returns.mean(1)

    def after_update(self, carry: dict[str, Any]) -> None:
        """Counts the environment steps of the trials."""
        self.count_steps(carry["environment_steps"])
