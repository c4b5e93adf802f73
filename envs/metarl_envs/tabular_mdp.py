"""Random tabular MDPs of Duan et al. 2016, section 3.1 (RL^2, arXiv:1611.02779)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim import Card, ControlTasks, Fact, Tasks, TorchFamily, WorldState, normal
from metarl.tasks.base import Split, check_num_tasks, check_split
from metarl.tasks.disjoint_splits import split_uniform

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class TabularMDP(TorchFamily):
    """S states and A actions with transitions P ~ Dir(1) and rewards r ~ N(m, 1), m ~ N(1, 1).

    Attributes:
        states: The number of states, S.
        actions: The number of actions, A.
        horizon: Steps of an episode.
        part: The split that tasks are drawn from.
    """

    states: int = 10
    actions: int = 5
    horizon: int = 10
    part: Split = "train"

    name = "TabularMDP-v1"
    step_noise = 2

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)
        if self.states < 1 or self.actions < 2:
            raise SettingsError(
                f"Expected at least 1 state and 2 actions, got {self.states} and {self.actions}."
            )

    @property
    def observation_space(self) -> spaces.Box:
        """The state, one-hot."""
        return spaces.Box(0.0, 1.0, (self.states,), np.float32)

    @property
    def action_space(self) -> spaces.Discrete:
        """The action."""
        return spaces.Discrete(self.actions)

    def card(self) -> Card:
        """See `TaskFamily.card`."""
        return Card(
            self.name,
            "find the way through a random MDP to the states that pay",
            "Duan et al. 2016, arXiv:1611.02779, section 3.1",
            (
                Fact("tasks", "transitions P(.|s, a) ~ Dir(1, ..., 1), mean rewards m ~ N(1, 1)"),
                Fact("start", "state 0"),
                Fact("observation", f"state s, one-hot, {self.states} numbers"),
                Fact("action", f"a, one of {self.actions}"),
                Fact("dynamics", "s' ~ P(.|s, a)"),
                Fact("reward", "r ~ N(m(s, a), 1)"),
                Fact("termination", "never"),
                Fact("horizon", f"{self.horizon} steps"),
            ),
        )

    def split(self, name: Split) -> TabularMDP:
        """See `TaskFamily.split`; no two splits share the first mean reward."""
        return replace(self, part=check_split(name))

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Samples "transitions" [T, S, A, S] and their mean "rewards" [T, S, A]."""
        check_num_tasks(num_tasks)
        options = {"generator": generator, "device": generator.device}
        table = (num_tasks, self.states, self.actions)
        # Exponential numbers over their sum are uniform on the simplex, which is Dir(1).
        weights = -torch.log1p(-torch.rand(*table, self.states, **options))
        rewards = 1 + torch.randn(table, **options)
        cell, inside = torch.rand(2, num_tasks, **options)
        rewards[:, 0, 0] = 1 + normal(split_uniform(cell, inside, self.part))
        return ControlTasks({"transitions": weights / weights.sum(3, True), "rewards": rewards})

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """See `TaskFamily.reset`; "state" is [W] int64, "reward" [W] what was paid last."""
        reward = torch.zeros_like(tasks["rewards"][:, 0, 0])
        return {"state": torch.zeros_like(reward, dtype=torch.int64), "reward": reward}

    def step(self, state: WorldState, actions: Tensor, tasks: Tasks, noise: Tensor) -> WorldState:
        """See `TorchFamily.step`."""
        place = (torch.arange(len(actions), device=actions.device), state["state"], actions)
        below = tasks["transitions"][place].cumsum(1) <= noise[:, :1]
        # Rounding may leave the sum of all below 1.
        following = below.sum(1).clamp(max=self.states - 1)
        return {"state": following, "reward": tasks["rewards"][place] + normal(noise[:, 1])}

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        """See `TaskFamily.observe`."""
        numbers = torch.arange(self.states, device=state["state"].device)
        return (state["state"].unsqueeze(1) == numbers).float()

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        """See `TaskFamily.reward`."""
        return after["reward"]

    def task_vector(self, tasks: Tasks) -> Tensor:
        """See `TaskFamily.task_vector`: transitions and mean rewards, S * A * (S + 1) numbers."""
        return torch.cat([tasks["transitions"].flatten(1), tasks["rewards"].flatten(1)], 1)

    def draw(self, axes: Axes, path: WorldState, tasks: Tasks) -> None:
        """See `TaskFamily.draw`: the states on a circle, as dark as their best action pays."""
        angles = 2 * torch.pi * torch.arange(self.states) / self.states
        places = torch.stack((angles.sin(), angles.cos()), 1)
        pay = tasks["rewards"][0].amax(1).tolist()
        axes.scatter(*places.T.tolist(), s=400, c=pay, cmap="Greens", edgecolors="grey")
        for number, (x, y) in enumerate(places.tolist()):
            axes.annotate(str(number), (1.2 * x, 1.2 * y), ha="center", va="center")
        way = places[path["state"]]
        axes.plot(*way.T.tolist(), color="#0072B2")
        axes.plot(*way[-1:].T.tolist(), "o", color="#D55E00")
        axes.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=[], yticks=[])
        axes.set_title(f"{self.name}: paid {float(path['reward'].sum()):.1f}")
