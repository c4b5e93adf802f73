"""The spaces of gymnasium environments: which are supported, and observations as flat arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.errors import short_repr
from metarl.sim.spaces import flat_actions, flat_observations, is_image, observation_leaves

Spaces = tuple[spaces.Space[Any], spaces.Space[Any]]
"""The observation space and the action space of an environment."""
WHOLE, REAL = "biu", "biuf"
"""numpy's kinds of truth values and integers, and of real numbers."""

CUT_OFF = "TimeLimit.truncated"
"""What `info` has where an end of the older package gym is that of a time limit."""


class ResultError(ValueError):
    """An environment returned something that does not fit its spaces or gymnasium's interface."""


def check_spaces(env: gymnasium.Env) -> None:
    """Raises SettingsError for observation or action spaces that are missing or not supported."""
    observed: Any = getattr(env, "observation_space", None)
    acted: Any = getattr(env, "action_space", None)
    flat_observations(observed)
    flat_actions(acted)


def check_same_spaces(expected: Spaces, found: Spaces) -> None:
    """Checks the spaces of a task's environment; bounds of observations may differ.

    Args:
        expected: Observation and action space of the family.
        found: Those of the environment.

    Raises:
        ResultError: Entries of observations or actions mean something else.
    """
    if _layout(expected[0]) != _layout(found[0]):
        raise ResultError(
            f"Expected all tasks to have the observation space {expected[0]}, got {found[0]}: one "
            "policy reads the observations of all tasks. Give the environment one space that suits "
            "all of them."
        )
    if expected[1] != found[1]:
        raise ResultError(
            f"Expected all tasks to have the action space {expected[1]}, got {found[1]}: one "
            "policy acts in all tasks. Declare the widest bounds for all of them and limit the "
            "action in `step`, or rescale it there."
        )


def flattener(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """Returns a function that flattens observations to [O]; ResultError for those of other spaces.

    Numbers outside of the bounds of a Box pass, as rounding may cause them.
    """
    if isinstance(space, spaces.Dict):
        return _joined(space.spaces, Mapping)
    if isinstance(space, spaces.Tuple):
        return _joined(dict(enumerate(space.spaces)), tuple | list | np.ndarray)
    if not isinstance(space, spaces.Box):
        return lambda value: spaces.flatten(space, _contained(value, space))
    shape, image = space.shape, is_image(space)
    is_flat = len(shape) == 1

    def flat(value: Any) -> Any:
        array = value if type(value) is np.ndarray else _plain(value)
        if array.shape != shape or array.dtype.kind not in REAL:
            raise ResultError(
                f"Expected an observation of shape {shape}, that of the observation space, of real "
                f"numbers, got {array.shape} of {array.dtype}."
            )
        if image and array.dtype.kind == "f" and 0 < array.max() <= 1 and (array % 1).any():
            raise ResultError(
                f"Expected a picture with values of 0..255, those of {space}, got fractions up to "
                f"{array.max():.3g}: they would be divided by 255 once more. Return bytes, or "
                "declare a Box of float32 with the bounds that the picture has."
            )
        if image and array.dtype != np.uint8 and (array.min() < 0 or array.max() > 255):
            raise ResultError(
                f"Expected a picture with values of 0..255, those of {space}, got {array.min():g} "
                f"to {array.max():g}: as bytes, they would be other numbers."
            )
        return array if is_flat else np.ravel(array)

    return flat


def _plain(value: Any) -> np.ndarray:
    """Returns an array; numbers that a mask of NumPy leaves out are NaN."""
    if np.ma.is_masked(value) and value.dtype.kind in REAL:
        return np.ma.filled(value.astype(np.result_type(value.dtype, np.float32)), np.nan)
    return np.asarray(value)


def _layout(space: spaces.Space[Any]) -> list[tuple[Any, ...]]:
    """Returns what the entries of flat observations are, but not their bounds."""
    return [
        (leaf.name, type(leaf.space), leaf.space.shape, is_image(leaf.space), _choices(leaf.space))
        for leaf in observation_leaves(space)
    ]


def _choices(space: spaces.Space[Any]) -> list[Any]:
    """Returns the numbers of discrete values and their first ones; zeros for other spaces."""
    return [np.asarray(getattr(space, name, 0)).tolist() for name in ("n", "nvec", "start")]


def observation_of(result: Any) -> Any:
    """Returns the observation in what `reset` returned; ResultError for other results."""
    is_pair = isinstance(result, tuple | list) and len(result) == 2
    if not is_pair or not (result[1] is None or isinstance(result[1], Mapping)):
        raise ResultError(
            "Expected `reset` to return an observation and a dict `info`, got "
            f"{short_repr(result)}."
        )
    return result[0]


def step_result(result: Any) -> Any:
    """Returns observation, reward, terminated, truncated and info, which `step` returned.

    An end that `info` calls a time limit, as wrappers of the older package gym do, is truncated.

    Raises:
        ResultError: These are not five, or reward and ends not single numbers and truth values.
    """
    if not isinstance(result, tuple | list) or len(result) != 5:
        found = f"{len(result)} values" if isinstance(result, tuple) else short_repr(result)
        raise ResultError(
            "Expected `step` to return observation, reward, terminated, truncated and info, got "
            f"{found}."
        )
    observation, reward, terminated, truncated, info = result
    if not isinstance(reward, float):  # np.float64 is one
        _check_one("number as reward", reward, REAL)
    if not (type(terminated) is bool and type(truncated) is bool):
        _check_one("truth value as terminated", terminated, WHOLE)
        _check_one("truth value as truncated", truncated, WHOLE)
    cut_off = terminated and isinstance(info, Mapping) and info.get(CUT_OFF)
    if cut_off and isinstance(cut_off, bool | np.bool_):
        return observation, reward, False, True, info
    return result


def _check_one(what: str, value: Any, kinds: str) -> None:
    """Raises ResultError unless a value is a scalar of one of numpy's kinds of numbers."""
    array = np.asarray(value)
    if array.ndim:
        one = "; return its only element, value.item()" if array.size == 1 else ""
        raise ResultError(f"Expected one {what}, got the shape {array.shape}{one}.")
    if array.dtype.kind not in kinds:
        raise ResultError(f"Expected one {what}, got {short_repr(value)}.")


def _joined(parts: Mapping[Any, spaces.Space[Any]], kinds: Any) -> Callable[[Any], Any]:
    """Returns a function that flattens observations of several parts, in their order."""
    flat = {name: flattener(space) for name, space in parts.items()}
    container = "dict" if kinds is Mapping else "tuple"

    def fits(value: Any) -> bool:
        if not isinstance(value, kinds):
            return False
        is_dict = isinstance(value, Mapping)
        return value.keys() == flat.keys() if is_dict else len(value) == len(flat)

    def join(value: Any) -> Any:
        if not fits(value):
            raise ResultError(
                f"Expected an observation that is a {container} of the parts "
                f"{', '.join(map(str, flat))}, got {short_repr(value)}."
            )
        return np.concatenate([part(value[name]) for name, part in flat.items()])

    return join


def _contained(value: Any, space: spaces.Space[Any]) -> Any:
    if value not in space:
        raise ResultError(f"Expected an observation of {space}, got {short_repr(value)}.")
    return value
