"""What the robots are, whatever their tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from metarl_envs.models import Change

GYMNASIUM = "gymnasium v5"


@dataclass(frozen=True)
class Robot:
    """What a robot is, whatever its task; by default numbers of gymnasium's environments.

    Attributes:
        title: What it is called, "HalfCheetah-v5".
        model: Path of its model.
        frame_skip: MuJoCo's steps in one step.
        hidden: How many leading positions, x or x and y, are not observed.
        noise: Scale of what is added to positions at the start.
        kick: Scale of what is added to velocities; None for as much as to positions.
        normal_positions: Whether that is normal for positions; else it is uniform.
        normal_velocities: Whether it is for velocities.
        speed_limit: Observed velocities are clipped to it.
        height: Which position is the height, where heights end an episode.
        heights: The lowest and the highest height of a robot that stands.
        lean: The greatest angle, position 2, of one that stands, rad.
        pose: Positions at the start; None for the model's at rest.
        changes: What is changed in the model.
        source: Where these numbers are from.
        physics: What else is known of its dynamics, for cards.
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
        """Scale of what is added to velocities at the start."""
        return self.noise if self.kick is None else self.kick

    def start(self) -> str:
        """Returns what is added at the start, for a card."""
        shift = _law(self.noise, self.normal_positions)
        kick = _law(self.speed_noise, self.normal_velocities)
        pose = "the model's pose at rest" if self.pose is None else f"positions {self.pose}"
        return f"{pose}, + {shift} on positions and {kick} on velocities"

    def fall(self) -> str:
        """Returns what ends an episode, for a card."""
        if self.height is None:
            return "never"
        low, high = self.heights
        lean = f" or |angle| {self.lean} rad and more" if math.isfinite(self.lean) else ""
        return f"height outside ({low}, {high}) m{lean}"


def _law(scale: float, is_normal: bool) -> str:
    return f"{scale} N(0, 1)" if is_normal else f"U(-{scale}, {scale})"
