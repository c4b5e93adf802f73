"""Films of an adaptation: the same tasks before and after each step, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metarl.errors import SettingsError
from metarl.evaluation.statistics import telling_steps
from metarl.extras import import_extra
from metarl.plots.figures import INK, after_steps
from metarl.plots.gif import encode_gif
from metarl.ranges import user_path
from metarl.rl.control_learner import ControlLearner
from metarl.rl.worlds import Worlds
from metarl.sim.family import ControlTasks, Tasks
from metarl.sim.family_renderer import DrawnRenderer, WorldRenderer
from metarl.sim.rendering import make_renderer
from metarl.sim.vector_env import TensorVectorEnv
from metarl.tasks.files import result_path
from metarl.trees import take_tasks

MOST_COLUMNS = 4
ROBOT_SIZE, DRAWN_SIZE = (224, 168), (240, 240)  # pixels of a picture of a world
PAINTED_FRAMES, DRAWN_FRAMES = 60, 40  # pictures of an episode; matplotlib takes its time
_HEAD, _GAP, _LINE, _TEXT = 24, 4, 20, 12  # pixels
_DRAWN_STEP = 0.08  # seconds that a step of a family without a clock is shown


@dataclass(frozen=True)
class Film:
    """A sequence of frames.

    Attributes:
        name: Name of its file, without the extension.
        frames: Each [height, width, 3] uint8.
        fps: Frames per second.
        note: Remarks for the viewer, or an empty string.
    """

    name: str
    frames: Sequence[np.ndarray]
    fps: float
    note: str = ""


@dataclass
class _Take:
    """One episode of one world: an image and the return so far, for every frame."""

    pictures: list[np.ndarray] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)


def film_adaptation(
    learner: ControlLearner,
    tasks: ControlTasks,
    steps: int,
    generator: torch.Generator,
) -> Film:
    """Adapts to tasks and films the first episode of each after up to four numbers of steps.

    There is a row per task and a column per number of steps. The task's parameters and the
    episode's return so far are written below each image.

    Args:
        learner: The learner; it is not changed.
        tasks: At least one task.
        steps: Adaptation steps, at least 0. For learners that play trials, these are episodes.
        generator: Source of all randomness.

    Raises:
        SettingsError: The learner's worlds cannot be observed, or MuJoCo has no OpenGL to render.
    """
    if learner.worlds is None:
        raise SettingsError(f"The worlds of a {type(learner).__name__} cannot be filmed.")
    columns = telling_steps(steps, MOST_COLUMNS)
    camera = _Camera(columns)
    rows = []
    with _observed_by(camera, learner.worlds):
        for t in range(tasks.num_tasks):
            task = take_tasks(tasks, t, t + 1)
            for _ in learner.returns(task, steps, generator):
                pass
            rows.append((_title(task.values), camera.cut()))
    heads = [f"episode {k + 1}" if learner.plays_trials else after_steps(k) for k in columns]
    return replace(_joined(rows, heads), fps=1 / camera.seconds, note=camera.note)


def save_film(film: Film, path: Path | str) -> None:
    """Writes a film as .gif, or as .mp4, which needs the extra "video".

    The file is written completely or not at all.

    Raises:
        SettingsError: The extension is another one, or the extra is not installed.
        CheckpointError: The file cannot be written.
    """
    check_film(path := user_path(path))
    with result_path(path, "film") as temporary:
        if path.suffix == ".gif":
            temporary.write_bytes(encode_gif(film.frames, film.fps))
        else:
            _write_mp4(film, temporary)


def check_film(path: Path) -> None:
    """Checks that a film can have this name, before anything is filmed.

    Raises:
        SettingsError: The extension is another one than .gif and .mp4, or the extra "video", which
            .mp4 needs, is not installed.
    """
    if path.suffix == ".mp4":
        import_extra("imageio_ffmpeg", "video")
    elif path.suffix != ".gif":
        raise SettingsError(f"Expected the name of a film to end in .gif or .mp4, got {path.name}.")


class _Camera:
    """Films world 0 of an environment: an observer of `TensorVectorEnv`.

    Args:
        columns: Indices of the episodes to film, counted from 0 since the last cut.
    """

    def __init__(self, columns: Sequence[int]) -> None:
        self.columns = columns
        self.seconds = _DRAWN_STEP
        self.note = ""
        self._renderers: dict[TensorVectorEnv, WorldRenderer] = {}
        self._begin()

    def __call__(self, env: TensorVectorEnv, rewards: Tensor | None) -> None:
        if rewards is None:
            self._start()
        elif not self._ended:  # after the end, the last image stays
            self._step += 1
            self._total += float(rewards[0])
            state, tasks, _ = env.snapshot(0)
            ends = (env.family.terminated(state, tasks), env.family.truncated(state, tasks))
            self._ended = any(bool(end[0]) for end in ends)
        else:
            return
        if self._episode not in self.columns:
            return
        renderer = self._renderer(env)
        most = DRAWN_FRAMES if isinstance(renderer, DrawnRenderer) else PAINTED_FRAMES
        every = -(-env.family.horizon // most)
        if self._step % every == 0 or self._ended:
            self.seconds = every * (env.family.step_seconds or _DRAWN_STEP)
            self._takes[-1].pictures.append(renderer.frame(0))
            self._takes[-1].returns.append(self._total)
            self.note = renderer.note or self.note

    def cut(self) -> list[_Take]:
        """Returns the takes since the last cut."""
        takes = [self._takes[k] for k in self.columns]
        self._begin()
        return takes

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()

    def _begin(self) -> None:
        self._episode = -1
        self._takes: list[_Take] = []

    def _start(self) -> None:
        self._episode += 1
        self._step, self._total, self._ended = 0, 0.0, False
        self._takes.append(_Take())

    def _renderer(self, env: TensorVectorEnv) -> WorldRenderer:
        if env not in self._renderers:
            size = ROBOT_SIZE if env.family.engine == "mujoco" else DRAWN_SIZE
            self._renderers[env] = make_renderer(env, *size)
        return self._renderers[env]


@contextmanager
def _observed_by(camera: _Camera, worlds: Worlds) -> Iterator[None]:
    worlds.observe(camera)
    try:
        yield
    finally:
        worlds.observe(None)
        camera.close()


def _title(tasks: Tasks) -> str:
    """Returns the parameters of a task as text, if there are at most four numbers."""
    if sum(v.numel() for v in tasks.values()) > 4:
        return ""
    numbers = {n: ", ".join(f"{x:.3g}" for x in v.flatten().tolist()) for n, v in tasks.items()}
    return "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in numbers.items())


def _joined(rows: Sequence[tuple[str, Sequence[_Take]]], heads: Sequence[str]) -> Film:
    length = max(len(take.pictures) for _, takes in rows for take in takes)
    height, width = rows[0][1][0].pictures[0].shape[:2]
    across, down = width + _GAP, height + _LINE + _GAP
    size = (len(heads) * across - _GAP, _HEAD + len(rows) * down - _GAP)
    font = ImageFont.truetype(findfont("DejaVu Sans"), _TEXT)  # matplotlib brings it
    frames = []
    for i in range(length):
        sheet = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(sheet)
        for c, head in enumerate(heads):
            x = c * across
            pen.text((x + width / 2, _HEAD / 2), head, INK, font, anchor="mm")
            for r, (title, takes) in enumerate(rows):
                y = _HEAD + r * down
                index = min(i, len(takes[c].pictures) - 1)
                sheet.paste(Image.fromarray(takes[c].pictures[index]), (x, y))
                total = f"return {takes[c].returns[index]:.1f}".replace("-", "\N{MINUS SIGN}")
                below = y + height + _LINE / 2
                pen.text((x + 4, below), title, INK, font, anchor="lm")
                pen.text((x + width - 4, below), total, INK, font, anchor="rm")
        frames.append(np.asarray(sheet))
    return Film("adaptation", frames, 1 / _DRAWN_STEP)


def _write_mp4(film: Film, path: Path) -> None:
    writer: Callable[..., Any] = import_extra("imageio_ffmpeg", "video").write_frames
    height, width = (side - side % 2 for side in film.frames[0].shape[:2])  # H.264 takes even sides
    stream = writer(
        str(path), (width, height), fps=film.fps, codec="libx264", macro_block_size=2,
        output_params=["-f", "mp4"],
    )  # fmt: skip
    stream.send(None)
    for frame in film.frames:
        stream.send(np.ascontiguousarray(frame[:height, :width]))
    stream.close()
