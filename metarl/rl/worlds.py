"""The environments of a learner, created on first use."""

from __future__ import annotations

from typing import Any

import torch

from metarl.errors import ShapeError
from metarl.rl.rollouts import RolloutNoise
from metarl.sim.family import TaskFamily
from metarl.sim.make import make_vec
from metarl.sim.vector_env import Observer, TensorVectorEnv


class Worlds:
    """Vector environments of one family without autoreset, one for each size and device.

    Copies and pickles leave out the environments and the observer: a copy builds its own.

    Args:
        family: The task family of the worlds.
        observe_task: Appends the task to the observations.
    """

    def __init__(self, family: TaskFamily, observe_task: bool = False) -> None:
        self.family = family
        self.observe_task = observe_task
        self._envs: dict[tuple[int, torch.device], TensorVectorEnv] = {}
        self._observer: Observer | None = None

    def get(self, noise: RolloutNoise) -> TensorVectorEnv:
        """Returns the environment that has one world for each rollout of `noise`."""
        count, device = noise.reset.shape[0] * noise.reset.shape[1], noise.reset.device
        key = (count, device)
        if key not in self._envs:
            self._envs[key] = make_vec(
                self.family, count, device=device, autoreset="disabled",
                observe_task=self.observe_task,
            )  # fmt: skip
        env = self._envs[key]
        env.observer = self._observer
        return env

    def __getstate__(self) -> dict[str, Any]:
        """Omits the environments, which hold processes and memory of engines."""
        return {**self.__dict__, "_envs": {}, "_observer": None}

    def observe(self, observer: Observer | None) -> None:
        """Attaches an observer (a camera) to all environments; None removes it.

        Takes effect at the next `get` of each environment.
        """
        self._observer = observer


def check_policy_type(dtype: torch.dtype | None) -> None:
    """Checks the type of a policy's parameters; None for a policy without parameters.

    Raises:
        ShapeError: It is not float32.
    """
    if dtype not in (None, torch.float32):
        raise ShapeError(
            f"Expected a policy with parameters of float32, in which worlds compute, got {dtype}; "
            "call `.float()` of the learner or the policy."
        )
