"""2D navigation: a point moves in the plane to a goal that it does not observe."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.ranges import COUNT, check_fields
from metarl.sim import Card, ControlTasks, Fact, Tasks, TorchFamily, WorldState
from metarl.tasks.base import Split, check_sampling, check_split
from metarl.tasks.disjoint_splits import split_uniform

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PATH_COLOUR = "#0072B2"


class Point(TorchFamily):
    """Base class of families in which a point moves in the plane to a goal.

    Tasks hold "goal", [T, 2] float32.

    Attributes:
        step_size: Displacement by an action of 1.
        far: The greatest absolute coordinate of a goal.
        circle: Radius of the circle that pictures draw around the goal; 0 draws none.
    """

    step_size: float
    far: float
    circle: float = 0.0
    published_units = True

    @property
    def observation_space(self) -> spaces.Box:
        """The position (x, y), unbounded."""
        return spaces.Box(-np.inf, np.inf, (2,), np.float32)

    @property
    def action_space(self) -> spaces.Box:
        """The displacement (dx, dy) in [-1, 1], in units of `step_size`."""
        return spaces.Box(-1.0, 1.0, (2,), np.float32)

    def sample(self, num_tasks: int, generator: torch.Generator) -> ControlTasks:
        check_sampling(num_tasks, generator)
        draws = torch.rand(3, num_tasks, generator=generator, device=generator.device)
        return ControlTasks({"goal": self.goals(*draws)})

    @abstractmethod
    def goals(self, cell: Tensor, inside: Tensor, other: Tensor) -> Tensor:
        """Computes the goals from three uniform random numbers per task.

        Args:
            cell: Uniform in [0, 1), [T]; chooses the cell of the split. See `split_uniform`.
            inside: Uniform in [0, 1), [T]; chooses the place inside the cell.
            other: Uniform in [0, 1), [T]; free for other coordinates.

        Returns:
            The goals, [T, 2].
        """

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        """Returns "position", [W, 2], at the origin."""
        return {"position": torch.zeros_like(tasks["goal"])}

    def step(self, state: WorldState, actions: Tensor, tasks: Tasks, noise: Tensor) -> WorldState:
        # s' = s + step_size * clip(a, -1, 1)
        move = actions.clamp(-1.0, 1.0)
        return {"position": torch.add(state["position"], move, alpha=self.step_size)}

    def observe(self, state: WorldState, tasks: Tasks) -> Tensor:
        return state["position"].clone()

    def task_vector(self, tasks: Tasks) -> Tensor:
        """Returns the goals, [W, 2]."""
        return tasks["goal"]

    def draw(self, axes: Axes, path: WorldState, tasks: Tasks) -> None:
        """Draws the path so far, its start and the goal."""
        # Imported here because matplotlib takes a second to load.
        from metarl.plots.path_figure import Paths, draw_paths

        positions, goal = path["position"].numpy(), tasks["goal"][0].numpy()
        draw_paths(axes, Paths(goal, {0: [positions]}, radius=self.circle), 0, _PATH_COLOUR)
        reach = max(1.2 * self.far, 1.05 * float(np.abs(positions).max()))
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), title=self.name)

    def distance(self, state: WorldState, tasks: Tasks) -> Tensor:
        """Returns the Euclidean distance of each world from its goal, ||s - g||_2, [W]."""
        return torch.linalg.vector_norm(state["position"] - tasks["goal"], dim=1)

    def _movement(self, note: str = "") -> tuple[Fact, ...]:
        size = self.step_size
        return (
            Fact("observation", "position s, 2 numbers"),
            Fact(
                "action",
                f"a, 2 numbers, clipped to [-1, 1], the units of policies; 1 moves by {size}",
                note,
            ),
            Fact("dynamics", f"s' = s + {size} clip(a)"),
            Fact("horizon", f"{self.horizon} steps"),
        )


@dataclass(frozen=True)
class Navigation2D(Point):
    """Goals g ~ U(-0.5, 0.5)^2 with dense rewards (Finn et al. 2017, section 5.3).

    arXiv:1703.03400; the reward is that of the authors' code.

    Attributes:
        horizon: Steps per episode.
        part: The split that goals are sampled from.
    """

    horizon: int = 100
    part: Split = "train"

    name = "Navigation2D-v1"
    step_size = 0.1
    goal_range = (-0.5, 0.5)
    far = 0.5
    radius = 0.01

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)
        check_fields(self, horizon=COUNT)

    def card(self) -> Card:
        low, high = self.goal_range
        code = "the code"
        return Card(
            self.name,
            "a point moves to a goal in a square; dense rewards",
            "Finn et al. 2017, arXiv:1703.03400; code: github.com/cbfinn/maml_rl, "
            "maml_examples/point_env_randgoal.py",
            (
                Fact("tasks", f"goal g ~ U({low}, {high})^2"),
                Fact("start", "s = (0, 0)"),
                *self._movement(),
                Fact("reward", "-||s' - g||_2", f"{code}; the paper squares the distance"),
                Fact("termination", f"|x' - g_x| and |y' - g_y| below {self.radius}", code),
            ),
        )

    def split(self, name: Split) -> Navigation2D:
        """Returns the family over one split; splits have disjoint x coordinates of goals."""
        return replace(self, part=check_split(name))

    def goals(self, cell: Tensor, inside: Tensor, other: Tensor) -> Tensor:
        low, high = self.goal_range
        x = split_uniform(cell, inside, self.part, low, high)
        return torch.stack([x, low + (high - low) * other], 1)

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        # -||s' - g||_2
        return -self.distance(after, tasks)

    def terminated(self, state: WorldState, tasks: Tasks) -> Tensor:
        # |x' - g_x| < radius and |y' - g_y| < radius
        return (state["position"] - tasks["goal"]).abs().amax(1) < self.radius


@dataclass(frozen=True)
class Navigation2DSparse(Point):
    """Goals on the unit half circle with rewards only near the goal (Rakelly et al. 2019, PEARL).

    arXiv:1903.08254, section 6.3.

    Attributes:
        dense: Uses the dense reward -||s' - g||_2, which PEARL uses for meta-training.
        horizon: Steps per episode.
        part: The split that goals are sampled from.
    """

    dense: bool = False
    horizon: int = 20
    part: Split = "train"

    name = "Navigation2DSparse-v1"
    step_size = 0.1
    goal_angle = (0.0, math.pi)
    far = 1.0
    radius = circle = 0.2

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)
        check_fields(self, horizon=COUNT)

    def card(self) -> Card:
        sparse = f"1 - ||s' - g||_2 where that distance is at most {self.radius}, else 0"
        return Card(
            self.name,
            f"a point moves to a goal on a half circle; {'dense' if self.dense else 'sparse'} "
            "rewards",
            "Rakelly et al. 2019, arXiv:1903.08254; code: github.com/katerakelly/oyster, "
            "rlkit/envs/point_robot.py, configs/sparse-point-robot.json",
            (
                Fact(
                    "tasks",
                    "goal g = (cos w, sin w), w ~ U(0, pi)",
                    "the code uses 100 evenly spaced angles, 80 for training and 20 for testing",
                ),
                Fact("start", "s = (0, 0)"),
                *self._movement(),
                Fact(
                    "reward",
                    "-||s' - g||_2" if self.dense else sparse,
                    "PEARL meta-trains with the dense reward (dense=True)",
                ),
                Fact("termination", "never"),
            ),
        )

    def split(self, name: Split) -> Navigation2DSparse:
        """Returns the family over one split; splits have disjoint angles of goals."""
        return replace(self, part=check_split(name))

    def goals(self, cell: Tensor, inside: Tensor, other: Tensor) -> Tensor:
        # g = (cos w, sin w), w ~ U(0, pi)
        angle = split_uniform(cell, inside, self.part, *self.goal_angle)
        return torch.stack([angle.cos(), angle.sin()], 1)

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        distance = self.distance(after, tasks)
        if self.dense:
            return -distance
        # 1 - d if d <= radius, else 0
        return torch.where(distance <= self.radius, 1 - distance, 0.0)


@dataclass(frozen=True)
class Navigation2DCorner(Point):
    """Goals in four corners with rewards only in the goal's quadrant (Rothfuss et al. 2019, ProMP).

    arXiv:1810.06784, appendix. Training and test tasks are the same four.

    Attributes:
        horizon: Steps per episode.
        part: The split; all splits contain the same four tasks.
    """

    horizon: int = 100
    part: Split = "train"

    name = "Navigation2DCorner-v1"
    reset_noise = 2
    step_size = 0.2
    corner = far = 2.0
    start = 0.2
    radius = 0.5

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_split(self.part)
        check_fields(self, horizon=COUNT)

    def card(self) -> Card:
        return Card(
            self.name,
            "a point moves to one of four corners; rewards only in the goal's quadrant",
            "Rothfuss et al. 2019, arXiv:1810.06784; code: github.com/jonasrothfuss/ProMP, "
            "meta_policy_search/envs/point_envs/point_env_2d_corner.py",
            (
                Fact("tasks", f"goal g = (+-{self.corner}, +-{self.corner}), equally likely"),
                Fact("start", f"s ~ U(-{self.start}, {self.start})^2"),
                *self._movement("1 here is 10 in the code, because of its normalize()"),
                Fact(
                    "reward",
                    "||s - g||_2 - ||s' - g||_2 where g is the corner nearest to s' and "
                    f"|x'| + |y'| at least {self.radius}, else 0",
                ),
                Fact("termination", "never"),
            ),
            disjoint=False,
        )

    def split(self, name: Split) -> Navigation2DCorner:
        """Returns the family over one split; all splits have the same four tasks."""
        return replace(self, part=check_split(name))

    def goals(self, cell: Tensor, inside: Tensor, other: Tensor) -> Tensor:
        return torch.where(torch.stack([cell, other], 1) < 0.5, -self.corner, self.corner)

    def reset(self, tasks: Tasks, noise: Tensor) -> WorldState:
        # s ~ U(-start, start)^2
        return {"position": self.start * (2 * noise - 1)}

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        # ||s - g||_2 - ||s' - g||_2 if g is the corner nearest to s' and |x'| + |y'| >= radius,
        # else 0
        position = after["position"]
        nearest = (position * tasks["goal"] >= 0).all(1)  # the corner of the quadrant
        away = position.abs().sum(1) >= self.radius
        progress = self.distance(before, tasks) - self.distance(after, tasks)
        return torch.where(nearest & away, progress, 0.0)
