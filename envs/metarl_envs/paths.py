"""Draws the paths of 2D navigation before and after each adaptation step."""

from __future__ import annotations

import numpy as np
import torch

from metarl.evaluation.statistics import telling_steps
from metarl.plots.path_figure import Paths
from metarl.plots.pictures import Picture, paths_picture
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.rollouts import Rollouts
from metarl.rl.units import Units
from metarl.sim import ControlTasks
from metarl_envs.navigation import Navigation2DSparse

_COLUMNS = 4


def navigation_picture(
    learner: PolicyLearner, tasks: ControlTasks, steps: int, generator: torch.Generator
) -> Picture:
    """Adapts to goals and draws the paths of each.

    Args:
        learner: A learner on a family of `metarl_envs.navigation`.
        tasks: The goals.
        steps: Number of adaptation steps.
        generator: Source of all randomness.
    """
    title = learner.family.name
    return paths_picture(walked(learner, tasks, steps, generator), title=title)


def walked(
    learner: PolicyLearner,
    tasks: ControlTasks,
    steps: int,
    generator: torch.Generator,
    shown: int = 5,
) -> list[Paths]:
    """Adapts to goals and returns the paths of each before and after adaptation.

    Args:
        learner: A learner on a family of `metarl_envs.navigation`.
        tasks: The goals.
        steps: Number of adaptation steps.
        generator: Source of all randomness.
        shown: Number of paths per goal and step; the returns are means over all rollouts.

    Returns:
        The paths of each goal after at most four different numbers of steps, from 0 to `steps`.
    """
    columns = telling_steps(steps, _COLUMNS)
    rollouts_by_step = enumerate(learner.rollouts(tasks, steps, generator))
    rows = {k: rollouts for k, rollouts in rollouts_by_step if k in columns}
    units = learner.policy.units
    if units is not None:  # the paths are in the plane, not in the policy's units
        rows = {k: _in_the_plane(rollouts, units) for k, rollouts in rows.items()}
    radius = learner.family.radius if isinstance(learner.family, Navigation2DSparse) else 0.0
    tasks_paths = []
    for t, goal in enumerate(tasks.values["goal"].cpu().numpy()):
        paths = {k: positions(rollouts, t)[:shown] for k, rollouts in rows.items()}
        returns = {k: float(rollouts.returns()[t]) for k, rollouts in rows.items()}
        title = f"goal ({goal[0]:.2f}, {goal[1]:.2f})"
        tasks_paths.append(Paths(goal, paths, returns, radius, title))
    return tasks_paths


def _in_the_plane(rollouts: Rollouts, units: Units) -> Rollouts:
    return rollouts._replace(
        observations=units.raw_observations(rollouts.observations),
        final_observations=units.raw_observations(rollouts.final_observations),
    )


def positions(rollouts: Rollouts, task: int) -> list[np.ndarray]:
    """Returns the positions of each rollout of a task up to the end of its episode, [L + 1, 2]."""
    last = rollouts.final_observations[task, :, None]
    paths = torch.cat((rollouts.observations[task], last), 1)[..., :2].cpu().numpy()
    lengths = rollouts.mask[task].sum(1).int().tolist()
    return [path[: length + 1] for path, length in zip(paths, lengths, strict=True)]
