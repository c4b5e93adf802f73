"""Renders MuJoCo models with OpenGL, with or without a display."""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from metarl.errors import SettingsError
from metarl.sim.mujoco.physics import mj, quiet

_AZIMUTH, _ELEVATION = 90.0, -20.0  # degrees; from the side, with the x axis to the right
_DISTANCE = 3.2  # from the camera to the tracked body, in units of the radius of the robot


class GLPainter:
    """Renders states of a model; in software if there is no GPU.

    Shadows, reflections and anti-aliasing are disabled because they take most of the time of
    software rendering (at 256 x 256 pixels 8 frames per second with shadows, 226 without all
    three).

    Args:
        model: A compiled `mujoco.MjModel`; it is copied.
        width: Width of a picture in pixels.
        height: Height of a picture in pixels.

    Raises:
        SettingsError: No OpenGL context can be created; the message says what to install.
    """

    def __init__(self, model: Any, width: int, height: int) -> None:
        self._model = copy.deepcopy(model)
        self._model.vis.global_.offwidth = width
        self._model.vis.global_.offheight = height
        self._model.vis.quality.offsamples = self._model.vis.quality.shadowsize = 0
        self._data = mj.MjData(self._model)
        self._gl_context: Any = _make_context(width, height)
        self._gl_context.make_current()
        # No text is rendered, and the smallest font loads fastest.
        self._mjr_context = mj.MjrContext(self._model, mj.mjtFontScale.mjFONTSCALE_50.value)
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN.value, self._mjr_context)
        self._scene = mj.MjvScene(self._model, maxgeom=10_000)
        for flag in (mj.mjtRndFlag.mjRND_SHADOW, mj.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._rectangle = mj.MjrRect(0, 0, width, height)
        self._option, self._camera = mj.MjvOption(), self._tracking_camera()

    def paint(
        self, poses: Mapping[str, np.ndarray], fields: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Returns a picture of a state, [height, width, 3] uint8.

        Args:
            poses: The generalised positions "qpos" [nq], and "mocap_pos" [M, 3] and "mocap_quat"
                [M, 4] of a model with M mocap bodies.
            fields: Model fields to change: MuJoCo's name -> value.

        Raises:
            SettingsError: The painter was closed.
        """
        if self._gl_context is None:
            raise SettingsError("The renderer was closed; make another one.")
        for name, value in fields.items():
            _write_field(self._model, name, value)
        for name, value in poses.items():
            getattr(self._data, name)[:] = value
        with quiet():
            mj.mj_forward(self._model, self._data)
        self._gl_context.make_current()
        mj.mjv_updateScene(
            self._model, self._data, self._option, None, self._camera,
            mj.mjtCatBit.mjCAT_ALL.value, self._scene,
        )  # fmt: skip
        rectangle = self._rectangle
        picture = np.empty((rectangle.height, rectangle.width, 3), np.uint8)
        mj.mjr_render(rectangle, self._scene, self._mjr_context)
        mj.mjr_readPixels(picture, None, rectangle, self._mjr_context)
        return np.flipud(picture).copy()

    def close(self) -> None:
        """Frees the OpenGL context; repeated calls have no effect."""
        if self._gl_context is not None:
            self._gl_context.make_current()
            self._mjr_context.free()
            self._gl_context.free()
            self._gl_context = None

    def _tracking_camera(self) -> Any:
        """Returns a camera that tracks the first body, far enough away to show the whole robot."""
        model, data = self._model, self._data
        with quiet():
            mj.mj_forward(model, data)
        camera = mj.MjvCamera()
        mj.mjv_defaultFreeCamera(model, camera)
        camera.azimuth, camera.elevation = _AZIMUTH, _ELEVATION
        moving = model.geom_bodyid > 0
        if moving.any():
            camera.type = mj.mjtCamera.mjCAMERA_TRACKING.value
            camera.trackbodyid = 1
            distances = np.linalg.norm(data.geom_xpos[moving] - data.xpos[1], axis=1)
            camera.distance = _DISTANCE * float((distances + model.geom_rbound[moving]).max())
        return camera


def _write_field(model: Any, name: str, value: np.ndarray) -> None:
    *parents, field = name.split(".")
    for parent in parents:
        model = getattr(model, parent)
    current = getattr(model, field)
    if isinstance(current, np.ndarray) and current.ndim:
        current[...] = value
    else:
        setattr(model, field, value.item())


def _make_context(width: int, height: int) -> Any:
    """Returns an OpenGL context of the first backend that works."""
    reasons = []
    for name, load in _context_classes():
        try:
            return load()(width, height)
        except Exception as error:  # any type: missing libraries, displays, drivers
            reasons.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}")
    raise SettingsError(
        f"No OpenGL context can be made, so there are no pictures ({'; '.join(reasons)}). On Linux "
        "without a display install EGL (Debian, Ubuntu: libegl1 libgl1-mesa-dri) or OSMesa "
        "(libosmesa6, with MUJOCO_GL=osmesa and PYOPENGL_PLATFORM=osmesa)."
    )


def _context_classes() -> Iterator[tuple[str, Any]]:
    """Yields the backends to try: the name and a function that imports the context class."""
    backend = os.environ.get("MUJOCO_GL", "")
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not backend and not display and sys.platform == "linux":
        # MuJoCo's default would open a window, which needs a display.
        for name in ("egl", "osmesa"):
            yield name, lambda n=name: importlib.import_module(f"mujoco.{n}").GLContext
    else:
        yield backend or "MuJoCo's default", lambda: mj.GLContext
