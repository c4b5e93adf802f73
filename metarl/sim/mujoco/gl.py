"""MuJoCo's models through OpenGL, with or without a display."""

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

_AZIMUTH, _ELEVATION = 90.0, -20.0  # from the side: what runs along x goes to the right
_DISTANCE = 3.2  # from the body that is followed, in units of how far the robot reaches from it


class GLPainter:
    """Paints states of a model, in software where there is no GPU.

    Shadows, reflections and anti-aliasing are off: in software they take most of the time (256 x
    256 pixels: 8 pictures a second with shadows, 226 without all three).

    Args:
        model: A compiled `mujoco.MjModel`; it is copied.
        width: Of a picture, pixels.
        height: Of a picture, pixels.

    Raises:
        SettingsError: No OpenGL context can be made; the message says what to install.
    """

    def __init__(self, model: Any, width: int, height: int) -> None:
        self._model = copy.deepcopy(model)
        self._model.vis.global_.offwidth = width
        self._model.vis.global_.offheight = height
        self._model.vis.quality.offsamples = self._model.vis.quality.shadowsize = 0
        self._data = mj.MjData(self._model)
        self._context: Any = _context(width, height)
        self._context.make_current()
        # No text is painted: the smallest letters are made quickest.
        self._painting = mj.MjrContext(self._model, mj.mjtFontScale.mjFONTSCALE_50.value)
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN.value, self._painting)
        self._scene = mj.MjvScene(self._model, maxgeom=10_000)
        for flag in (mj.mjtRndFlag.mjRND_SHADOW, mj.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._rectangle = mj.MjrRect(0, 0, width, height)
        self._option, self._camera = mj.MjvOption(), self._following()

    def paint(self, positions: np.ndarray, fields: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns a picture of a state, [height, width, 3] uint8.

        Args:
            positions: The generalised positions, [nq].
            fields: Fields of the model that differ from it: MuJoCo's name -> value.

        Raises:
            SettingsError: The painter was closed.
        """
        if self._context is None:
            raise SettingsError("The renderer was closed; make another one.")
        for name, value in fields.items():
            _write(self._model, name, value)
        self._data.qpos[:] = positions
        with quiet():
            mj.mj_forward(self._model, self._data)
        self._context.make_current()
        mj.mjv_updateScene(
            self._model, self._data, self._option, None, self._camera,
            mj.mjtCatBit.mjCAT_ALL.value, self._scene,
        )  # fmt: skip
        rectangle = self._rectangle
        picture = np.empty((rectangle.height, rectangle.width, 3), np.uint8)
        mj.mjr_render(rectangle, self._scene, self._painting)
        mj.mjr_readPixels(picture, None, rectangle, self._painting)
        return np.flipud(picture).copy()

    def close(self) -> None:
        """Frees the context; it may be called again."""
        if self._context is not None:
            self._context.make_current()
            self._painting.free()
            self._context.free()
            self._context = None

    def _following(self) -> Any:
        """Returns a camera that follows the first body, as far away as the robot needs."""
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
            away = np.linalg.norm(data.geom_xpos[moving] - data.xpos[1], axis=1)
            camera.distance = _DISTANCE * float((away + model.geom_rbound[moving]).max())
        return camera


def _write(model: Any, name: str, value: np.ndarray) -> None:
    *parents, field = name.split(".")
    for parent in parents:
        model = getattr(model, parent)
    present = getattr(model, field)
    if isinstance(present, np.ndarray) and present.ndim:
        present[...] = value
    else:
        setattr(model, field, value.item())


def _context(width: int, height: int) -> Any:
    """Returns the first context that can be made, of what MUJOCO_GL or the machine allows."""
    reasons = []
    for name, load in _contexts():
        try:
            return load()(width, height)
        except Exception as error:  # they fail in every way: missing libraries, displays, drivers
            reasons.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}")
    raise SettingsError(
        f"No OpenGL context can be made, so there are no pictures ({'; '.join(reasons)}). On Linux "
        "without a display install EGL (Debian, Ubuntu: libegl1 libgl1-mesa-dri) or OSMesa "
        "(libosmesa6, with MUJOCO_GL=osmesa and PYOPENGL_PLATFORM=osmesa)."
    )


def _contexts() -> Iterator[tuple[str, Any]]:
    chosen = os.environ.get("MUJOCO_GL", "")
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not chosen and not display and sys.platform == "linux":
        # MuJoCo itself would try a window, which takes a display.
        for name in ("egl", "osmesa"):
            yield name, lambda n=name: importlib.import_module(f"mujoco.{n}").GLContext
    else:
        yield chosen or "MuJoCo's default", lambda: mj.GLContext
