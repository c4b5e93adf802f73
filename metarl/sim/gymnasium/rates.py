"""The control rate of gymnasium environments."""

from __future__ import annotations

import math
from typing import Any

NAMES = ("dt", "tau", "step_seconds")
"""What environments call the time of a step, in seconds."""


def step_seconds(env: Any) -> float | None:
    """Returns the time of a step that an environment says, in seconds; None if it says none."""
    for name in NAMES:
        value = getattr(env.unwrapped, name, None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if 0 < value < math.inf:
            return float(value)
    return None
