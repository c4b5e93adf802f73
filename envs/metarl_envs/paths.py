"""The paths of points in the plane before and after each adaptation step, as a picture."""

from __future__ import annotations

import numpy as np
import torch

from metarl.evaluation.statistics import telling_steps
from metarl.plots.path_figure import Paths
from metarl.plots.pictures import Picture, paths_picture
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.rollouts import Rollouts
from metarl.sim import ControlTasks
from metarl_envs.navigation import Navigation2DSparse

_COLUMNS = 4


def navigation_picture(
    learner: PolicyLearner, tasks: ControlTasks, steps: int, generator: torch.Generator
) -> Picture:
    """Adapts to goals and draws the paths to each; see `metarl.lab.control.Draw`."""
    title = learner.family.name
    return paths_picture(walked(learner, tasks, steps, generator), title=title)


def walked(
    learner: PolicyLearner,
    tasks: ControlTasks,
    steps: int,
    generator: torch.Generator,
    shown: int = 5,
) -> list[Paths]:
    """Adapts to goals and returns the paths of each after up to four numbers of steps.

    Args:
        learner: A learner on one of the families of points.
        tasks: The goals.
        steps: Adaptation steps.
        generator: Source of all randomness.
        shown: Rollouts kept per goal and step; the returns are means over all of them.
    """
    columns = telling_steps(steps, _COLUMNS)
    path = enumerate(learner.rollouts(tasks, steps, generator))
    rows = {k: rollouts for k, rollouts in path if k in columns}
    radius = learner.family.radius if isinstance(learner.family, Navigation2DSparse) else 0.0
    found = []
    for t, goal in enumerate(tasks.values["goal"].cpu().numpy()):
        paths = {k: positions(rollouts, t)[:shown] for k, rollouts in rows.items()}
        returns = {k: float(rollouts.returns()[t]) for k, rollouts in rows.items()}
        found.append(Paths(goal, paths, returns, radius, f"goal ({goal[0]:.2f}, {goal[1]:.2f})"))
    return found


def positions(rollouts: Rollouts, task: int) -> list[np.ndarray]:
    """Returns where each rollout of a task was, [L + 1, 2]: up to the end of its episode."""
    last = rollouts.final_observations[task, :, None]
    seen = torch.cat((rollouts.observations[task], last), 1)[..., :2].cpu().numpy()
    lengths = rollouts.mask[task].sum(1).int().tolist()
    return [path[: length + 1] for path, length in zip(seen, lengths, strict=True)]
