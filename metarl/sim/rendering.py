"""Chooses the renderer of an environment: MuJoCo, Gymnasium or `TaskFamily.draw`."""

from __future__ import annotations

import numpy as np

from metarl.errors import SettingsError
from metarl.sim.family import TaskFamily
from metarl.sim.family_renderer import DrawnRenderer, WorldRenderer
from metarl.sim.gymnasium.engine import GymVectorEnv
from metarl.sim.gymnasium.family import GymFamily
from metarl.sim.gymnasium.rendering import GymnasiumRenderer
from metarl.sim.mujoco.gl import GLPainter
from metarl.sim.mujoco.physics import MujocoFamily
from metarl.sim.vector_env import TensorVectorEnv


class MujocoRenderer(WorldRenderer):
    """Renders the worlds of a `MujocoFamily`, on any engine.

    The camera follows the first body of the model from the side. Visible model fields that a task
    changes, such as the size of a body, are rendered.

    Args:
        env: The environment.
        width: Width of a picture in pixels.
        height: Height of a picture in pixels.

    Raises:
        SettingsError: The family is not a `MujocoFamily`, or OpenGL is not available.
    """

    def __init__(self, env: TensorVectorEnv, width: int = 480, height: int = 480) -> None:
        super().__init__(env, width, height)
        if not isinstance(env.family, MujocoFamily):
            raise SettingsError(
                f"Expected worlds of a MujocoFamily, got {type(env.family).__name__}."
            )
        self._family = env.family
        self._painter = GLPainter(env.family.compiled, width, height)

    def frame(self, world: int = 0) -> np.ndarray:
        state, tasks, _ = self._snapshot(world)
        fields = {n: v[0].numpy() for n, v in self._family.model_fields(tasks).items()}
        return self._painter.paint(state["qpos"][0].double().numpy(), fields)

    def close(self) -> None:
        self._painter.close()


def make_renderer(env: TensorVectorEnv, width: int = 480, height: int = 480) -> WorldRenderer:
    """Returns a renderer for the worlds of an environment.

    Gymnasium environments are rendered by their own `render`. If they cannot be, their
    observations are plotted, and the renderer's `note` says why.

    Args:
        env: The environment.
        width: Width of a picture in pixels.
        height: Height of a picture in pixels.

    Raises:
        SettingsError: The width or height is below 16 pixels, or a MuJoCo family is to be rendered
            and OpenGL is not available.
    """
    if isinstance(env.family, MujocoFamily):
        return MujocoRenderer(env, width, height)
    drawn = DrawnRenderer(env, width, height)
    if not isinstance(env, GymVectorEnv):
        return drawn
    try:
        return GymnasiumRenderer(env, width, height)
    except SettingsError as error:
        drawn.note = str(error)
        return drawn


def step_seconds(family: TaskFamily) -> float | None:
    """Returns the simulated time of one step in seconds; None if the family does not define it."""
    if isinstance(family, MujocoFamily):
        return family.dt
    rate = family.probe.metadata.get("render_fps") if isinstance(family, GymFamily) else None
    return 1 / rate if rate else None
