"""Worlds whose dynamics a physics engine computes, between two tensor functions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.sim.family import Tasks, WorldState
from metarl.sim.vector_env import TensorVectorEnv


class Carried(NamedTuple):
    """What the tensor functions of a step read and replace, besides the engine's memory.

    Attributes:
        tasks: The task of each world, [W, *] per name.
        task_vector: The numbers of the tasks that oracles observe, [W, K].
        state: The state before the step, [W, *] per name.
        disturbances: The tensors of late actions and noisy sensors, None where there are none.
    """

    tasks: Tasks
    task_vector: Tensor
    state: WorldState
    disturbances: dict[str, Any]


class PhysicsVectorEnv(TensorVectorEnv):
    """Interface of worlds that are stepped by an engine with separate memory.

    A step is `command`, which writes the controls, `run`, the engine's own computation, and `look`,
    which reads the state. `command` and `look` are tensor functions, so that what lies between two
    computations of the engine can be captured as a graph.

    Attributes:
        engine: The memory that `send` writes and `receive` reads, by name.
    """

    engine: dict[str, Tensor]

    @abstractmethod
    def send(self, actions: Tensor) -> None:
        """Writes the controls of the next step for actions, [W, A] float32 or [W] int64."""

    @abstractmethod
    def run(self) -> None:
        """Computes a step of all worlds, from and to the engine's memory."""

    @abstractmethod
    def receive(self, before: WorldState) -> WorldState:
        """Returns the state that the engine has reached, given the state before the step."""

    def advance(self, actions: Tensor, noise: Tensor) -> WorldState:
        self.send(actions)
        self.run()
        return self.receive(self._state)

    def command(self, actions: Tensor, noise: Tensor) -> Tensor:
        """Sends actions; returns them as tensors of the environment.

        Args:
            actions: [W, A] float32 or [W] int64.
            noise: Uniform numbers of the step, [W, step_noise].
        """
        actions, valid_actions = self._prepare_actions(actions)
        self.send(self._disturbances.step(valid_actions, noise))
        return actions

    def look(self) -> Tensor:
        """Receives the state; returns the observations, [W, O] float32."""
        self._state = self.receive(self._state)
        return self._compute_observation()

    def step_noise(self) -> Tensor:
        """Returns the numbers of all steps of an episode, [H, W, step_noise]."""
        return torch.stack(self._noise.steps())

    def carried(self) -> Carried:
        """Returns what the next step reads, not copied."""
        return Carried(self._tasks, self._task_vector, self._state, self._disturbances.tensors())

    def hold(self, carried: Carried) -> None:
        """Makes the next step read these tensors."""
        self._tasks, self._task_vector, self._state = carried[:3]
        self._disturbances.use(carried.disturbances)
