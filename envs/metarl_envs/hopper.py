"""The planar one-legged hopper."""

from __future__ import annotations

from metarl_envs.models import gymnasium_model
from metarl_envs.robot import Robot

HOPPER = Robot(
    "Hopper-v5", gymnasium_model("hopper.xml"), 4, noise=5e-3, normal_velocities=False,
    speed_limit=10.0, height=1, heights=(0.7, float("inf")), lean=0.2,
)  # fmt: skip
