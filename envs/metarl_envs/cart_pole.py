"""Gymnasium's cart-pole as a family of tensors: masses, lengths and motors differ between tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.ranges import COUNT, check_fields
from metarl.sim import Card, ControlTasks, Fact, Tasks, TorchFamily, WorldState
from metarl.tasks.base import Split, check_sampling, check_split
from metarl.tasks.disjoint_splits import split_uniform


@dataclass(frozen=True)
class CartPole(TorchFamily):
    """The cart-pole of Barto, Sutton and Anderson 1983 with gymnasium's numbers, of other robots.

    The policy observes neither masses nor length nor force, and not on which side the motor pushes.

    Attributes:
        mirrored: Whether the motor of half of the tasks pushes the other way.
        horizon: Steps per episode.
        part: The split that tasks are sampled from.
    """

    mirrored: bool = True
    horizon: int = 200
    part: Split = "train"

    name = "CartPole-v1"
    reset_noise = 4
    gravity = 9.8
    seconds = 0.02
    far = 2.4
    steepest = 12 * 2 * math.pi / 360
    start = 0.05
    ranges = {  # noqa: RUF012 - nothing writes into it
        "length": (0.3, 0.7), "pole_mass": (0.05, 0.15), "cart_mass": (0.7, 1.3),
        "force": (7.0, 13.0),
    }  # fmt: skip

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)
        check_fields(self, horizon=COUNT)

    @property
    def observation_space(self) -> spaces.Box:
        """Place, speed, angle and angular speed, with gymnasium's bounds."""
        high = np.array([2 * self.far, np.inf, 2 * self.steepest, np.inf], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> spaces.Discrete:
        """0 pushes to the left, 1 to the right; the other way round in mirrored tasks."""
        return spaces.Discrete(2)

    @property
    def step_seconds(self) -> float:
        return self.seconds

    def card(self) -> Card:
        laws = ", ".join(f"{name} ~ U{ends}" for name, ends in self.ranges.items())
        mirrored = ", force negative for half of the tasks" if self.mirrored else ""
        return Card(
            self.name,
            "keep a pole upright on a cart; masses, length and motor differ",
            "Barto, Sutton, Anderson 1983, doi:10.1109/TSMC.1983.6313077; code: gymnasium, "
            "envs/classic_control/cartpole.py (CartPole-v1); ranges of tasks: MetaRL",
            (
                Fact("tasks", laws + mirrored),
                Fact("start", f"all of the state ~ U(-{self.start}, {self.start})"),
                Fact("observation", "x, x', theta, theta', 4 numbers"),
                Fact("action", "0 pushes by -force, 1 by +force, in N"),
                Fact("dynamics", f"Euler steps of {self.seconds} s"),
                Fact("reward", "1 per step"),
                Fact("termination", f"|x| above {self.far} m or |theta| above 12 degrees"),
                Fact("horizon", f"{self.horizon} steps", "gymnasium: 500"),
            ),
        )

    def split(self, name: Split) -> CartPole:
        """Returns the family over one split; splits have disjoint lengths."""
        return replace(self, part=check_split(name))

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        check_sampling(num_tasks, generator)
        draws = torch.rand(6, num_tasks, generator=generator, device=generator.device)
        names = list(self.ranges)
        values = {names[0]: split_uniform(draws[0], draws[1], self.part, *self.ranges[names[0]])}
        for name, draw in zip(names[1:], draws[2:5], strict=True):
            low, high = self.ranges[name]
            values[name] = low + (high - low) * draw
        if self.mirrored:
            values["force"] = torch.where(draws[5] < 0.5, -values["force"], values["force"])
        return ControlTasks(values)

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        # (x, x', theta, theta') ~ U(-start, start)
        return {"state": self.start * (2 * noise - 1)}

    def step(self, state: WorldState, actions: Tensor, tasks: Tasks, noise: Tensor) -> WorldState:
        _, speed, angle, turning = state["state"].unbind(1)
        length, pole = tasks["length"], tasks["pole_mass"]
        total = pole + tasks["cart_mass"]
        force = torch.where(actions == 1, tasks["force"], -tasks["force"])
        cos, sin = angle.cos(), angle.sin()
        # Florian 2007, equations 23 and 24, without friction
        push = (force + pole * length * turning.square() * sin) / total
        inertia = length * (4.0 / 3.0 - pole * cos.square() / total)
        angular = (self.gravity * sin - cos * push) / inertia
        linear = push - pole * length * angular * cos / total
        rates = torch.stack((speed, linear, turning, angular), 1)
        return {"state": torch.add(state["state"], rates, alpha=self.seconds)}

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        return state["state"].clone()

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        return torch.ones_like(after["state"][:, 0])

    def terminated(self, state: WorldState, tasks: Tasks) -> Tensor:
        x, angle = state["state"][:, 0], state["state"][:, 2]
        return (x.abs() > self.far) | (angle.abs() > self.steepest)

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns length, masses and force, [W, 4]."""
        return torch.stack([tasks[name] for name in self.ranges], 1)
