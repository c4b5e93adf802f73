"""The renderer of MuJoCo families."""

from __future__ import annotations

import numpy as np

from metarl.errors import SettingsError
from metarl.sim.family_renderer import WorldRenderer
from metarl.sim.mujoco.engine import MOCAP_FIELDS
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
        poses = {n: state[n][0].double().numpy() for n in ("qpos", *MOCAP_FIELDS) if n in state}
        return self._painter.paint(poses, fields)

    def close(self) -> None:
        self._painter.close()
