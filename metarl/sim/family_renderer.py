"""The renderer interface, and the renderer that draws worlds with `TaskFamily.draw`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim.family import Tasks, WorldState
from metarl.sim.vector_env import TensorVectorEnv
from metarl.trees import concatenate_tasks, map_tensors

_DPI = 100
_AXES = (0.15, 0.12, 0.81, 0.76)  # left, bottom, width and height, as fractions of the figure


class WorldRenderer(ABC):
    """Renders the worlds of a vector environment (interface).

    Args:
        env: The environment.
        width: Width of a picture in pixels.
        height: Height of a picture in pixels.

    Attributes:
        note: A remark on the pictures for the user, or "".

    Raises:
        SettingsError: The width or height is below 16 pixels.
    """

    def __init__(self, env: TensorVectorEnv, width: int, height: int) -> None:
        if min(width, height) < 16:
            raise SettingsError(
                f"Expected pictures of at least 16 x 16 pixels, got {width} x {height}."
            )
        self.env = env
        self.width = width
        self.height = height
        self.note = ""

    @abstractmethod
    def frame(self, world: int = 0) -> np.ndarray:
        """Returns a picture of the current state of a world, [height, width, 3] uint8.

        With `autoreset="same_step"`, a world whose episode has ended shows its next episode.

        Args:
            world: The index of the world.

        Raises:
            SettingsError: There is no such world, or no episode has started.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees the resources of the renderer; repeated calls have no effect."""

    def _snapshot(self, world: int) -> tuple[WorldState, Tasks, int]:
        """Returns the state, the task and the step count of a world, on the CPU."""
        if not 0 <= world < self.env.num_envs:
            raise SettingsError(f"Expected a world of 0 to {self.env.num_envs - 1}, got {world}.")
        state, tasks, elapsed = self.env.snapshot(world)
        if not state:
            raise SettingsError("No episode has started; call `reset` before asking for a picture.")
        return map_tensors(Tensor.cpu, state), map_tensors(Tensor.cpu, tasks), elapsed


class DrawnRenderer(WorldRenderer):
    """Draws worlds with `TaskFamily.draw`.

    A picture shows the states of the episode at which `frame` was called.

    Args:
        env: The environment.
        width: Width of a picture in pixels.
        height: Height of a picture in pixels.
    """

    def __init__(self, env: TensorVectorEnv, width: int = 480, height: int = 480) -> None:
        super().__init__(env, width, height)
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure((width / _DPI, height / _DPI), dpi=_DPI)
        self._canvas, self._axes = FigureCanvasAgg(figure), figure.add_axes(_AXES)
        self._paths: dict[int, list[tuple[int, WorldState]]] = {}  # (step, state) of each world

    def frame(self, world: int = 0) -> np.ndarray:
        """Raises SettingsError if `draw` fails."""
        state, tasks, elapsed = self._snapshot(world)
        earlier = [(e, s) for e, s in self._paths.get(world, []) if e < elapsed]
        self._paths[world] = [*earlier, (elapsed, state)]
        path = concatenate_tasks([s for _, s in self._paths[world]])
        steps = len(self._paths[world])
        tasks = map_tensors(lambda t: t.repeat_interleave(steps, 0), tasks)
        self._axes.clear()
        family = self.env.family
        try:
            family.draw(self._axes, path, tasks)
        except Exception as error:
            raise SettingsError(
                f"`draw` of {family.name} fails: {type(error).__name__}: {error}"
            ) from error
        self._canvas.draw()
        return np.array(self._canvas.buffer_rgba())[..., :3].copy()

    def close(self) -> None:
        self._paths.clear()
