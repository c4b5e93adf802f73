"""Gymnasium's spaces as flat vectors, and how these vectors are laid out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from metarl.errors import SettingsError, short_repr

SMALLEST_IMAGE = 8
"""An array of bytes with fewer rows or columns is no image but a table."""


PLACEHOLDER = 1e9
"""Bounds beyond this are placeholders, such as the largest float: they count as infinite."""
FAR = 10.0
"""Multiple of a bound that no observation reaches by rounding."""
MOST_ENTRIES = 4_000_000
"""Numbers and choices of a space for which a policy may have weights."""
FEWEST_STEPS = 64
"""Numbers that float32 has at least between the bounds of an action that is no whole number."""


class Leaf(NamedTuple):
    """An elementary space within a flat vector.

    Attributes:
        name: Its place in the original space, such as "camera" or "0.gear"; "" for the whole.
        space: A Box, Discrete, MultiDiscrete or MultiBinary.
        start: The index of its first entry.
        stop: One past its last entry.
    """

    name: str
    space: spaces.Space[Any]
    start: int
    stop: int


class FlatBox(spaces.Box):
    """A vector of float32 numbers that stands for another space, its `source`.

    Observations are flattened as `gymnasium.spaces.flatten` does: numbers in order, discrete values
    one-hot. Of actions each discrete value is one entry, counted from 0.

    Args:
        low: Lower bounds, [D].
        high: Upper bounds, [D].
        source: The space that the vector stands for.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, source: spaces.Space[Any]) -> None:
        with np.errstate(over="ignore"):  # bounds beyond float32 become infinite
            low, high = low.astype(np.float32), high.astype(np.float32)
        super().__init__(low, high, dtype=np.float32)
        self.source = source


class FlatDiscrete(spaces.Discrete):
    """Choices from 0 that stand for those of another Discrete, its `source`.

    Args:
        source: A Discrete with another first choice than 0.
    """

    def __init__(self, source: spaces.Discrete) -> None:
        super().__init__(int(source.n))
        self.source = source


def source_of(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Returns the space that a flat one stands for, or the space itself."""
    return space.source if isinstance(space, FlatBox | FlatDiscrete) else space


def observation_leaves(space: spaces.Space[Any]) -> list[Leaf]:
    """Returns the elementary spaces of flat observations, in the order of the vector."""
    return _leaves(source_of(space), spaces.flatdim)


def action_leaves(space: spaces.Space[Any]) -> list[Leaf]:
    """Returns the elementary spaces of flat actions, in the order of the vector."""
    return _leaves(source_of(space), _action_size)


def far_beyond(space: spaces.Box, sizes: np.ndarray) -> np.ndarray:
    """Returns which absolute values [*, O] of observations are beyond ten times their bounds.

    Rounding and noise lead a little beyond bounds; here these do not say the scale. Bounds that
    are infinite or placeholders say none.
    """
    bounds = np.maximum(np.abs(space.low), np.abs(space.high))
    return (bounds > 0) & (bounds <= PLACEHOLDER) & (sizes > FAR * bounds)


def first_choices(space: spaces.Space[Any]) -> list[int]:
    """Returns the environment's numbers of the choices that a Discrete or MultiDiscrete has as 0.

    They are in the order of the flat action's entries; other spaces have none.
    """
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return np.ravel(space.start).astype(int).tolist()
    return []


def idle_action(space: spaces.Box | spaces.Discrete) -> np.ndarray:
    """Returns the flat action that is 0 for the environment, or nearest to it: [A], or an index."""
    if isinstance(space, spaces.Discrete):
        first = first_choices(source_of(space))[0]
        return np.array(min(max(-first, 0), int(space.n) - 1), np.int64)
    idle = np.zeros(space.shape, np.float32)
    for leaf in action_leaves(space):
        if first := first_choices(leaf.space):
            idle[leaf.start : leaf.stop] -= first
    return idle.clip(space.low, space.high)


def described_actions(space: spaces.Space[Any]) -> str:
    """Returns what the entries of flat actions are and how they become the environment's."""
    return ", ".join(_described(leaf) for leaf in action_leaves(space))


def flat_observations(space: spaces.Space[Any]) -> spaces.Box:
    """Returns the space of flattened observations.

    Raises:
        SettingsError: A part of the space has no fixed size, such as text or a graph.
    """
    _check(space, "observations")
    flat = spaces.flatten_space(space)
    assert isinstance(flat, spaces.Box)
    return FlatBox(flat.low, flat.high, space)


def flat_actions(space: spaces.Space[Any]) -> spaces.Box | spaces.Discrete:
    """Returns the space of flattened actions; a Discrete stays one, counted from 0.

    Raises:
        SettingsError: A part of the space has no fixed size, such as text or a graph; or float32
            has hardly a number between two bounds.
    """
    _check(space, "actions")
    for leaf in action_leaves(space):
        _check_resolution(leaf)
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)) if space.start == 0 else FlatDiscrete(space)
    bounds = [_action_bounds(leaf.space) for leaf in action_leaves(space)]
    low, high = (np.concatenate(side) for side in zip(*bounds, strict=True))
    return FlatBox(low, high, space)


def action_reader(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """Returns a function from a flat action, inside its bounds, to an action of `space`."""
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return lambda row: round(float(np.ravel(row)[0])) + first
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return _composite_reader(space)
    if isinstance(space, spaces.Box):
        return _box_reader(space)
    shape, dtype = space.shape, space.dtype
    assert shape is not None
    if isinstance(space, spaces.MultiDiscrete):
        return lambda row: np.rint(row).astype(dtype).reshape(shape) + space.start
    return lambda row: np.rint(row).astype(dtype).reshape(shape)  # MultiBinary


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether a space is of images: bytes 0..255, [H, W], with channels, or with stacked frames."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    if not 2 <= len(space.shape) <= 4 or not ((space.low == 0) & (space.high == 255)).all():
        return False
    return min(image_shape(space)[1:]) >= SMALLEST_IMAGE


def only_images(space: spaces.Space[Any]) -> bool:
    """Whether observations are images and nothing else, so that bytes hold them."""
    return all(is_image(leaf.space) for leaf in observation_leaves(space))


def image_shape(space: spaces.Box) -> tuple[int, int, int]:
    """Returns channels, height and width of images; stacked frames are channels.

    The channels are the smaller of the first and the last dimension, the last one if both are
    equal.
    """
    shape = list(space.shape)
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    frames, (first, second, last) = int(np.prod(shape[:-3])), shape[-3:]
    if channels_last(space):
        return frames * last, first, second
    return frames * first, second, last


def channels_last(space: spaces.Box) -> bool:
    """Whether the last dimension of images has the channels."""
    return len(space.shape) > 2 and space.shape[-1] <= space.shape[-3]


def _described(leaf: Leaf) -> str:
    space, count = leaf.space, leaf.stop - leaf.start
    name = f"{leaf.name}: " if leaf.name else ""
    if isinstance(space, spaces.Box):
        whole = ", to be rounded to whole ones" if space.dtype.kind in "biu" else ""
        return f"{name}{count} number{'s' if count > 1 else ''}{whole}"
    if isinstance(space, spaces.MultiBinary):
        return f"{name}{count} switch{'es' if count > 1 else ''} (0 or 1)"
    counts: Any = space.n if isinstance(space, spaces.Discrete) else getattr(space, "nvec", 0)
    most = np.ravel(counts) - 1
    first = first_choices(space)
    added = f" (the environment adds {', '.join(map(str, first))})" if any(first) else ""
    kind = "a choice" if len(most) == 1 else f"{len(most)} choices"
    return f"{name}{kind} from 0 to {', '.join(map(str, most.tolist()))}{added}"


def _leaves(space: spaces.Space[Any], size: Callable[[Any], int]) -> list[Leaf]:
    found, start = [], 0
    for name, leaf in _named(space, ""):
        stop = start + size(leaf)
        found.append(Leaf(name, leaf, start, stop))
        start = stop
    return found


def _named(space: spaces.Space[Any], name: str) -> Iterator[tuple[str, spaces.Space[Any]]]:
    """Yields the names and the elementary parts of a space, in gymnasium's order."""
    if isinstance(space, spaces.Dict):
        parts = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        parts = list(enumerate(space.spaces))
    else:
        yield name, space
        return
    for key, part in parts:
        yield from _named(part, f"{name}.{key}" if name else str(key))


def _check(space: Any, what: str) -> None:
    """Raises SettingsError for a part that no policy supports, by its name."""
    known = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if _has_empty(space):
        raise SettingsError(
            f"Expected {what} whose parts have at least one number, got {space}: leave empty Dict "
            "and Tuple spaces out."
        )
    parts = list(_named(space, ""))
    for name, part in parts:
        if not isinstance(part, known):
            where = f"the part {name!r} of the {what}" if name else f"the {what}"
            if not isinstance(part, spaces.Space):
                raise SettingsError(
                    f"Expected {what} of a space of gymnasium; {where} is {short_repr(part)}, a "
                    f"{type(part).__module__}.{type(part).__name__}, which no policy reads. Set "
                    f"`{what.removesuffix('s')}_space` of the environment to a space of "
                    "gymnasium.spaces; those of the older package gym are others."
                )
            raise SettingsError(
                f"Expected {what} of numbers, images or discrete values, or a Dict or Tuple of "
                f"such; {where} is {part}, a {type(part).__name__}, which no policy reads. Wrap "
                "the environment in a wrapper that encodes it as numbers or leaves it out."
            )
    if not sum(map(spaces.flatdim, (part for _, part in parts))):
        raise SettingsError(f"Expected {what} with at least one number, got {space}.")
    size = sum(spaces.flatdim(part) for _, part in parts if not is_image(part))
    if size > MOST_ENTRIES:
        raise SettingsError(
            f"Expected {what} of at most {MOST_ENTRIES:,} numbers and choices, got {size:,} of "
            f"{short_repr(space)}: a policy has weights for each of them. Wrap the environment in "
            "a wrapper with fewer: count choices by several digits (MultiDiscrete), or declare a "
            "Box."
        )


def _has_empty(space: Any) -> bool:
    """Returns whether a space is a Dict or Tuple without parts, or has such a part."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return False
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
    return not parts or any(map(_has_empty, parts))


def _check_resolution(leaf: Leaf) -> None:
    """Raises SettingsError where float32, in which policies act, hardly tells two bounds apart."""
    space = leaf.space
    if not isinstance(space, spaces.Box):
        return
    low, high = (bound.ravel().astype(np.float64) for bound in (space.low, space.high))
    fewest = np.minimum(high - low, FEWEST_STEPS) if space.dtype.kind in "biu" else FEWEST_STEPS
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        least, most = low.astype(np.float32), high.astype(np.float32)
        width = most.astype(np.float64) - least
        largest = np.maximum(np.abs(least), np.abs(most))
        gap = largest - np.nextafter(largest, np.float32(0))  # 0 only at 0
        steps = width / np.maximum(gap, np.finfo(np.float32).smallest_subnormal)
        coarse = (high > low) & (steps < fewest)  # steps are NaN where a bound is infinite
    if coarse.any():
        entry = int(coarse.argmax())
        raise SettingsError(
            f"Expected bounds of actions that float32 tells apart, entry {entry} of "
            f"{f'the part {leaf.name!r} of ' if leaf.name else ''}the actions is between "
            f"{low[entry]:.17g} and {high[entry]:.17g}: a policy could choose among a few numbers "
            "only. Declare the difference from one of them, and add that in `step`."
        )


def _action_size(space: spaces.Space[Any]) -> int:
    return 1 if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))


def _action_bounds(space: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lower and the upper bounds of the flat actions of an elementary space."""
    if isinstance(space, spaces.Box):
        return space.low.ravel(), space.high.ravel()
    if isinstance(space, spaces.Discrete):
        most = np.array([space.n - 1])
    elif isinstance(space, spaces.MultiDiscrete):
        most = np.ravel(space.nvec) - 1
    else:
        most = np.ones(_action_size(space))
    return np.zeros(len(most)), most.astype(float)


def _box_reader(space: spaces.Box) -> Callable[[Any], Any]:
    """Returns the reader of a box; whole numbers and truth values are the nearest ones."""
    shape, dtype = space.shape, space.dtype
    low, high = (bound.ravel().astype(np.float64) for bound in (space.low, space.high))
    if dtype.kind not in "biu":
        if dtype == np.float64:  # float32(0.1) is above 0.1
            return lambda row: np.clip(row.astype(dtype), low, high).reshape(shape)
        if len(shape) == 1:
            return lambda row: row.astype(dtype)
        return lambda row: row.astype(dtype).reshape(shape)
    # float64(2^63 - 1) is 2^63, which would become the smallest int64.
    high = np.where(high > space.high.ravel().astype(object), np.nextafter(high, 0), high)
    return lambda row: np.clip(np.rint(row), low, high).astype(dtype).reshape(shape)


def _composite_reader(space: spaces.Dict | spaces.Tuple) -> Callable[[Any], Any]:
    is_dict = isinstance(space, spaces.Dict)
    parts = list(space.spaces.items()) if is_dict else list(enumerate(space.spaces))
    readers, start = [], 0
    for key, part in parts:
        size = sum(leaf.stop - leaf.start for leaf in action_leaves(part))
        readers.append((key, slice(start, start + size), action_reader(part)))
        start += size
    if is_dict:
        return lambda row: {key: read(row[where]) for key, where, read in readers}
    return lambda row: tuple(read(row[where]) for _, where, read in readers)
