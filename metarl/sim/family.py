"""Base classes of families of control tasks: tensor functions over a batch of worlds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, short_repr
from metarl.sim.card import Card
from metarl.sim.episode_metrics import Reduction
from metarl.sim.spaces import idle_action
from metarl.tasks.base import Split

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Tasks = dict[str, Tensor]
"""Task parameters: name -> [T, *] for T tasks, or [W, *] for the tasks of W worlds."""

WorldState = dict[str, Tensor]
"""The simulation state of W worlds: name -> [W, *]."""

ActionSpace = spaces.Box | spaces.Discrete


@dataclass(frozen=True)
class ControlTasks:
    """A batch of T control tasks, whose data come from rollouts.

    Attributes:
        values: The parameters of the tasks, each [T, *].
    """

    values: Tasks

    @property
    def num_tasks(self) -> int:
        """The number of tasks, T."""
        return len(next(iter(self.values.values())))

    @property
    def info(self) -> Tasks:
        """The parameters of the tasks: `values`, under the name that supervised tasks use."""
        return self.values


def check_control(tasks: Any) -> None:
    """Raises ShapeError unless tasks are those of a family, for learners that act in its worlds."""
    if not isinstance(tasks, ControlTasks):
        raise ShapeError(
            "Expected tasks of a family, ControlTasks, whose data come from rollouts, got a "
            f"{type(tasks).__name__}. Give the learner's family, or a split of it; supervised "
            "tasks are for `GradientLearner` and other learners of examples."
        )


def check_is_family(family: Any) -> None:
    """Raises SettingsError for what is no family, as a class or an environment."""
    if isinstance(family, TaskFamily):
        return
    advice, got = "", short_repr(family)
    if isinstance(family, type):
        got = f"the class {family.__name__}"
        advice = f" Build one: {family.__name__}()." * issubclass(family, TaskFamily)
    elif isinstance(family, gymnasium.Env):
        advice = (
            " GymTasks makes one of an environment and what differs between tasks: "
            'GymTasks("Pendulum-v1", {"g": Uniform(5, 15)}).'
        )
    elif isinstance(family, str):
        advice = " `metarl.sim.make_family` builds those that are registered by their names."
    raise SettingsError(f"Expected a family of tasks, a TaskFamily, got {got}.{advice}")


class TaskFamily(ABC):
    """A distribution over control tasks with the same observation and action spaces.

    All methods are pure functions. They take and return tensors whose first dimension is the W
    worlds, run on the device of their arguments and never synchronise with it: they do not call
    `item` and do not branch on the values of a tensor. Random numbers are passed in, uniform in
    [0, 1); `normal` turns them into standard normal ones.

    Attributes:
        engine: Name of the engine that computes its dynamics: "torch", "mujoco", "gymnasium" or
            "batched".
        name: The name with a version, such as "Navigation2D-v1".
        horizon: The number of steps after which an episode is truncated, at least 1.
        reset_noise: The number of uniform random numbers per reset of one world.
        step_noise: The number of uniform random numbers per step of one world.
        published_units: Whether policies act in the units of the environment and see observations
            as they are, because published numbers do. Otherwise a policy has units of its own where
            bounds are not -1..1; see `metarl.rl.policy_for`.
        metrics: What is measured of an episode besides its return, by name: "any" (1 if a step's
            number was above 0, such as success), "last" or "mean" of the numbers of its steps,
            which `measure` returns. They are in the curves, tables and logs next to the return.
        worlds: How many worlds can exist at once; None for any number. More episodes are run in
            several parts; with 1 (a robot), one after another.
        longest_latency: The largest number of steps by which actions may reach the dynamics late;
            above 0, `latency` gives that of each task.
        noisy_sensors: Whether observations have noise of the deviation that `sensor_deviation`
            gives. The last O of the `reset_noise` and of the `step_noise` numbers are its draws.
    """

    engine: ClassVar[str] = ""
    name: str
    horizon: int
    reset_noise: int = 0
    step_noise: int = 0
    published_units: bool = False
    metrics: Mapping[str, Reduction] = MappingProxyType({})
    worlds: int | None = None
    longest_latency: int = 0
    noisy_sensors: bool = False

    @property
    @abstractmethod
    def observation_space(self) -> spaces.Box:
        """The observation space of one world: a vector of O float32 numbers."""

    @property
    @abstractmethod
    def action_space(self) -> ActionSpace:
        """The action space of one world: a vector of A float32 numbers, or one of n integers."""

    @abstractmethod
    def card(self) -> Card:
        """Returns every coefficient, range and horizon of the family, with its source."""

    @abstractmethod
    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        """Samples tasks of this split, on the device of the generator."""

    @abstractmethod
    def split(self, name: Split) -> TaskFamily:
        """Returns the family restricted to the tasks of one split.

        Splits are disjoint if tasks are continuous. If they are not disjoint, the card says so.
        """

    @abstractmethod
    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """Returns the initial states of episodes of these tasks.

        Args:
            tasks: The task of each world, [W, *] per name.
            noise: Uniform numbers in [0, 1), [W, reset_noise] float32.
        """

    @abstractmethod
    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        """Returns the observations, [W, O] float32, as a new tensor and not a view of the state."""

    @abstractmethod
    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        """Returns the reward of a step, [W] float32.

        Args:
            before: The state before the step.
            actions: The actions of the policy before any clipping, [W, A] float32 or [W] int64.
            after: The state after the step.
            tasks: The task of each world.
        """

    def measure(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> dict[str, Tensor]:
        """Returns the numbers of a step that `metrics` names, [W] float32 each.

        NaN is a number that the step does not report. The arguments are those of `reward`.
        """
        return {}

    def terminated(self, state: WorldState, tasks: Tasks) -> Tensor:
        """Returns which worlds have reached a terminal state, [W] bool.

        The time limit does not count. By default no state is terminal.
        """
        values = next(iter(state.values()))
        return torch.zeros(len(values), dtype=torch.bool, device=values.device)

    def truncated(self, state: WorldState, tasks: Tasks) -> Tensor:
        """Returns which worlds are cut off in this state, although it is not terminal, [W] bool.

        The horizon does not count. The return of a truncated episode may continue with the value
        of its last state (`bootstrap`). By default no episode is cut off before the horizon.
        """
        return TaskFamily.terminated(self, state, tasks)

    @property
    def idle_action(self) -> np.ndarray:
        """What acts before the first late action arrives, [A] float32 or one integer.

        By default it is 0 for the environment, or the bound nearest to 0.
        """
        return idle_action(self.action_space)

    def latency(self, tasks: Tasks) -> Tensor:
        """Returns how many steps late actions reach the dynamics, [W] int64.

        The numbers are 0 to `longest_latency`. By default all are 0.
        """
        values = next(iter(tasks.values()))
        return torch.zeros(len(values), dtype=torch.int64, device=values.device)

    def sensor_deviation(self, tasks: Tasks) -> Tensor:
        """Returns the standard deviation of the noise on each observed number, [W, O] float32.

        By default all are 0.
        """
        values = next(iter(tasks.values()))
        return torch.zeros(len(values), *self.observation_space.shape, device=values.device)

    @abstractmethod
    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the task vector that an oracle policy observes, [W, D] float32."""

    @property
    def may_terminate(self) -> bool:
        """Whether the family defines terminal states."""
        return type(self).terminated is not TaskFamily.terminated

    @property
    def may_truncate(self) -> bool:
        """Whether the family cuts episodes off before the horizon."""
        return type(self).truncated is not TaskFamily.truncated

    @property
    def step_seconds(self) -> float | None:
        """Simulated time of one step in seconds; None if the family does not define it."""
        return None

    @property
    def world_settings(self) -> dict[str, Any]:
        """What its worlds are besides their tasks, by name; equal for families that play alike."""
        return {
            "horizon": self.horizon,
            "metrics": dict(self.metrics),
            "observation space": self.observation_space,
            "action space": self.action_space,
        }

    def draw(self, axes: Axes, path: WorldState, tasks: Tasks) -> None:
        """Draws one world, for families whose engine has no renderer.

        By default it plots the observations over the steps.

        Args:
            axes: Empty axes to draw on.
            path: The L states of the episode so far, in order, [L, *] per name.
            tasks: The task of the world, repeated L times as the other methods expect it,
                [L, *] per name.
        """
        observations = self.observe(path, tasks)
        axes.plot(observations.numpy(), marker="." if len(observations) == 1 else "")
        axes.set(xlim=(0, self.horizon), xlabel="step", ylabel="observation", title=self.name)


class TorchFamily(TaskFamily):
    """A family whose dynamics are a tensor function, `step`."""

    engine: ClassVar[str] = "torch"

    @abstractmethod
    def step(self, state: WorldState, actions: Tensor, tasks: Tasks, noise: Tensor) -> WorldState:
        """Returns the state after one step.

        Random rewards are drawn here and stored in the state.

        Args:
            state: The state of each world; it is not modified.
            actions: The actions of the policy, [W, A] float32, not clipped, or [W] int64 in range.
            tasks: The task of each world.
            noise: Uniform numbers in [0, 1), [W, step_noise] float32.
        """


def normal(uniform: Tensor) -> Tensor:
    """Returns standard normal numbers for uniform numbers in [0, 1), by the inverse normal CDF."""
    # z = Phi^{-1}(u); the clamp keeps z finite at u = 0.
    smallest = torch.finfo(uniform.dtype).eps / 2
    return torch.special.ndtri(uniform.clamp(smallest, 1 - smallest))
