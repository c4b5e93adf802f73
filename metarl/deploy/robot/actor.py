"""The interface of what acts on one robot: a policy with fixed parameters, or one with a memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np

Action = np.ndarray | int
"""One action: [A] float32, or the number of a discrete one."""


class Belief(NamedTuple):
    """The posterior of a task's latent, a normal distribution with independent entries.

    Attributes:
        mean: Shape [K] float32.
        std: The standard deviations, [K] float32.
    """

    mean: np.ndarray
    std: np.ndarray


class Actor(ABC):
    """Interface of what acts on one observation after another.

    Attributes:
        row: Where the observation is written before `act`, [O] float32, the environment's units.
    """

    row: np.ndarray

    @property
    def belief(self) -> Belief | None:
        """The posterior of the task at the last `act`; None before it and without a latent."""
        return None

    @abstractmethod
    def act(self, explore: bool) -> tuple[Action, Action]:
        """Returns an action for the observation in `row`.

        Args:
            explore: Whether it is sampled; otherwise it is the most likely one.

        Returns:
            The action in the policy's units, a new array [A] float32 or an int; and the same in the
            environment's units, not clipped.
        """

    def observe(self, action: Action, reward: float, ended: bool) -> None:
        """Takes over what became of an action; only actors with a memory use it.

        Args:
            action: The action that was executed, in the policy's units.
            reward: Its reward.
            ended: Whether the episode ended.
        """
        del action, reward, ended

    def end(self) -> None:  # noqa: B027
        """Takes over that the episode ended after the last action; see `observe`."""
