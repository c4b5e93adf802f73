"""The parameters of a robot that do not depend on its tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from metarl_envs.models import Change

GYMNASIUM = "gymnasium v5"


@dataclass(frozen=True)
class Robot:
    """A robot's model, initial state, observation and termination.

    The defaults are those of gymnasium's environments.

    Attributes:
        title: Name with its version, such as "HalfCheetah-v5".
        model: Path of the MJCF model.
        frame_skip: MuJoCo steps per environment step.
        hidden: Number of leading positions (x, or x and y) that are not observed.
        noise: Scale of the noise on the initial positions.
        kick: Scale of the noise on the initial velocities; None uses `noise`.
        normal_positions: Draws the noise on positions from N(0, 1) instead of U(-1, 1).
        normal_velocities: Draws the noise on velocities from N(0, 1) instead of U(-1, 1).
        speed_limit: Observed velocities are clipped to [-speed_limit, speed_limit].
        height: Index of the position that is the height; None disables termination.
        heights: Episodes terminate unless low < height < high, in m.
        lean: Episodes terminate at an absolute angle (position 2) of `lean` or more, in rad.
        pose: Initial positions without noise; None uses the model's rest pose.
        changes: Changes of attributes of the model.
        source: Source of these numbers, for cards.
        physics: Remark on the dynamics, for cards.
    """

    title: str
    model: str
    frame_skip: int
    hidden: int = 1
    noise: float = 0.1
    kick: float | None = None
    normal_positions: bool = False
    normal_velocities: bool = True
    speed_limit: float = math.inf
    height: int | None = None
    heights: tuple[float, float] = (-math.inf, math.inf)
    lean: float = math.inf
    pose: tuple[float, ...] | None = None
    changes: tuple[Change, ...] = ()
    source: str = GYMNASIUM
    physics: str = ""

    @property
    def name(self) -> str:
        """The title without its version."""
        return self.title.partition("-")[0]

    @property
    def speed_noise(self) -> float:
        """Scale of the noise on the initial velocities."""
        return self.noise if self.kick is None else self.kick

    def start(self) -> str:
        """Returns a description of the initial state for a card."""
        shift = _law(self.noise, self.normal_positions)
        kick = _law(self.speed_noise, self.normal_velocities)
        pose = "the model's rest pose" if self.pose is None else f"positions {self.pose}"
        return f"{pose}, + {shift} on positions and {kick} on velocities"

    def fall(self) -> str:
        """Returns a description of the termination for a card."""
        if self.height is None:
            return "never"
        low, high = self.heights
        lean = f" or |angle| >= {self.lean} rad" if math.isfinite(self.lean) else ""
        return f"height outside ({low}, {high}) m{lean}"


def _law(scale: float, is_normal: bool) -> str:
    return f"{scale} N(0, 1)" if is_normal else f"U(-{scale}, {scale})"
