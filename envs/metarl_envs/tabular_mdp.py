"""Random tabular MDPs (Duan et al. 2016, RL^2, arXiv:1611.02779, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError
from metarl.ranges import COUNT, check_fields
from metarl.sim import Card, ControlTasks, Fact, Tasks, TorchFamily, WorldState, normal
from metarl.tasks.base import Split, check_sampling, check_split
from metarl.tasks.disjoint_splits import split_uniform

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class TabularMDP(TorchFamily):
    """MDPs with S states and A actions: P(.|s, a) ~ Dir(1), r ~ N(m(s, a), 1), m ~ N(1, 1).

    Attributes:
        states: Number of states S, at least 1.
        actions: Number of actions A, at least 2.
        horizon: Steps per episode.
        part: The split that tasks are sampled from.
    """

    states: int = 10
    actions: int = 5
    horizon: int = 10
    part: Split = "train"

    name = "TabularMDP-v1"
    published_units = True
    step_noise = 2

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)
        check_fields(self, horizon=COUNT)
        if self.states < 1 or self.actions < 2:
            raise SettingsError(
                f"Expected at least 1 state and 2 actions, got {self.states} and {self.actions}."
            )

    @property
    def observation_space(self) -> spaces.Box:
        """The state as a one-hot vector, [S]."""
        return spaces.Box(0.0, 1.0, (self.states,), np.float32)

    @property
    def action_space(self) -> spaces.Discrete:
        """The index of the action."""
        return spaces.Discrete(self.actions)

    def card(self) -> Card:
        return Card(
            self.name,
            "find the states and actions with high rewards in a random MDP",
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
        """Returns the family over one split; splits have disjoint mean rewards m(0, 0)."""
        return replace(self, part=check_split(name))

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Samples "transitions" [T, S, A, S] and mean "rewards" [T, S, A], float32."""
        check_sampling(num_tasks, generator)
        options = {"generator": generator, "device": generator.device}
        table = (num_tasks, self.states, self.actions)
        # w_i ~ Exp(1), P_i = w_i / sum_j w_j is Dir(1, ..., 1): uniform on the simplex.
        weights = -torch.log1p(-torch.rand(*table, self.states, **options))
        rewards = 1 + torch.randn(table, **options)
        cell, inside = torch.rand(2, num_tasks, **options)
        rewards[:, 0, 0] = 1 + normal(split_uniform(cell, inside, self.part))
        return ControlTasks({"transitions": weights / weights.sum(3, True), "rewards": rewards})

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """Returns "state" 0, [W] int64, and the last "reward" 0, [W]."""
        reward = torch.zeros_like(tasks["rewards"][:, 0, 0])
        return {"state": torch.zeros_like(reward, dtype=torch.int64), "reward": reward}

    def step(self, state: WorldState, actions: Tensor, tasks: Tasks, noise: Tensor) -> WorldState:
        index = (torch.arange(len(actions), device=actions.device), state["state"], actions)
        # s' ~ P(.|s, a), by the inverse CDF
        below = tasks["transitions"][index].cumsum(1) <= noise[:, :1]
        # The clamp is for rounding: the probabilities may add up to less than 1.
        next_state = below.sum(1).clamp(max=self.states - 1)
        # r ~ N(m(s, a), 1)
        return {"state": next_state, "reward": tasks["rewards"][index] + normal(noise[:, 1])}

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        numbers = torch.arange(self.states, device=state["state"].device)
        return (state["state"].unsqueeze(1) == numbers).float()

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        return after["reward"]

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns transitions and mean rewards, [W, S * A * (S + 1)]."""
        return torch.cat([tasks["transitions"].flatten(1), tasks["rewards"].flatten(1)], 1)

    def draw(self, axes: Axes, path: WorldState, tasks: Tasks) -> None:
        """Draws the states on a circle, darker for a higher mean reward of their best action."""
        angles = 2 * torch.pi * torch.arange(self.states) / self.states
        places = torch.stack((angles.sin(), angles.cos()), 1)
        pay = tasks["rewards"][0].amax(1).tolist()
        axes.scatter(*places.T.tolist(), s=400, c=pay, cmap="Greens", edgecolors="grey")
        for number, (x, y) in enumerate(places.tolist()):
            axes.annotate(str(number), (1.2 * x, 1.2 * y), ha="center", va="center")
        visited = places[path["state"]]
        axes.plot(*visited.T.tolist(), color="#0072B2")
        axes.plot(*visited[-1:].T.tolist(), "o", color="#D55E00")
        axes.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=[], yticks=[])
        axes.set_title(f"{self.name}: reward {float(path['reward'].sum()):.1f}")
