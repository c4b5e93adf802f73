"""What a family of control tasks is: one definition, as tensor functions over worlds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.sim.card import Card
from metarl.tasks.base import Split

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Tasks = dict[str, Tensor]
"""What tells tasks apart: name -> [T, *], or [W, *] for the task of each of W worlds."""

WorldState = dict[str, Tensor]
"""All that worlds need to go on: name -> [W, *]."""

ActionSpace = spaces.Box | spaces.Discrete


@dataclass(frozen=True)
class ControlTasks:
    """A batch of T control tasks; their experience comes from rollouts.

    Attributes:
        values: What tells the tasks apart, each [T, *].
    """

    values: Tasks

    @property
    def num_tasks(self) -> int:
        """The number of tasks, T."""
        return len(next(iter(self.values.values())))

    @property
    def info(self) -> Tasks:
        """What tells the tasks apart, under the name that supervised tasks give it."""
        return self.values


class TaskFamily(ABC):
    """A distribution over control tasks that share observations, actions and dynamics.

    All functions are pure, take and return tensors with the W worlds leading, run on the device
    of their arguments and never wait for it: no `item`, no branch on a tensor's values.
    Randomness comes in as uniform numbers; `normal` makes normal ones of them.

    Attributes:
        name: Its name with a version, "Navigation2D-v1".
        horizon: Steps after which an episode is truncated, at least 1.
        reset_noise: How many uniform numbers in [0, 1) a reset of one world consumes.
        step_noise: How many a step of one world consumes.
    """

    name: str
    horizon: int
    reset_noise: int = 0
    step_noise: int = 0

    @property
    @abstractmethod
    def observation_space(self) -> spaces.Box:
        """What one world shows: a vector of O float32 numbers."""

    @property
    @abstractmethod
    def action_space(self) -> ActionSpace:
        """What one world takes: a vector of A float32 numbers, or one of n whole numbers."""

    @abstractmethod
    def card(self) -> Card:
        """Returns every coefficient, range and horizon of the family with its source."""

    @abstractmethod
    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Draws tasks of this split, on the generator's device."""

    @abstractmethod
    def split(self, name: Split) -> TaskFamily:
        """Returns the family over the tasks of one split.

        Splits share no task where tasks are continuous; else the card says that they do.
        """

    @abstractmethod
    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """Returns the state in which episodes of these tasks start.

        Args:
            tasks: The task of each world, [W, *] per name.
            noise: Uniform numbers in [0, 1), [W, reset_noise] float32.
        """

    @abstractmethod
    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        """Returns what is seen, [W, O] float32: a tensor of its own, no view of the state."""

    @abstractmethod
    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        """Returns the reward of a step, [W] float32.

        Args:
            before: The state that the action was chosen in.
            actions: What the policy chose, before any clipping: [W, A] float32 or [W] int64.
            after: The state that the step led to.
            tasks: The task of each world.
        """

    def terminated(self, state: WorldState, tasks: Tasks) -> Tensor:
        """Tells which worlds reached an end of their task, [W] bool; time limits do not count.

        By default none ever does.
        """
        values = next(iter(state.values()))
        return torch.zeros(len(values), dtype=torch.bool, device=values.device)

    @abstractmethod
    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns what an oracle policy is told of each task, [W, D] float32."""

    def draw(self, axes: Axes, path: WorldState, tasks: Tasks) -> None:
        """Draws one world, for families that no engine has pictures of.

        By default it draws what was observed against the steps.

        Args:
            axes: Where to draw; it is empty.
            path: The states of its episode so far, one after another: [L, *] per name.
            tasks: Its task, [L, *] per name: L times the same, so that all functions here take it.
        """
        observations = self.observe(path, tasks)
        axes.plot(observations.numpy(), marker="." if len(observations) == 1 else "")
        axes.set(xlim=(0, self.horizon), xlabel="step", ylabel="observation", title=self.name)

    @property
    def task_size(self) -> int:
        """How many numbers `task_vector` tells of a task, D."""
        return self.task_vector(self.sample(1, torch.Generator()).values).shape[1]


class TorchFamily(TaskFamily):
    """A family whose dynamics are a tensor function too."""

    @abstractmethod
    def step(self, state: WorldState, actions: Tensor, tasks: Tasks, noise: Tensor) -> WorldState:
        """Returns the state after one step; random rewards are drawn here and kept in it.

        Args:
            state: The state of each world; it is left as it is.
            actions: What the policy chose, [W, A] float32, not clipped yet, or [W] int64 in range.
            tasks: The task of each world.
            noise: Uniform numbers in [0, 1), [W, step_noise] float32.
        """


def normal(uniform: Tensor) -> Tensor:
    """Returns standard normal numbers for uniform ones in [0, 1), by the inverse of their law."""
    smallest = torch.finfo(uniform.dtype).eps / 2
    return torch.special.ndtri(uniform.clamp(smallest, 1 - smallest))
