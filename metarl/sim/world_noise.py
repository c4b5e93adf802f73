"""The random numbers of W worlds: drawn when they are needed, or all in advance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.errors import ShapeError
from metarl.ranges import SEED, check_int
from metarl.sim.family import TaskFamily
from metarl.trees import map_tensors


class WorldNoise(NamedTuple):
    """Pre-drawn random numbers for one episode in each of W worlds, uniform in [0, 1).

    Attributes:
        reset: The numbers used by the reset, [W, reset_noise] float32.
        step: The numbers used by each step, [W, horizon, step_noise] float32.
    """

    reset: Tensor
    step: Tensor


class NoiseSource:
    """The random numbers of the resets and steps of W worlds.

    Args:
        family: The family of the worlds.
        num_envs: The number of worlds, W.
        device: The device of the numbers.
        seed: The seed of the generator.

    Attributes:
        generator: What numbers are drawn from that were not drawn in advance.
        drawn: The pre-drawn numbers; None for none.
    """

    def __init__(self, family: TaskFamily, num_envs: int, device: torch.device, seed: int) -> None:
        seed = check_int("seed", seed, SEED)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.drawn: WorldNoise | None = None
        self._sizes = (num_envs, family.reset_noise), (num_envs, family.horizon, family.step_noise)
        self._nothing = torch.empty(num_envs, 0, device=device)
        self._worlds = torch.arange(num_envs, device=device)

    def follow(self, noise: WorldNoise | None) -> None:
        """Uses pre-drawn numbers; None uses the generator again.

        Raises:
            ShapeError: They are not [W, reset_noise] and [W, horizon, step_noise].
        """
        if noise is not None:
            noise = WorldNoise(*noise)
            shapes = tuple(tuple(numbers.shape) for numbers in noise)
            if shapes != self._sizes:
                raise ShapeError(
                    f"Expected noise of {self._sizes[0]} for resets and {self._sizes[1]} for "
                    f"steps, got {shapes[0]} and {shapes[1]}."
                )
            noise = map_tensors(lambda n: n.to(self.generator.device), noise)
        self.drawn = noise

    def reset(self) -> Tensor:
        """Returns the numbers of resets, [W, reset_noise]."""
        return self._uniform(self._sizes[0][1]) if self.drawn is None else self.drawn.reset

    def step(self, elapsed: Tensor) -> Tensor:
        """Returns the numbers of a step, [W, step_noise], given the steps so far, [W] int64."""
        count = self._sizes[1][2]
        if not count or self.drawn is None:
            return self._uniform(count)
        numbers = self.drawn.step
        # Worlds can be stepped past the end.
        return numbers[self._worlds, elapsed.clamp(max=numbers.shape[1] - 1)]

    def steps(self) -> list[Tensor]:
        """Returns the numbers of all steps of an episode, H times [W, step_noise]."""
        _, horizon, count = self._sizes[1]
        if not count or self.drawn is None:
            return [self._uniform(count) for _ in range(horizon)]
        return list(self.drawn.step.unbind(1))

    def _uniform(self, count: int) -> Tensor:
        if not count:
            return self._nothing
        generator = self.generator
        return torch.rand(len(self._nothing), count, generator=generator, device=generator.device)
