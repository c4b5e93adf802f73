"""Speed of RL^2: environment steps per second of trials and of training iterations.

    python -m benchmarks.rl2                                    # bandits, 50 pulls
    python -m benchmarks.rl2 --where mdp --episodes 10          # tabular MDPs
    python -m benchmarks.rl2 --compile                          # also the compiled iteration

"loop" plays the same trials task by task, as plain torch code would; it does not train. Prints
milliseconds, followed by environment steps per second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from metarl_envs.bandit import Bandit
from metarl_envs.tabular_mdp import TabularMDP
from rich.console import Console

from benchmarks.timing import MetaIteration, Times, TurnSettings, print_race, race
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.trials.recurrent_learner import RecurrentLearner, RL2Algorithm
from metarl.rl.trials.recurrent_policy import RecurrentPolicy
from metarl.sim.family import TaskFamily
from metarl.training.proximal import ProximalSettings
from metarl.training.settings import TrainingSettings
from metarl.trees import take_tasks


@dataclass(frozen=True)
class RL2Benchmark(TurnSettings):
    """Settings of the benchmark."""

    where: Literal["bandit", "mdp"] = "bandit"
    """The family."""
    steps: int = 50
    """Steps per episode."""
    episodes: int = 1
    """Episodes per trial."""
    tasks: int = 100
    """Trials per iteration, each with a different task."""
    units: int = 64
    """Width of the recurrent state."""
    epochs: int = 5
    """PPO epochs: optimiser steps on the same trials."""
    rounds: int = 3
    compile: bool = False
    """Also measures a compiled iteration."""


class Playing:
    """Plays the trials of one iteration.

    Args:
        learner: The learner whose policy plays.
        tasks: Number of tasks.
        together: Plays all tasks in one batch instead of one after the other.
    """

    def __init__(self, learner: RecurrentLearner, tasks: int, together: bool) -> None:
        self.learner = learner
        self.together = together
        self.generator = torch.Generator().manual_seed(0)
        self.tasks = learner.family.sample(tasks, self.generator)

    def __call__(self) -> None:
        """Plays the trials."""
        episodes, count = self.learner.settings.episodes, self.tasks.num_tasks
        size = count if self.together else 1
        for first in range(0, count, size):
            some = take_tasks(self.tasks, first, first + size)
            self.learner.play(some, episodes, self.generator)


def family_of(settings: RL2Benchmark) -> TaskFamily:
    """Returns the family of the benchmark."""
    if settings.where == "bandit":
        return Bandit(horizon=settings.steps)
    return TabularMDP(horizon=settings.steps)


def print_rates(times: dict[str, Times], steps: int) -> None:
    """Prints the environment steps per second of each candidate."""
    for name, time_ in times.items():
        Console().print(f"{name}: {1e3 * steps / time_.median:,.0f} environment steps a second")


def main(settings: RL2Benchmark) -> None:
    """Runs the benchmark and prints its results."""
    s = settings
    torch.set_num_threads(s.threads)
    family, generator = family_of(s), torch.Generator().manual_seed(0)
    policy = RecurrentPolicy(
        family.observation_space, family.action_space, generator, units=s.units
    )
    gradients = PolicyGradientSettings(1, 0.99, 0.3, clip=0.2)
    learner = RecurrentLearner(policy, family, RL2Algorithm(s.episodes, s.units), gradients)
    candidates: dict[str, Callable[[], None]] = {
        "loop, trials": Playing(learner, s.tasks, together=False),
        "MetaRL, trials": Playing(learner, s.tasks, together=True),
    }
    for compiled in (False, True)[: 1 + s.compile]:
        training = TrainingSettings(meta_batch_size=s.tasks, compile=compiled)
        name = f"MetaRL, {'compiled ' * compiled}iteration"
        candidates[name] = MetaIteration(learner, family, training, ProximalSettings(s.epochs))
    times = race(candidates, s.rounds, s.seconds)
    title = f"{family.name}: {s.tasks} trials of {s.episodes} x {s.steps} steps, {s.units} units"
    print_race(title, times, ["loop, trials"])
    print_rates(times, s.tasks * s.episodes * s.steps)


if __name__ == "__main__":
    main(tyro.cli(RL2Benchmark, description=__doc__))
