"""What makes pictures of worlds, and those that a family draws of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim.family import Tasks, WorldState
from metarl.sim.vector_env import TensorVectorEnv
from metarl.trees import concatenate_tasks, map_tensors

_DPI = 100
_PLACE = (0.15, 0.12, 0.81, 0.76)  # of the axes: left, bottom, width and height, in shares


class WorldRenderer(ABC):
    """Interface: makes pictures of the worlds of a vector environment.

    Args:
        env: The environment.
        width: Of a picture, pixels.
        height: Of a picture, pixels.

    Attributes:
        note: What should be known of the pictures, a sentence or two; "" if there is nothing.

    Raises:
        SettingsError: A side is below 16 pixels.
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
        """Returns a picture of a world as it is now, [height, width, 3] uint8.

        With `autoreset="same_step"` a world that is done is in its next episode already.

        Args:
            world: Its number.

        Raises:
            SettingsError: There is no such world, or no episode has started.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives back what the renderer holds; it may be called again."""

    def _seen(self, world: int) -> tuple[WorldState, Tasks, int]:
        if not 0 <= world < self.env.num_envs:
            raise SettingsError(f"Expected a world of 0 to {self.env.num_envs - 1}, got {world}.")
        state, tasks, elapsed = self.env.snapshot(world)
        if not state:
            raise SettingsError("No episode has started; call `reset` before asking for a picture.")
        return map_tensors(Tensor.cpu, state), map_tensors(Tensor.cpu, tasks), elapsed


class DrawnRenderer(WorldRenderer):
    """Pictures that the family draws itself: see `TaskFamily.draw`.

    It shows the way of a world from the first frame of its episode on, as far as frames were asked
    for.

    Args:
        env: The environment.
        width: Of a picture, pixels.
        height: Of a picture, pixels.
    """

    def __init__(self, env: TensorVectorEnv, width: int = 480, height: int = 480) -> None:
        super().__init__(env, width, height)
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure((width / _DPI, height / _DPI), dpi=_DPI)
        self._canvas, self._axes = FigureCanvasAgg(figure), figure.add_axes(_PLACE)
        self._ways: dict[int, list[tuple[int, WorldState]]] = {}

    def frame(self, world: int = 0) -> np.ndarray:
        """See `WorldRenderer.frame`."""
        state, tasks, elapsed = self._seen(world)
        way = [(e, s) for e, s in self._ways.get(world, []) if e < elapsed]
        self._ways[world] = [*way, (elapsed, state)]
        path = concatenate_tasks([s for _, s in self._ways[world]])
        steps = len(self._ways[world])
        tasks = map_tensors(lambda t: t.repeat_interleave(steps, 0), tasks)
        self._axes.clear()
        self.env.family.draw(self._axes, path, tasks)
        self._canvas.draw()
        return np.array(self._canvas.buffer_rgba())[..., :3].copy()

    def close(self) -> None:
        """See `WorldRenderer.close`."""
        self._ways.clear()
