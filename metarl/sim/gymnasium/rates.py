"""The control rate and the time limit of gymnasium environments."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
from gymnasium.wrappers import TimeLimit

NAMES = ("dt", "tau", "step_seconds", "step_dt")
"""What environments call the time of a step, in seconds."""


def step_seconds(env: Any) -> float | None:
    """Returns the time of a step that an environment says, in seconds; None if it says none."""
    env = getattr(env, "unwrapped", env)
    for name in NAMES:
        value = getattr(env, name, None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if 0 < value < math.inf:
            return float(value)
    return None


def time_limit(env: Any) -> int | None:
    """Returns the smallest limit of all TimeLimit wrappers, in steps; None without one."""
    limits = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            limits.append(env._max_episode_steps)  # not in `spec` if unregistered
        env = env.env
    return min(limits, default=None)
