"""Bernoulli bandits of Duan et al. 2016, section 3.1 (RL^2, arXiv:1611.02779)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim import Card, ControlTasks, Fact, Tasks, TorchFamily, WorldState
from metarl.tasks.base import Split, check_num_tasks, check_split
from metarl.tasks.disjoint_splits import split_uniform

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Bandit(TorchFamily):
    """Arm i pays 1 with probability p_i, else 0; p ~ U(0, 1)^k.

    Attributes:
        arms: The number of arms, k.
        horizon: Pulls of an episode, n.
        part: The split that tasks are drawn from.
    """

    arms: int = 5
    horizon: int = 100
    part: Split = "train"

    name = "Bandit-v1"
    step_noise = 1

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)
        if self.arms < 2:
            raise SettingsError(f"Expected at least 2 arms, got {self.arms}.")

    @property
    def observation_space(self) -> spaces.Box:
        """The number 1: there is nothing to see, and a network needs an input.

        Other libraries warn of a space of one value, hence the limit of 0.
        """
        return spaces.Box(0.0, 1.0, (1,), np.float32)

    @property
    def action_space(self) -> spaces.Discrete:
        """The arm to pull."""
        return spaces.Discrete(self.arms)

    def card(self) -> Card:
        """See `TaskFamily.card`."""
        return Card(
            self.name,
            "pull the arm that pays most often",
            "Duan et al. 2016, arXiv:1611.02779, section 3.1",
            (
                Fact("tasks", f"p ~ U(0, 1)^{self.arms}"),
                Fact("start", "nothing to start"),
                Fact("observation", "the number 1", "MetaRL; the paper feeds reward and action"),
                Fact("action", f"an arm a of {self.arms}", "the paper has 5, 10 and 50"),
                Fact("dynamics", "none"),
                Fact("reward", "1 with probability p_a, else 0"),
                Fact("termination", "never"),
                Fact("horizon", f"{self.horizon} pulls", "the paper has 10, 100 and 500"),
            ),
        )

    def split(self, name: Split) -> Bandit:
        """See `TaskFamily.split`; no two splits share the probability of the first arm."""
        return replace(self, part=check_split(name))

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """See `TaskFamily.sample`; "probabilities" is [T, k]."""
        check_num_tasks(num_tasks)
        shape = (num_tasks, self.arms + 1)
        draws = torch.rand(shape, generator=generator, device=generator.device)
        first = split_uniform(draws[:, 0], draws[:, 1], self.part)
        return ControlTasks({"probabilities": torch.cat([first.unsqueeze(1), draws[:, 2:]], 1)})

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """See `TaskFamily.reset`; "reward" [W] is what was paid last."""
        return {"reward": torch.zeros_like(tasks["probabilities"][:, 0])}

    def step(self, state: WorldState, actions: Tensor, tasks: Tasks, noise: Tensor) -> WorldState:
        """See `TorchFamily.step`."""
        pays = tasks["probabilities"].gather(1, actions.unsqueeze(1))
        return {"reward": (noise < pays)[:, 0].float()}

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        """See `TaskFamily.observe`."""
        return torch.ones_like(state["reward"]).unsqueeze(1)

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        """See `TaskFamily.reward`."""
        return after["reward"]

    def task_vector(self, tasks: Tasks) -> Tensor:
        """See `TaskFamily.task_vector`: the probabilities."""
        return tasks["probabilities"]

    def draw(self, axes: Axes, path: WorldState, tasks: Tasks) -> None:
        """See `TaskFamily.draw`: each arm's probability, and what was paid so far."""
        paid, pulls = int(path["reward"].sum()), len(path["reward"]) - 1
        axes.bar(range(self.arms), tasks["probabilities"][0].tolist())
        axes.set(ylim=(0, 1), xlabel="arm", ylabel="probability that it pays")
        axes.set_title(f"{self.name}: paid {paid} of {pulls} pulls seen")
