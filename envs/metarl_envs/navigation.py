"""2D navigation of Finn et al. 2017, section 5.3 (arXiv:1703.03400), as their code has it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.sim import Card, ControlTasks, Fact, Tasks, TorchFamily, WorldState
from metarl.tasks.base import Split, check_num_tasks, check_split
from metarl.tasks.cells import split_uniform


@dataclass(frozen=True)
class Navigation2D(TorchFamily):
    """A point in the plane walks to a goal that it is not shown; the reward is -||s - g||_2.

    Attributes:
        horizon: Steps of an episode.
        part: The split that goals are drawn from.
    """

    horizon: int = 100
    part: Split = "train"

    name = "Navigation2D-v1"
    goals = (-0.5, 0.5)
    step_size = 0.1
    radius = 0.01

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)

    @property
    def observation_space(self) -> spaces.Box:
        """The position (x, y)."""
        return spaces.Box(-np.inf, np.inf, (2,), np.float32)

    @property
    def action_space(self) -> spaces.Box:
        """The displacement (dx, dy) in tenths."""
        return spaces.Box(-1.0, 1.0, (2,), np.float32)

    def card(self) -> Card:
        """See `Family.card`."""
        low, high = self.goals
        size = self.step_size
        return Card(
            self.name,
            "a point walks to a goal that only the reward tells",
            "Finn et al. 2017 (arXiv:1703.03400) and github.com/cbfinn/maml_rl, "
            "point_env_randgoal.py",
            (
                Fact("tasks", f"goal g ~ U({low}, {high})^2"),
                Fact("start", "s = (0, 0)"),
                Fact("observation", "position s, 2 numbers"),
                Fact("action", f"a clipped to [-1, 1]^2; 1.0 moves by {size}"),
                Fact("dynamics", f"s' = s + {size} * clip(a, -1, 1)"),
                Fact("reward", "-||s' - g||_2, after the move", "the code; the paper squares it"),
                Fact("termination", f"|x - g_x| < {self.radius} and |y - g_y| < {self.radius}"),
                Fact("horizon", f"{self.horizon} steps"),
            ),
        )

    def split(self, name: Split) -> Navigation2D:
        """See `Family.split`; the splits share no x-coordinate of a goal."""
        return replace(self, part=check_split(name))

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """See `Family.sample`; "goal" is [T, 2]."""
        check_num_tasks(num_tasks)
        cell, inside, y = torch.rand(3, num_tasks, generator=generator, device=generator.device)
        low, high = self.goals
        unit = torch.stack([split_uniform(cell, inside, self.part), y], 1)
        return ControlTasks({"goal": low + (high - low) * unit})

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """See `Family.reset`; "position" is [W, 2]."""
        return {"position": torch.zeros_like(tasks["goal"])}

    def step(self, state: WorldState, actions: Tensor, tasks: Tasks, noise: Tensor) -> WorldState:
        """See `TorchFamily.step`."""
        move = actions.clamp(-1.0, 1.0)
        return {"position": torch.add(state["position"], move, alpha=self.step_size)}

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        """See `Family.observe`."""
        return state["position"].clone()

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        """See `Family.reward`."""
        return -torch.linalg.vector_norm(after["position"] - tasks["goal"], dim=1)

    def terminated(self, state: WorldState, tasks: Tasks) -> Tensor:
        """See `Family.terminated`."""
        return ((state["position"] - tasks["goal"]).abs() < self.radius).all(1)

    def task_vector(self, tasks: Tasks) -> Tensor:
        """See `Family.task_vector`: the goal."""
        return tasks["goal"]
