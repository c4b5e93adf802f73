"""Pictures of worlds: MuJoCo's, a gymnasium environment's, or what a family draws of itself."""

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
    """Pictures of the worlds of a `MujocoFamily`, on whatever engine they are.

    A camera follows the first body of the model from its side. What a task changes of the model
    is seen where it can be, such as the size of a body.

    Args:
        env: The environment.
        width: Of a picture, pixels.
        height: Of a picture, pixels.

    Raises:
        SettingsError: The family is no `MujocoFamily`, or there is no OpenGL.
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
        """See `WorldRenderer.frame`."""
        state, tasks, _ = self._seen(world)
        fields = {n: v[0].numpy() for n, v in self._family.model_fields(tasks).items()}
        return self._painter.paint(state["qpos"][0].double().numpy(), fields)

    def close(self) -> None:
        """See `WorldRenderer.close`."""
        self._painter.close()


def make_renderer(env: TensorVectorEnv, width: int = 480, height: int = 480) -> WorldRenderer:
    """Returns what makes pictures of the worlds of an environment.

    Those of a gymnasium environment are its own where it has some, else its observations are
    drawn, and `note` says why.

    Args:
        env: The environment.
        width: Of a picture, pixels.
        height: Of a picture, pixels.

    Raises:
        SettingsError: A side is below 16 pixels, or there is no OpenGL for MuJoCo's worlds.
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
    """Returns how long a step takes in the world, in seconds; None: the family does not say."""
    if isinstance(family, MujocoFamily):
        return family.dt
    rate = family.probe.metadata.get("render_fps") if isinstance(family, GymFamily) else None
    return 1 / rate if rate else None
