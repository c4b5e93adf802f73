"""Checks what the methods of a family return, in no more time than a look at shapes and types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metarl.errors import ShapeError, TaskError
from metarl.trees import in_place_changes

READERS = "`reward`, `terminated`, `truncated` or `measure`"
"""The methods that read a step."""
WATCHED = 8
"""Calls of the methods of a family that are watched for changes of its state."""
ADVICE = "`metarl.sim.check_family(family)` finds such mistakes before training."


def world_values(name: str, values: Any, worlds: int, is_truth: bool = False) -> Tensor:
    """Returns what a method gave for each world, [W].

    Args:
        name: The name of the method.
        values: What it returned.
        worlds: The number of worlds, W.
        is_truth: Whether truth values are expected, not real numbers.

    Raises:
        ShapeError: These are not W numbers or truth values.
    """
    if isinstance(values, Tensor) and values.numel() == worlds:
        is_right = values.dtype == torch.bool if is_truth else values.is_floating_point()
        if is_right:
            return values.reshape(worlds)
    kind = "bool" if is_truth else "float32"
    raise ShapeError(
        f"Expected `{name}` of the family to return one number per world, [{worlds}] {kind}, got "
        f"{_described(values)}. {ADVICE}"
    )


def world_rows(what: str, value: Any, shape: Sequence[int]) -> Tensor:
    """Returns what a method gave, numbers of this shape; others would be spread over worlds.

    Args:
        what: The name of the method.
        value: What it returned.
        shape: The expected shape, worlds first.

    Raises:
        ShapeError: It is no tensor of this shape.
    """
    if isinstance(value, Tensor) and value.shape == tuple(shape):
        return value
    raise ShapeError(
        f"Expected {what} of the family to return {list(shape)}, a row for each world, got "
        f"{_described(value)}. {ADVICE}"
    )


def measured_values(values: Any, names: Collection[str], worlds: int) -> dict[str, Tensor]:
    """Returns the numbers of metrics that `measure` gave for each world, [W] float32 per name.

    Args:
        values: What it returned.
        names: The names of the family's metrics.
        worlds: The number of worlds, W.

    Raises:
        ShapeError: A name is missing, or has no tensor of W numbers.
    """
    found: dict[str, Tensor] = {}
    for name in names:
        value = values.get(name) if isinstance(values, Mapping) else values
        if not isinstance(value, Tensor) or value.is_complex() or value.numel() != worlds:
            raise ShapeError(
                f"Expected `measure` of the family to return a dict with the metric {name!r}, one "
                f"number per world, [{worlds}], got {_described(value)}. {ADVICE}"
            )
        found[name] = value.reshape(worlds).float()
    return found


def check_observation(observation: Any, shape: torch.Size) -> None:
    """Checks the observations of all worlds, [W, O] float32, or bytes.

    Raises:
        ShapeError: They are something else.
    """
    is_right = isinstance(observation, Tensor) and observation.shape == shape
    if not is_right or observation.dtype not in (torch.float32, torch.uint8):
        raise ShapeError(
            f"Expected `observe` of the family to return {list(shape)} float32, as its "
            f"observation space says, got {_described(observation)}. {ADVICE}"
        )


class Untouched:
    """Finds out whether a function changes the state that it is given; never waits for the device.

    Args:
        state: The state before the call.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        self._state = state
        self._before = dict(state)
        self._changes = in_place_changes(state)

    def check(self, names: str) -> None:
        """Raises TaskError if the state has changed since, by the methods of these names."""
        state, before = self._state, self._before
        is_same = state.keys() == before.keys() and all(state[n] is v for n, v in before.items())
        if not is_same or self._changes != in_place_changes(state):
            raise TaskError(
                f"{names} of the family changes the state that it is given, which others read too: "
                f"return new tensors, in a new dict. {ADVICE}"
            )


class FirstCalls:
    """Watches the states that are given to the first calls; later ones take no time."""

    def __init__(self) -> None:
        self._left = WATCHED

    def of(self, state: dict[str, Tensor]) -> Untouched:
        """Returns what finds out whether a call changes a state."""
        if not self._left:
            return _NOTHING
        self._left -= 1
        return Untouched(state)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"


_NOTHING = Untouched({})
