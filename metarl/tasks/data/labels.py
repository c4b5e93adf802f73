"""Class labels of any kind as numbers, and the splits of classes or groups."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, TaskError, short_repr
from metarl.ranges import FRACTION, SEED, check_int, check_number, is_number
from metarl.registry import did_you_mean
from metarl.tasks.base import SPLITS, Split, check_split
from metarl.tasks.data.plain import tensor_array

Splits = Mapping[str, Any] | Sequence[str] | None
"""How classes or groups are split: fractions or the members of each split, by the split's name; the
name of the split of each example; or None for training only."""


class Labels(NamedTuple):
    """The class or group of each example.

    Attributes:
        numbers: Index of each example's class, shape [M], int64.
        values: The label of each class, in increasing order: all integers or all strings.
        kind: "class" or "group", for messages.
    """

    numbers: Tensor
    values: tuple[Any, ...]
    kind: str = "class"

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each class."""
        return tuple(map(str, self.values))

    @property
    def counts(self) -> Tensor:
        """The number of examples of each class, shape [K], int64."""
        return self.numbers.bincount(minlength=len(self.values))

    @property
    def order(self) -> Tensor:
        """The row number of each example, sorted by class, shape [M], int64."""
        return self.numbers.argsort(stable=True)


def number_labels(labels: Any, count: int, kind: str = "class") -> Labels:
    """Numbers the labels of examples.

    Args:
        labels: Integers, booleans or strings, [M]: a tensor, an array, a list or a column.
        count: The number of examples, M.
        kind: "class" or "group", for messages.

    Raises:
        ShapeError: There is not one label per example, or labels are neither integers nor strings.
        TaskError: A label is missing.
    """
    array = _array(labels, kind)
    if array.shape != (count,):
        got = str(array.shape)
        if not array.shape:
            got = f"{short_repr(labels)} ({type(labels).__name__})"
        advice = "; remove the last dimension" if array.shape == (count, 1) else ""
        if len(array.shape) == 2 and not advice:
            advice = "; one-hot labels become numbers by argmax(1)"
        raise ShapeError(
            f"Expected a {kind} for each of the {count} examples, [{count}], got {got}{advice}."
        )
    if array.dtype.kind == "O":
        array = _plain(array, kind)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise _missing(kind, int(np.isnan(array).argmax()))
    if array.dtype.kind not in "biuUS":
        advice = " Regression takes `GroupedExamples`." if kind == "class" else ""
        raise ShapeError(
            f"Expected integers, booleans or strings as labels of the {kind}, got {array.dtype}; "
            f"convert them, such as with `labels.astype(int)`.{advice}"
        )
    if array.dtype.kind == "S":
        array = _decoded(array, kind)
    values, numbers = np.unique(array, return_inverse=True)
    names = values.tolist()
    return Labels(torch.from_numpy(numbers.reshape(-1).astype(np.int64)), tuple(names), kind)


def split_labels(labels: Labels, splits: Splits, seed: int) -> dict[Split, Tensor]:
    """Returns the classes or groups of each split.

    Args:
        labels: The numbered labels.
        splits: See `FewShotData`.
        seed: Seed of random splits; they depend on the labels and the seed alone.

    Returns:
        Split -> numbers of its classes, int64, at least one; a split without classes is left out.

    Raises:
        TaskError: A class is in two splits, or is unknown.
        SettingsError: The splits are not understood, or fractions leave a split without classes.
    """
    seed = check_int("seed", seed, SEED)
    if splits is None:
        return {"train": torch.arange(len(labels.values))}
    if not isinstance(splits, Mapping):
        return _by_example(labels, splits)
    parts: dict[Split, Any] = {_split_name(name): value for name, value in splits.items()}
    if len(parts) < len(splits):
        raise SettingsError(f"Expected each split once, got {', '.join(map(str, splits))}.")
    fractions = [is_number(value) for value in parts.values()]
    if any(fractions) and not all(fractions):
        raise SettingsError(
            f"Expected fractions for all splits, or the members of all, got {short_repr(splits)}."
        )
    found = _by_fraction(labels, parts, seed) if any(fractions) else _by_member(labels, parts)
    if not found:
        raise SettingsError(
            f"Expected a split with {_plural(labels.kind)}, got {short_repr(splits)}; None makes "
            "all of them training ones."
        )
    return found


def first_split(parts: Mapping[Split, Tensor]) -> Split:
    """Returns the split that a distribution samples from at first: train, if it has classes."""
    return "train" if "train" in parts else next(iter(parts))


def _by_fraction(labels: Labels, parts: Mapping[Split, Any], seed: int) -> dict[Split, Tensor]:
    """Splits at random: a fraction f of K classes is round(f K) of them."""
    for name, value in parts.items():
        check_number(f"splits[{name!r}]", value, FRACTION)
    total = math.fsum(parts.values())
    if total > 1 + 1e-9:
        raise SettingsError(f"Expected fractions that add up to at most 1, got {total}.")
    number = len(labels.values)
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    # The ends of the parts are rounded, so that fractions of sum 1 use every class once.
    ends: dict[Split, int] = {}
    reached = 0.0
    for name in SPLITS:
        if name not in parts:
            continue
        reached += parts[name]
        ends[name] = round(min(reached, 1.0) * number)
    result: dict[Split, Tensor] = {}
    start = 0
    for name, end in ends.items():
        if end == start and parts[name] > 0:
            raise SettingsError(
                f"The fraction {parts[name]} of {number} {_plural(labels.kind)} leaves the {name} "
                "split none; raise it, or list the members of each split."
            )
        if end > start:
            result[name] = order[start:end].sort().values
        start = end
    return result


def _by_member(labels: Labels, parts: Mapping[Split, Any]) -> dict[Split, Tensor]:
    numbers = {value: number for number, value in enumerate(labels.values)}
    owner: dict[int, Split] = {}
    result: dict[Split, Tensor] = {}
    for name, members in parts.items():
        if isinstance(members, str) or not hasattr(members, "__iter__"):
            raise SettingsError(
                f"Expected the {_plural(labels.kind)} of the {name} split as a list, got "
                f"{short_repr(members)}."
            )
        if isinstance(members, np.ndarray | Tensor):
            members = members.tolist()
        chosen = [_number_of(value, numbers, labels.kind) for value in members]
        if isinstance(members, set | frozenset):  # of strings, ordered otherwise in each process
            chosen.sort()
        for number in chosen:
            if number in owner:
                other = owner[number]
                raise TaskError(
                    f"The {labels.kind} {labels.names[number]!r} is in two splits, {other} and "
                    f"{name}, or twice in one; list each {labels.kind} once."
                )
            owner[number] = name
        if chosen:
            result[name] = torch.tensor(chosen)
    return result


def _by_example(labels: Labels, splits: Any) -> dict[Split, Tensor]:
    """Splits by the name of the split of each example, one for all examples of a class."""
    named = number_labels(splits, len(labels.numbers), "split")
    parts: list[Split] = [_split_name(value) for value in named.values]
    result: dict[Split, Tensor] = {}
    owner: dict[int, Split] = {}
    for number, name in enumerate(parts):
        members = labels.numbers[named.numbers == number].unique()
        for member in members.tolist():
            other = owner.setdefault(member, name)
            if other != name:
                raise TaskError(
                    f"The {labels.kind} {labels.names[member]!r} has examples in two splits, "
                    f"{other} and {name}; all examples of a {labels.kind} must be in one."
                )
        known = result.get(name)
        result[name] = members if known is None else torch.cat((known, members)).unique()
    return {name: result[name] for name in SPLITS if name in result}


def _number_of(value: Any, numbers: Mapping[Any, int], kind: str) -> int:
    if isinstance(value, np.generic):
        value = value.item()
    is_known = isinstance(value, Hashable) and value in numbers
    if not is_known or isinstance(value, float):
        alike = [known for known in numbers if str(known) == str(value)]
        hint = did_you_mean(str(value), list(map(str, numbers)))
        if alike:
            hint = f" Write it as it is in the data, {alike[0]!r} ({type(alike[0]).__name__})."
        raise TaskError(
            f"The {kind} {value!r} of the splits is not in the data.{hint} "
            f"Known: {_listing(numbers)}."
        )
    return numbers[value]


def _listing(values: Mapping[Any, int], most: int = 10) -> str:
    shown = ", ".join(map(repr, list(values)[:most]))
    return f"{shown}, ... ({len(values)})" if len(values) > most else shown


def _plural(kind: str) -> str:
    return {"class": "classes", "series": "series"}.get(kind, f"{kind}s")


def _split_name(name: Any) -> Split:
    aliases = {"val": "validation", "valid": "validation", "dev": "validation"}
    known = str(name).strip().lower()
    return check_split(aliases.get(known, known if known in SPLITS else str(name)))


def _array(labels: Any, kind: str) -> np.ndarray:
    if isinstance(labels, Tensor):
        return tensor_array(labels, f"labels of the {kind}")
    if np.ma.is_masked(labels):
        raise _missing(kind, int(np.ma.getmaskarray(labels).argmax()))
    if isinstance(labels, list | tuple) and any(isinstance(label, str) for label in labels):
        array = np.empty(len(labels), dtype=object)  # NumPy would make strings of the others
        array[:] = labels
        return array
    try:
        array = np.asarray(labels)
    except ValueError as error:  # lists of unequal lengths
        raise ShapeError(
            f"Expected one {kind} for each example, got lists of several: {short_repr(labels)}. "
            "In a few-shot task, an example has one class."
        ) from error
    return array.astype(object) if array.dtype.kind == "T" else array  # which may lack values


def _decoded(array: np.ndarray, kind: str) -> np.ndarray:
    """Returns labels of bytes as strings."""
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise ShapeError(
            f"Expected labels of the {kind} as text, got bytes that are no UTF-8 ({error}); decode "
            "them, such as by `np.char.decode(labels, 'latin-1')`."
        ) from error


def _plain(array: np.ndarray, kind: str) -> np.ndarray:
    """Returns an object array of strings or of integers as an array of that type."""
    for row, value in enumerate(array):
        if is_missing(value):
            raise _missing(kind, row)
    kinds = {str if isinstance(v, str) else type(v) for v in array}
    if kinds == {str}:  # NumPy would cut the names of members of an Enum to their values' length
        return np.array([str.__str__(v) for v in array])
    if kinds and all(issubclass(k, int | np.integer | bool | np.bool_) for k in kinds):
        try:
            return array.astype(np.int64)
        except OverflowError as error:
            raise ShapeError(
                f"Expected labels of the {kind} of at most 64 bits; convert them to strings."
            ) from error
    names = ", ".join(sorted(k.__name__ for k in kinds))
    raise ShapeError(
        f"Expected labels of the {kind} that are all integers or all strings, got a mixture of "
        f"{names}; convert them to one type."
        if len(kinds) > 1
        else f"Expected integers or strings as labels of the {kind}, got {names}."
    )


def is_missing(value: Any) -> bool:
    """Returns whether a value stands for none: None, NaN, or pandas' NA and NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


def _missing(kind: str, row: int) -> TaskError:
    return TaskError(f"The {kind} of row {row} is missing; drop the row or fill the {kind} in.")
