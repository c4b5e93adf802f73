"""Pictures that gymnasium environments paint of themselves, wherever they are stepped."""

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

_TOLD = ("observation", "terminated")  # rewards after an end are the engine's
_INSTEAD = "What is observed is drawn instead of"


class GymnasiumRenderer(WorldRenderer):
    """Pictures by the environments' own `render`.

    Worlds may be in other processes and are built without pictures. So for each that is asked for,
    an environment in this process plays its episode again, with the same task, seed and actions.
    It has to see the same all the way: if it does not, or fails, what is observed is drawn from
    then on, and `note` says so. A picture keeps its proportions: `width` or `height` becomes less.

    Args:
        env: The environment.
        width: Of a picture, pixels, at most.
        height: Of a picture, pixels, at most.

    Raises:
        SettingsError: The environments have no pictures; the message says why.
    """

    env: GymVectorEnv

    def __init__(self, env: GymVectorEnv, width: int = 480, height: int = 480) -> None:
        super().__init__(env, width, height)
        try:
            family = env.family.painting()
            self._played = Environments(family, Rows.of(family, env.num_envs))
        except SettingsError as error:
            raise SettingsError(self._reason(error)) from error
        self._given: dict[int, tuple[int, Task, np.ndarray]] = {}
        self._drawn: DrawnRenderer | None = None
        tasks = env.get_tasks().items()
        self._played.rows.active[0] = True
        try:
            self._start(0, 0, {name: rows[0].numpy(force=True) for name, rows in tasks})
            first = ImageOps.contain(self._image(0), (width, height))
        except (SettingsError, WorldError) as error:
            self.close()
            raise SettingsError(self._reason(error)) from error
        self.width, self.height = first.size

    def frame(self, world: int = 0) -> np.ndarray:
        """See `WorldRenderer.frame`."""
        state, _, _ = self._snapshot(world)
        if self._drawn is None:
            try:
                self._follow(world, state)
                return np.array(ImageOps.pad(self._image(world), (self.width, self.height)))
            except (SettingsError, WorldError) as error:
                self.close()
                self.note = self._reason(error)
                self._drawn = DrawnRenderer(self.env, self.width, self.height)
        return self._drawn.frame(world)

    def close(self) -> None:
        """See `WorldRenderer.close`."""
        self._played.close()
        self._given.clear()

    def _follow(self, world: int, state: WorldState) -> None:
        """Plays what is missing of a world's episode."""
        rows, recording = self._played.rows, self.env.recording(world)
        seed, task, actions = recording
        rows.active[:] = np.arange(len(rows.active)) == world
        if not _continues(self._given.get(world), recording):
            self._start(world, seed, task)
        for action in actions[len(self._given[world][2]) :]:
            rows.action[world] = action
            self._played.step()
        self._given[world] = recording
        for name in _TOLD:
            seen, played = state[name][0].numpy(), getattr(rows, name)[world]
            if not np.array_equal(seen, played, equal_nan=name != "terminated"):
                raise SettingsError(
                    f"the {name} after {len(actions)} steps is {played}, not {seen}, when the "
                    "episode is played again. Expected all random numbers from `self.np_random`."
                )

    def _start(self, world: int, seed: int, task: Task) -> None:
        rows = self._played.rows
        rows.seed[world] = seed
        tasks = {n: np.broadcast_to(v, (len(rows.seed), *v.shape)) for n, v in task.items()}
        self._played.start(tasks)
        self._given[world] = (seed, task, rows.action[:0].copy())

    def _image(self, world: int) -> Image.Image:
        try:
            picture: Any = self._played.picture(world)
        except Exception as error:  # of any kind: missing libraries, displays, drivers
            raise SettingsError(f"its `render` fails: {type(error).__name__}: {error}") from error
        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8):
            raise SettingsError(f"its `render` gives {type(picture).__name__}, no uint8 array.")
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise SettingsError(f"its `render` gives {picture.shape}, not [height, width, 3].")
        return Image.fromarray(picture)

    def _reason(self, error: Exception) -> str:
        told = f"it {error.what}" if isinstance(error, WorldError) else error
        return f"{_INSTEAD} pictures by {self.env.family.title!r}: {told}"


def _continues(given: tuple[int, Task, np.ndarray] | None, now: tuple[Any, ...]) -> bool:
    """Tells whether an episode goes on where one that was played has come to."""
    if given is None:
        return False
    (seed, task, actions), (other, its_task, its_actions) = given, now
    same = seed == other and all(np.array_equal(task[n], its_task[n]) for n in task)
    return same and np.array_equal(actions, its_actions[: len(actions)])
