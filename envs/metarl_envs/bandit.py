"""Bernoulli bandits (Duan et al. 2016, RL^2, arXiv:1611.02779, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError
from metarl.ranges import COUNT, check_fields
from metarl.sim import Card, ControlTasks, Fact, Tasks, TorchFamily, WorldState
from metarl.tasks.base import Split, check_sampling, check_split
from metarl.tasks.disjoint_splits import split_uniform

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Bandit(TorchFamily):
    """Bernoulli bandits with k arms: arm i pays 1 with probability p_i, else 0; p ~ U(0, 1)^k.

    Attributes:
        arms: Number of arms k, at least 2.
        horizon: Pulls per episode, n.
        part: The split that tasks are sampled from.
    """

    arms: int = 5
    horizon: int = 100
    part: Split = "train"

    name = "Bandit-v1"
    published_units = True
    step_noise = 1

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)
        check_fields(self, horizon=COUNT)
        if self.arms < 2:
            raise SettingsError(f"Expected at least 2 arms, got {self.arms}.")

    @property
    def observation_space(self) -> spaces.Box:
        """A constant 1, because a bandit has no observation and a network needs an input.

        The lower bound is 0 because other libraries warn about a space with a single value.
        """
        return spaces.Box(0.0, 1.0, (1,), np.float32)

    @property
    def action_space(self) -> spaces.Discrete:
        """The index of the arm to pull."""
        return spaces.Discrete(self.arms)

    def card(self) -> Card:
        return Card(
            self.name,
            "pull the arm with the highest probability of a reward",
            "Duan et al. 2016, arXiv:1611.02779, section 3.1",
            (
                Fact("tasks", f"p ~ U(0, 1)^{self.arms}"),
                Fact("start", "no state"),
                Fact("observation", "constant 1", "MetaRL; the paper feeds reward and action"),
                Fact("action", f"arm a, one of {self.arms}", "the paper uses 5, 10 and 50"),
                Fact("dynamics", "none"),
                Fact("reward", "1 with probability p_a, else 0"),
                Fact("termination", "never"),
                Fact("horizon", f"{self.horizon} pulls", "the paper uses 10, 100 and 500"),
            ),
        )

    def split(self, name: Split) -> Bandit:
        """Returns the family over one split; splits share no probability of the first arm."""
        return replace(self, part=check_split(name))

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Samples "probabilities", [T, k] float32 in [0, 1)."""
        check_sampling(num_tasks, generator)
        shape = (num_tasks, self.arms + 1)
        draws = torch.rand(shape, generator=generator, device=generator.device)
        first = split_uniform(draws[:, 0], draws[:, 1], self.part)
        return ControlTasks({"probabilities": torch.cat([first.unsqueeze(1), draws[:, 2:]], 1)})

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """Returns "reward", [W]: the reward of the last pull, 0 at the start."""
        return {"reward": torch.zeros_like(tasks["probabilities"][:, 0])}

    def step(self, state: WorldState, actions: Tensor, tasks: Tasks, noise: Tensor) -> WorldState:
        # r ~ Bernoulli(p_a)
        probability = tasks["probabilities"].gather(1, actions.unsqueeze(1))
        return {"reward": (noise < probability)[:, 0].float()}

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        return torch.ones_like(state["reward"]).unsqueeze(1)

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        return after["reward"]

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the probabilities of all arms, [W, k]."""
        return tasks["probabilities"]

    def draw(self, axes: Axes, path: WorldState, tasks: Tasks) -> None:
        """Draws the probability of each arm, with the total reward so far in the title."""
        total, pulls = int(path["reward"].sum()), len(path["reward"]) - 1
        axes.bar(range(self.arms), tasks["probabilities"][0].tolist())
        axes.set(ylim=(0, 1), xlabel="arm", ylabel="probability of a reward")
        axes.set_title(f"{self.name}: reward {total} after {pulls} pulls")
