"""`metarl adapt` for policies: before and after, the curve, and what it cost on the robot."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from metarl.deploy.adapters.control_adapter import ControlAdapter
from metarl.deploy.adapters.running import Curve, check_environment, evaluate
from metarl.errors import SettingsError
from metarl.evaluation.statistics import Summary, summarise
from metarl.evaluation.tables import interval_cell, report_table
from metarl.plots.terminal_plot import TerminalPlot

WIDTH, ROWS = 64, 10


@dataclass
class Adapted:
    """The result of `metarl adapt`.

    Attributes:
        metric: What was measured.
        before: Its values before the adaptation, [N].
        after: Its values after it, [N].
        curve: The values on the way, over episodes.
        notes: What it cost and what else happened, lines for the user.
        frames: Pictures of an episode before and after, if a film was asked for.
    """

    metric: str
    before: np.ndarray
    after: np.ndarray
    curve: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)


def adapt_in(
    adapter: ControlAdapter,
    env: Any,
    episodes: int,
    adapt_every: int | None,
    test_episodes: int,
    seed: int,
    film: bool = False,
    explore: bool | None = None,
    steps: int = 1,
) -> Adapted:
    """Measures, adapts and measures again in an environment.

    Args:
        adapter: The adapter, at its start.
        env: The environment.
        episodes: Episodes to adapt from.
        adapt_every: See `run_episodes`; None: all of them at once where they are fewer than in
            training.
        test_episodes: Episodes before and after that measure, at least 1.
        seed: Seed of the resets.
        film: Whether to record an episode before and after.
        explore: Whether the measured actions are sampled; None: as the adapter's.
        steps: Adaptation steps each time.
    """
    if adapt_every is None and not adapter.learner.plays_trials:
        adapt_every = max(1, min(episodes, adapter.learner.settings.trajectories))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_environment(adapter, env)
        frames = [] if not film else _filmed(adapter, env, seed)
        before = evaluate(adapter, env, test_episodes, seed=seed, explore=explore)
        if adapter.learner.plays_trials:
            adapter.reset()
        curve = adapter.run(env, episodes, adapt_every, seed=seed + 1, steps=steps)
        after = evaluate(adapter, env, test_episodes, seed=seed, explore=explore)
        frames += [] if not film else _filmed(adapter, env, seed)
    notes = [cost(curve), *curve.events]
    notes += sorted({f"Warning: {w.message}" for w in said if w.category is RuntimeWarning})
    return Adapted("return", before, after, curve.returns, notes, frames)


def adapt_on_log(adapter: ControlAdapter, path: Path, behaviour: Any, steps: int = 1) -> Adapted:
    """Adapts to a logged file; there is nothing to measure before and after but the loss."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        options = {} if adapter.learner.plays_trials else {"behaviour": behaviour}
        report = adapter.adapt(path, steps=steps, **options)
    effective = "" if report.effective is None else f", worth {report.effective:.0f} of its own"
    seconds = adapter.family.step_seconds
    time = "" if seconds is None else f", {report.examples * seconds:.1f} s of the robot's time"
    notes = [f"{report.episodes} episodes of {report.examples} steps{time}{effective}."]
    notes += sorted({f"Warning: {w.message}" for w in said if w.category is RuntimeWarning})
    return Adapted("return", np.zeros(0), np.zeros(0), notes=notes)


def cost(curve: Curve) -> str:
    """Returns what a curve took: episodes, steps, and the robot's time."""
    time = "" if curve.seconds is None else f", {curve.seconds:.1f} s of the robot's time"
    count = len(curve.adapted_after)
    return (
        f"Adapted {'once' if count == 1 else f'{count} times'} from {len(curve.returns)} episodes: "
        f"{curve.environment_steps} environment steps{time}."
    )


def result_table(title: str, found: Adapted) -> Table:
    """Returns the mean before and after with 95 % bootstrap intervals."""
    table = report_table(title, "mean [95 % interval over episodes or examples]")
    for name in ("", "before", "after"):
        table.add_column(name, justify="right" if name else "left")
    cells = [_cell(values) for values in (found.before, found.after)]
    table.add_row(f"{found.metric} ({len(found.before)})", *cells)
    return table


def curve_plot(values: list[float], label: str, width: int = WIDTH) -> Group:
    """Returns a curve over episodes, drawn for a terminal of `width` letters, at most 64."""
    ends = (min(values), max(values))
    margin = 0.05 * (ends[1] - ends[0]) or 1.0
    low, high = np.array([1.0, ends[0] - margin]), np.array([max(len(values), 2), ends[1] + margin])
    plot = TerminalPlot(min(width, WIDTH), ROWS, low, high)
    points = np.stack([np.arange(1, len(values) + 1), np.asarray(values)], 1)
    plot.line(points, "cyan")
    head = Text(
        f"The {label} of episodes 1 to {len(values)}, between {ends[0]:.4g} and {ends[1]:.4g}"
    )
    return Group(head, plot.text())


def summary(values: np.ndarray) -> Summary:
    """Returns the statistics of measured values, with the same resamples every time."""
    return summarise(torch.from_numpy(np.asarray(values, float)), torch.Generator().manual_seed(0))


def _cell(values: np.ndarray) -> str:
    if not len(values):
        return "not measured"
    return interval_cell(summary(values))


def _filmed(adapter: ControlAdapter, env: Any, seed: int) -> list[np.ndarray]:
    """Returns the pictures of an episode."""
    frames: list[np.ndarray] = []

    class Camera:
        """Stands for the environment and takes a picture of each step."""

        def __getattr__(self, name: str) -> Any:
            return getattr(env, name)

        def step(self, action: Any) -> Any:
            found = env.step(action)
            frames.append(_picture(env))
            return found

    camera: Any = Camera()
    evaluate(adapter, camera, 1, seed=seed)
    return frames


def _picture(env: Any) -> np.ndarray:
    """Returns a picture of an environment.

    Raises:
        SettingsError: It renders none, or a package that it needs for that is not installed.
    """
    try:
        picture = env.render()
    except (gymnasium.error.Error, ImportError) as error:
        raise SettingsError(
            f"Cannot film the environment: {error}. Or leave out --video."
        ) from error
    is_array = isinstance(picture, np.ndarray)
    if not is_array or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
        found = f"{picture.dtype} {list(picture.shape)}" if is_array else type(picture).__name__
        raise SettingsError(
            "Expected an environment that renders pictures for a film, uint8 [height, width, 3], "
            f"got {found}; leave out --video."
        )
    return picture
