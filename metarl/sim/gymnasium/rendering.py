"""A renderer that uses the `render` method of gymnasium environments."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from metarl.errors import SettingsError
from metarl.sim.family import WorldState
from metarl.sim.family_renderer import DrawnRenderer, WorldRenderer
from metarl.sim.gymnasium.engine import GymVectorEnv
from metarl.sim.gymnasium.environments import Environments, Rows, WorldError
from metarl.sim.gymnasium.family import Task

# Not the reward: the engine sets it to 0 after the end.
_COMPARED = ("observation", "terminated", "truncated")
_FALLBACK = "What is observed is drawn instead of"


class GymnasiumRenderer(WorldRenderer):
    """Renders worlds with the `render` method of their environments.

    The worlds may be in other processes, and their environments have no render mode. For each world
    that is rendered, an environment in this process therefore replays the episode with the same
    task, seed and actions. If the replay fails, or its observation or termination differs from the
    world's, the observations are plotted from then on, and `note` gives the reason. An environment
    that exists once is rendered itself: to play its episode again would move it. Frames keep their
    aspect ratio, so `width` or `height` may be reduced.

    Args:
        env: The vector environment.
        width: Maximum width of a frame in pixels.
        height: Maximum height of a frame in pixels.

    Raises:
        SettingsError: The environments cannot be rendered; the message gives the reason.
    """

    env: GymVectorEnv

    def __init__(self, env: GymVectorEnv, width: int = 480, height: int = 480) -> None:
        super().__init__(env, width, height)
        try:
            family = env.family.painting()
            self._replays = Environments(family, Rows.of(family, env.num_envs))
        except SettingsError as error:
            raise SettingsError(self._explain(error)) from error
        self._recordings: dict[int, tuple[int, Task, np.ndarray]] = {}
        self._fallback: DrawnRenderer | None = None
        self._exists_once, self._is_sized = family.worlds == 1, False
        task = {name: rows[0].numpy(force=True) for name, rows in env.get_tasks().items()}
        if self._exists_once:
            self._replays.adopt(0, family.probe, task)
            return
        self._replays.rows.active[0] = True
        try:
            self._start(0, 0, task)
            self._fit(self._image(0))
        except (SettingsError, WorldError) as error:
            self.close()
            raise SettingsError(self._explain(error)) from error

    def frame(self, world: int = 0) -> np.ndarray:
        state, _, _ = self._snapshot(world)
        if self._fallback is None:
            try:
                if not self._exists_once:
                    self._replay(world, state)
                image = self._image(world)
                self._fit(image)
                return np.array(ImageOps.pad(image, (self.width, self.height)))
            except (SettingsError, WorldError) as error:
                self.close()
                self.note = self._explain(error)
                self._fallback = DrawnRenderer(self.env, self.width, self.height)
        return self._fallback.frame(world)

    def close(self) -> None:
        self._replays.close()
        self._recordings.clear()

    def _replay(self, world: int, state: WorldState) -> None:
        """Replays the steps of a world since its last frame, and compares the result with `state`.

        Raises:
            SettingsError: The observation or the termination differs.
        """
        rows, recording = self._replays.rows, self.env.recording(world)
        seed, task, actions = recording
        rows.active[:] = np.arange(len(rows.active)) == world
        if not _is_continuation(recording, self._recordings.get(world)):
            self._start(world, seed, task)
        for action in actions[len(self._recordings[world][2]) :]:
            rows.action[world] = action
            self._replays.step()
        self._recordings[world] = recording
        for name in _COMPARED:
            original, replay = state[name][0].numpy(), getattr(rows, name)[world]
            if not np.array_equal(original, replay, equal_nan=name == "observation"):
                raise SettingsError(
                    f"the {name} after {len(actions)} steps is {replay}, not {original}, when the "
                    "episode is played again. Expected all random numbers from `self.np_random`."
                )

    def _start(self, world: int, seed: int, task: Task) -> None:
        rows = self._replays.rows
        rows.seed[world] = seed
        tasks = {n: np.broadcast_to(v, (len(rows.seed), *v.shape)) for n, v in task.items()}
        self._replays.start(tasks)
        self._recordings[world] = (seed, task, rows.action[:0].copy())

    def _fit(self, image: Image.Image) -> None:
        """Gives frames the aspect ratio of the first picture."""
        if not self._is_sized:
            self.width, self.height = ImageOps.contain(image, (self.width, self.height)).size
            self._is_sized = True

    def _image(self, world: int) -> Image.Image:
        try:
            picture: Any = self._replays.picture(world)
        except Exception as error:  # e.g. a missing library, display or driver
            raise SettingsError(f"its `render` fails: {type(error).__name__}: {error}") from error
        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8):
            raise SettingsError(f"its `render` gives {type(picture).__name__}, no uint8 array.")
        if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise SettingsError(f"its `render` gives {picture.shape}, not [height, width, 3].")
        return Image.fromarray(picture)

    def _explain(self, error: Exception) -> str:
        reason = f"it {error.what}" if isinstance(error, WorldError) else error
        return f"{_FALLBACK} pictures by {self.env.family.title!r}: {reason}"


def _is_continuation(
    new: tuple[int, Task, np.ndarray], old: tuple[int, Task, np.ndarray] | None
) -> bool:
    """Returns whether a recording starts with the seed, the task and the actions of an old one."""
    if old is None:
        return False
    (old_seed, old_task, old_actions), (seed, task, actions) = old, new
    same = old_seed == seed and all(np.array_equal(old_task[n], task[n]) for n in old_task)
    return same and np.array_equal(old_actions, actions[: len(old_actions)])
