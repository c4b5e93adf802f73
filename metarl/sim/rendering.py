"""Chooses the renderer of an environment: MuJoCo, Gymnasium or `TaskFamily.draw`."""

from __future__ import annotations

from metarl.errors import SettingsError
from metarl.sim.family_renderer import DrawnRenderer, WorldRenderer
from metarl.sim.vector_env import TensorVectorEnv


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
    if env.family.engine == "mujoco":
        from metarl.sim.mujoco.rendering import MujocoRenderer

        return MujocoRenderer(env, width, height)
    drawn = DrawnRenderer(env, width, height)
    if env.family.engine != "gymnasium":
        return drawn
    from metarl.sim.gymnasium.engine import GymVectorEnv
    from metarl.sim.gymnasium.rendering import GymnasiumRenderer

    assert isinstance(env, GymVectorEnv)
    try:
        return GymnasiumRenderer(env, width, height)
    except SettingsError as error:
        drawn.note = str(error)
        return drawn
