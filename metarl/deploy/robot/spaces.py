"""The spaces of an adapter: observations and actions of an environment as flat vectors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from metarl.deploy.arrays import as_array
from metarl.deploy.robot.actor import Action
from metarl.errors import SettingsError, ShapeError, short_repr
from metarl.sim.gymnasium.observations import REAL, WHOLE, flattener
from metarl.sim.spaces import (
    action_leaves,
    action_reader,
    flat_actions,
    flat_observations,
    is_image,
    observation_leaves,
    source_of,
)

CLOSE = 1e-4
"""Relative difference of bounds that counts as rounding."""


class ControlSpaces:
    """Reads observations and actions as the environment of training has them.

    Args:
        observation: The family's flat observation space.
        action: Its flat action space.

    Attributes:
        observation: See Args.
        action: See Args.
    """

    def __init__(self, observation: spaces.Box, action: spaces.Box | spaces.Discrete) -> None:
        self.observation, self.action = observation, action
        self._source = source_of(observation)
        self._flatten = flattener(self._source)
        self._shape = self._source.shape
        self._is_vector = isinstance(self._source, spaces.Box) and len(self._shape or ()) == 1
        self._to_action = action_reader(source_of(action))
        self._choices, self._most = _choices(action)

    def __reduce__(self) -> Any:
        """Lets copies be rebuilt, as functions of functions are not copied."""
        return ControlSpaces, (self.observation, self.action)

    @property
    def size(self) -> int:
        """Size of a flat observation, O."""
        return self.observation.shape[0]

    @property
    def action_size(self) -> int:
        """Size of a flat action, A; 0 for discrete actions."""
        return 0 if isinstance(self.action, spaces.Discrete) else self.action.shape[0]

    def read(self, observation: Any, row: np.ndarray) -> bool:
        """Writes an observation into a row [O] float32; returns whether it is finite.

        Entries that a mask of NumPy leaves out are NaN. Choices may be whole numbers of any type.

        Raises:
            ShapeError: It has another shape, or is not of numbers.
        """
        if isinstance(observation, Tensor | np.ma.MaskedArray):
            observation = as_array(observation, "the observation")
        try:
            known = self._is_vector and getattr(observation, "shape", None) == self._shape
            if known and not isinstance(observation, np.ndarray):
                observation = np.asarray(observation)  # of pandas and other libraries
            if not (known and observation.dtype.kind in f"{REAL}O"):
                observation = self._flatten(_typed(observation, self._source))
            row[:] = observation
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ShapeError(
                f"Expected an observation of {self._source}, as in training, got "
                f"{short_repr(observation, 60)}. ({error})"
            ) from error
        return bool(np.isfinite(row).all())

    def ranges(self, record: dict[str, Any] | None) -> dict[str, Any] | None:
        """Returns the ranges of observations in training, infinite for entries without a unit.

        These are choices and images: a value that training never had is of no other unit.

        Args:
            record: As `DataRanges.to_json` has it, [O] or [1] each; None: unknown.
        """
        if record is None or len(record["low"]) != self.size:
            return record
        low, high = np.array(record["low"], float), np.array(record["high"], float)
        for leaf in observation_leaves(self.observation):
            if not isinstance(leaf.space, spaces.Box) or is_image(leaf.space):
                low[leaf.start : leaf.stop], high[leaf.start : leaf.stop] = -np.inf, np.inf
        return {**record, "low": low, "high": high}

    def to_environment(self, action: Action) -> Any:
        """Returns a flat action as the environment of training takes it."""
        return self._to_action(action)

    def flat_action(self, action: Any) -> Action:
        """Returns an action of the environment as a flat one, [A] float32 or an int.

        Raises:
            ShapeError: It is not an action of the space.
        """
        try:
            flat = _flat(source_of(self.action), action)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ShapeError(
                f"Expected an action of {source_of(self.action)}, got {short_repr(action, 60)}."
            ) from error
        if flat.shape != (self.action_size or 1,):
            raise ShapeError(
                f"Expected an action of {self.action_size or 1} numbers, got {list(flat.shape)}"
                f"{'; of one-hot actions take the argmax' * (not self.action_size)}."
            )
        self._check_choices(flat, action)
        return int(flat[0]) if isinstance(self.action, spaces.Discrete) else flat

    def is_given(self, executed: Action, given: Action) -> bool:
        """Returns whether a flat action is a given one, or what the environment takes of that.

        Whole numbers are rounded for the environment, and numbers of 16 bits lose digits.
        """
        if _equal(executed, given):
            return True
        return _equal(executed, self.flat_action(self.to_environment(given)))

    def _check_choices(self, flat: np.ndarray, action: Any) -> None:
        """Raises ShapeError unless the choices in a flat action are some of the space."""
        if not len(self._choices):
            return
        rows, most = flat[self._choices], self._most
        if (rows != np.round(rows)).any() or (rows < 0).any() or (rows > most).any():
            raise ShapeError(
                f"Expected an action of {source_of(self.action)}, whole numbers within its ranges, "
                f"got {short_repr(action, 60)}."
            )

    def check(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        """Checks that an environment has the spaces of training.

        Raises:
            SettingsError: It observes or does something else, or its actions have other bounds.
        """
        found, acts = flat_observations(observation), flat_actions(action)
        if found.shape != self.observation.shape:
            raise SettingsError(
                f"Expected observations of {self.size} numbers, as in training "
                f"({self._source}), the environment gives {found.shape[0]} ({observation}). A "
                "wrapper (gymnasium.wrappers.TransformObservation) can bring them to that."
            )
        mine = self.action
        if isinstance(mine, spaces.Discrete) or isinstance(acts, spaces.Discrete):
            both = isinstance(mine, spaces.Discrete) and isinstance(acts, spaces.Discrete)
            if not (both and getattr(acts, "n", 0) == getattr(mine, "n", 0)):
                raise SettingsError(
                    f"Expected actions of {mine}, as in training, the environment takes {action}."
                )
            return
        if acts.shape != mine.shape:
            raise SettingsError(
                f"Expected {mine.shape[0]} action entries, as in training, the environment takes "
                f"{acts.shape[0]} ({action})."
            )
        names = [[leaf.name for leaf in action_leaves(space)] for space in (mine, acts)]
        if [""] not in names and names[0] != names[1]:
            raise SettingsError(
                f"Expected actions of the parts {', '.join(names[0])}, in this order, as in "
                f"training, the environment takes {action}."
            )
        self._check_kinds(acts, action)
        for side in ("low", "high"):
            own, other = getattr(mine, side), getattr(acts, side)
            finite = np.isfinite(own) & np.isfinite(other)
            scale = np.maximum(np.abs(own), 1)
            if (np.abs(own - other)[finite] > CLOSE * scale[finite]).any():
                raise SettingsError(
                    f"Expected actions with the bounds {mine.low.tolist()} to "
                    f"{mine.high.tolist()}, as in training, the environment's are "
                    f"{acts.low.tolist()} to {acts.high.tolist()}. Wrap it: "
                    "gymnasium.wrappers.RescaleAction(env, low, high)."
                )

    def _check_kinds(self, acts: spaces.Box, action: spaces.Space[Any]) -> None:
        """Raises SettingsError for choices where training had numbers; warns of whole numbers."""
        mine = self.action
        numbers, whole = (np.zeros(self.action_size, bool) for _ in range(2))
        for leaf in action_leaves(mine):
            numbers[leaf.start : leaf.stop] = isinstance(leaf.space, spaces.Box)
            whole[leaf.start : leaf.stop] = np.dtype(leaf.space.dtype).kind in WHOLE
        for leaf in action_leaves(acts):
            where = slice(leaf.start, leaf.stop)
            if numbers[where].any() and not isinstance(leaf.space, spaces.Box):
                raise SettingsError(
                    f"Expected actions of numbers, as in training ({source_of(mine)}), the "
                    f"environment takes choices ({action}): numbers would be rounded to them."
                )
            if np.dtype(leaf.space.dtype).kind in WHOLE and not whole[where].all():
                warnings.warn(
                    f"The environment takes whole numbers ({action}), training had fractions "
                    f"({source_of(mine)}): actions are rounded.",
                    RuntimeWarning,
                    stacklevel=5,
                )


def _typed(value: Any, space: spaces.Space[Any]) -> Any:
    """Returns an observation with the shape and the type that its space has.

    Logs and drivers have choices as floats, parts as tensors, and tables flat rows.
    """
    if isinstance(space, spaces.Dict):
        known = space.spaces
        if not isinstance(value, Mapping):
            return value
        return {n: _typed(part, known[n]) if n in known else part for n, part in value.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list | np.ndarray) or len(value) != len(space.spaces):
            return value
        return tuple(_typed(part, own) for part, own in zip(value, space.spaces, strict=True))
    array = as_array(value, "the observation")
    if array.ndim < 2 and array.size == int(np.prod(space.shape or ())):
        array = array.reshape(space.shape or ())
    if isinstance(space, spaces.Box) or array.dtype.kind not in REAL:
        return array
    return array.astype(np.int64) if (array == np.round(array)).all() else array


def _equal(a: Action, b: Action) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return a == b
    return bool(np.array_equal(a, b))


def _choices(space: spaces.Box | spaces.Discrete) -> tuple[np.ndarray, np.ndarray]:
    """Returns which entries of flat actions are choices or switches, and their largest values."""
    leaves = [leaf for leaf in action_leaves(space) if not isinstance(leaf.space, spaces.Box)]
    entries = [np.arange(leaf.start, leaf.stop) for leaf in leaves]
    where = np.concatenate([np.zeros(0, int), *entries])
    most = np.array([space.n - 1]) if isinstance(space, spaces.Discrete) else space.high
    return where, most[where]


def _flat(space: spaces.Space[Any], action: Any) -> np.ndarray:
    if isinstance(space, spaces.Dict):
        return np.concatenate([_flat(part, action[n]) for n, part in space.spaces.items()])
    if isinstance(space, spaces.Tuple):
        pairs = zip(space.spaces, action, strict=True)
        return np.concatenate([_flat(part, value) for part, value in pairs])
    row = np.asarray(action, np.float32).ravel()
    start = getattr(space, "start", None)
    return row if start is None else row - np.asarray(start, np.float32).ravel()
