"""The spaces of gymnasium environments: which are supported, and observations as flat arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.errors import short_repr
from metarl.sim.spaces import flat_actions, flat_observations

WHOLE, REAL = "biu", "biuf"
"""numpy's kinds of truth values and integers, and of real numbers."""


def check_spaces(env: gymnasium.Env) -> None:
    """Raises SettingsError for observation or action spaces that are not supported."""
    flat_observations(env.observation_space)
    flat_actions(env.action_space)


def flattener(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """Returns a function that flattens observations to [O]; ValueError for those of other spaces.

    Numbers outside of the bounds of a Box pass, as rounding may cause them.
    """
    if isinstance(space, spaces.Dict):
        return _joined(space.spaces)
    if isinstance(space, spaces.Tuple):
        return _joined(dict(enumerate(space.spaces)))
    if not isinstance(space, spaces.Box):
        return lambda value: spaces.flatten(space, _contained(value, space))
    shape = space.shape
    is_flat = len(shape) == 1

    def flat(value: Any) -> Any:
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
        if array.shape != shape or array.dtype.kind not in REAL:
            raise ValueError(
                f"Expected an observation of shape {shape}, that of the observation space, of real "
                f"numbers, got {array.shape} of {array.dtype}."
            )
        return array if is_flat else np.ravel(array)

    return flat


def _joined(parts: Mapping[Any, spaces.Space[Any]]) -> Callable[[Any], Any]:
    """Returns a function that flattens observations of several parts, in their order."""
    flat = {name: flattener(space) for name, space in parts.items()}

    def join(value: Any) -> Any:
        if len(value) != len(flat):
            raise ValueError(
                f"Expected an observation of the parts {', '.join(map(str, flat))}, got "
                f"{short_repr(value)}."
            )
        return np.concatenate([part(value[name]) for name, part in flat.items()])

    return join


def _contained(value: Any, space: spaces.Space[Any]) -> Any:
    if value not in space:
        raise ValueError(f"Expected an observation of {space}, got {short_repr(value)}.")
    return value
