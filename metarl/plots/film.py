"""Films of an adaptation: the same tasks before and after each step, beside each other."""

from __future__ import annotations

import io
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
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.trials.trial_learner import TrialLearner
from metarl.sim.family import ControlTasks, Tasks
from metarl.sim.family_renderer import DrawnRenderer, WorldRenderer
from metarl.sim.mujoco.physics import MujocoFamily
from metarl.sim.rendering import make_renderer, step_seconds
from metarl.sim.vector_env import TensorVectorEnv
from metarl.tasks.files import atomic_path
from metarl.trees import take_tasks

MOST_COLUMNS = 4
ROBOT_SIZE, DRAWN_SIZE = (224, 168), (240, 240)  # pixels of a picture of a world
PAINTED_FRAMES, DRAWN_FRAMES = 60, 40  # pictures of an episode; matplotlib takes its time
_HEAD, _GAP, _LINE, _TEXT = 24, 4, 20, 12  # pixels
_COLOURS = 64  # of a GIF
_DRAWN_STEP = 0.08  # seconds that a step of a family without a clock is shown


@dataclass(frozen=True)
class Film:
    """Pictures that follow one another.

    Attributes:
        name: Name of its file, without an ending.
        frames: Each [height, width, 3] uint8.
        fps: Frames in a second.
        note: What should be known of it, a sentence or two; "" if there is nothing.
    """

    name: str
    frames: Sequence[np.ndarray]
    fps: float
    note: str = ""


@dataclass
class _Take:
    """One episode of one world: a picture and the return so far, for every frame."""

    pictures: list[np.ndarray] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)


def film_adaptation(
    learner: PolicyLearner | TrialLearner,
    tasks: ControlTasks,
    steps: int,
    generator: torch.Generator,
) -> Film:
    """Adapts to tasks and films the first episode of each after up to four numbers of steps.

    A row for each task, a column for each number of steps; below a picture stand what tells the
    task apart and the episode's return so far.

    Args:
        learner: The learner; it is not changed.
        tasks: At least one task.
        steps: Adaptation steps, at least 0; of learners that play trials, the episodes are filmed.
        generator: Source of all randomness.

    Raises:
        SettingsError: Its worlds are MuJoCo's, and there is no OpenGL.
    """
    columns = telling_steps(steps, MOST_COLUMNS)
    camera = _Camera(columns)
    rows = []
    with _filmed(learner, camera):
        for t in range(tasks.num_tasks):
            task = take_tasks(tasks, t, t + 1)
            for _ in learner.returns(task, steps, generator):
                pass
            rows.append((_title(task.values), camera.cut()))
    whole = isinstance(learner, TrialLearner)
    heads = [f"episode {k + 1}" if whole else after_steps(k) for k in columns]
    return replace(_joined(rows, heads), fps=1 / camera.seconds, note=camera.note)


def gif(film: Film) -> bytes:
    """Returns a film as an animated GIF that starts again at its end."""
    pictures = [
        Image.fromarray(f).quantize(_COLOURS, dither=Image.Dither.NONE) for f in film.frames
    ]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], loop=0,
        duration=round(1000 / film.fps),
    )  # fmt: skip
    return buffer.getvalue()


def save_film(film: Film, path: Path | str) -> None:
    """Writes a film as .gif, or as .mp4, which needs the extra "video".

    Readers see the old file or the whole new one.

    Raises:
        SettingsError: The name ends otherwise, or the extra is not installed.
    """
    path = Path(path)
    if path.suffix == ".gif":
        with atomic_path(path) as temporary:
            temporary.write_bytes(gif(film))
    elif path.suffix == ".mp4":
        with atomic_path(path) as temporary:
            _write_mp4(film, temporary)
    else:
        raise SettingsError(f"Expected the name of a film to end in .gif or .mp4, got {path.name}.")


class _Camera:
    """Films world 0 of an environment: an observer of `TensorVectorEnv`.

    Args:
        columns: Which episodes are filmed, counted from 0 since the last cut.
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
        elif not self._ended:  # afterwards the last picture stays
            self._step += 1
            self._total += float(rewards[0])
            state, tasks, _ = env.snapshot(0)
            self._ended = bool(env.family.terminated(state, tasks)[0])
        else:
            return
        if self._episode not in self.columns:
            return
        renderer = self._renderer(env)
        most = DRAWN_FRAMES if isinstance(renderer, DrawnRenderer) else PAINTED_FRAMES
        every = -(-env.family.horizon // most)
        if self._step % every == 0 or self._ended:
            self.seconds = every * (step_seconds(env.family) or _DRAWN_STEP)
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
            robots = isinstance(env.family, MujocoFamily)
            self._renderers[env] = make_renderer(env, *(ROBOT_SIZE if robots else DRAWN_SIZE))
        return self._renderers[env]


@contextmanager
def _filmed(learner: PolicyLearner | TrialLearner, camera: _Camera) -> Iterator[None]:
    learner.worlds.observe(camera)
    try:
        yield
    finally:
        learner.worlds.observe(None)
        camera.close()


def _title(tasks: Tasks) -> str:
    """Says what tells a task apart, if a few numbers do."""
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
                shown = min(i, len(takes[c].pictures) - 1)
                sheet.paste(Image.fromarray(takes[c].pictures[shown]), (x, y))
                total = f"return {takes[c].returns[shown]:.1f}".replace("-", "\N{MINUS SIGN}")
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
