"""Checks of settings: the type of every field, and the range of every number."""

from __future__ import annotations

import math
import os
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from metarl.errors import MetarlError, SettingsError, short_repr
from metarl.registry import check_choice

LARGEST = 10**12
"""Upper bound on integers whose range has none: far above all sizes that fit into a memory."""
LARGEST_NUMBER = 1e30
"""Upper bound on real numbers: torch computes in float32, which ends at 3e38."""
MOST_THREADS = 1024
"""Upper bound on threads and processes: more of them exhaust the limits of a machine."""


class Range(NamedTuple):
    """An interval of numbers.

    Attributes:
        low: The lower end.
        high: The upper end.
        includes_low: Whether the lower end belongs to it.
        includes_high: Whether the upper end belongs to it.
    """

    low: float
    high: float = math.inf
    includes_low: bool = True
    includes_high: bool = True

    def __contains__(self, value: Any) -> bool:
        """Returns whether a number is in the interval; NaN is in none."""
        above = value >= self.low if self.includes_low else value > self.low
        below = value <= self.high if self.includes_high else value < self.high
        return bool(above and below)

    def __str__(self) -> str:
        """Returns the interval in words or brackets, to follow "Expected `name`"."""
        if self.high == math.inf:
            return f"of at least {self.low}" if self.includes_low else f"above {self.low}"
        left, right = "[" if self.includes_low else "(", "]" if self.includes_high else ")"
        return f"in {left}{self.low}, {self.high}{right}"


ANY = Range(-math.inf)
ANY_INT = Range(-LARGEST, LARGEST)
COUNT = Range(1)
NOT_NEGATIVE = Range(0)
WIDTH = Range(1, 2**16)
"""The widths of layers, and the numbers of filters, heads and rows of memory."""
POSITIVE = Range(0, includes_low=False)
FRACTION = Range(0, 1)
SEED = Range(-(2**63), 2**64 - 1)
"""The seeds that torch accepts."""
THREADS = Range(1, MOST_THREADS)


def check_int(
    name: str, value: Any, among: Range = COUNT, error: type[MetarlError] = SettingsError
) -> int:
    """Returns an integer if it is in its range.

    Args:
        name: The name of the setting, for the message.
        value: The value.
        among: The range; one without an upper end ends at `LARGEST`.
        error: The type of the error.

    Raises:
        MetarlError: The value is no integer (a bool is none), or out of its range.
    """
    if not _is_int(value):
        raise error(f"Expected an integer `{name}` {among}, got {_shown(value)}.")
    if among.high == math.inf and value > LARGEST:
        raise error(f"Expected `{name}` of at most {LARGEST:.0e}, got {_shown(value)}.")
    if value not in among:
        raise error(f"Expected `{name}` {among}, got {_shown(value)}.")
    return int(value)


def check_ints(settings: Any, among: Range, *names: str) -> None:
    """Checks fields of a dataclass, which may be frozen, as `check_int`.

    They become integers of Python: sums of those of NumPy's small types overflow in silence.
    """
    for name in names:
        object.__setattr__(settings, name, check_int(name, getattr(settings, name), among))


def check_widths(name: str, widths: Any) -> tuple[int, ...]:
    """Returns the widths of layers, of at least 1, as integers of Python.

    Args:
        name: The name of the setting, for the message.
        widths: A list, a tuple, an array or a tensor.

    Raises:
        SettingsError: It is none of these, or one of its elements is no integer of at least 1.
    """
    found = widths.tolist() if hasattr(widths, "tolist") else widths
    if not isinstance(found, list | tuple):
        raise SettingsError(
            f"Expected `{name}` to be the widths of layers, such as (64, 64), got {_shown(widths)}."
        )
    return tuple(check_int(f"{name}[{i}]", width) for i, width in enumerate(found))


def check_number(
    name: str, value: Any, among: Range = POSITIVE, error: type[MetarlError] = SettingsError
) -> float:
    """Returns a number as a float if it is finite and in its range; arguments as `check_int`.

    Raises:
        MetarlError: The value is no number, not finite, out of its range, or above
            `LARGEST_NUMBER` in magnitude.
    """
    if not _is_finite(value) or value not in among:
        raise error(f"Expected a finite `{name}` {among}, got {_shown(value)}.")
    if not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        raise error(
            f"Expected `{name}` of at most {LARGEST_NUMBER:.0e} in magnitude, got {_shown(value)}."
        )
    return float(value)


def check_fields(settings: Any, **ranges: Range) -> None:
    """Checks all fields of a dataclass by their annotations, and numbers by their ranges.

    Call it first in `__post_init__`. Numbers must be finite; those without a range must be at most
    `LARGEST` (integers) or `LARGEST_NUMBER` in magnitude. None passes where the annotation allows
    it. Values become what config.json restores: integers int (also those of numpy), real numbers
    float, lists tuples, and texts of paths paths.

    Args:
        settings: An instance of a dataclass.
        **ranges: The ranges of its numbers, by field.

    Raises:
        SettingsError: A field has another type than its annotation, or a number is out of its
            range.
        UnknownNameError: A field is none of the names that its annotation allows.
    """
    hints = _hints(type(settings))
    for field in fields(settings):
        if field.name in hints:
            given, hint = getattr(settings, field.name), hints[field.name]
            value = python_number(given)
            check_type(field.name, value, hint)
            among = ranges.get(field.name, ANY_INT if _is_of_ints(hint) else ANY)
            if _is_of_numbers(hint) and value is not None:
                check = check_int if _is_of_ints(hint) else check_number
                for number in value if isinstance(value, tuple | list) else (value,):
                    check(field.name, number, among)
            plain = _plain(value, hint)
            if plain is not given:
                object.__setattr__(settings, field.name, plain)  # it may be frozen


def _plain(value: Any, hint: Any) -> Any:
    """Returns the value of plain Python that a checked value stands for."""
    kinds = _alternatives(hint)
    if value is None or isinstance(value, bool) or any(get_origin(k) is Literal for k in kinds):
        return value
    if isinstance(value, tuple | list):
        return tuple(_plain(v, _element(kinds, i)) for i, v in enumerate(value))
    if isinstance(value, str):
        return user_path(value) if Path in kinds and str not in kinds else value
    if isinstance(value, Integral) and int in kinds:
        return value if type(value) is int else int(value)
    if isinstance(value, Real) and float in kinds:
        return value if type(value) is float else float(value)
    return value


def _element(kinds: tuple[Any, ...], index: int) -> Any:
    """Returns the annotation of an element of the first tuple among some types."""
    inner = next((get_args(kind) for kind in kinds if get_origin(kind) is tuple), ())
    if not inner or inner[-1] is Ellipsis:
        return inner[0] if inner else Any
    return inner[index]


def user_path(value: Any, name: str = "path") -> Path:
    """Returns a path that a user gave; "~" at its start is the home folder, as in a shell.

    Raises:
        SettingsError: It is no path.
    """
    if not isinstance(value, str | PathLike):
        raise SettingsError(f"Expected `{name}` to be a path, got {_shown(value)}.")
    return Path(os.path.expanduser(value))  # unlike Path.expanduser, leaves "~x" of no user x


def python_number(value: Any) -> Any:
    """Returns a number of NumPy, or another type of number, as that of Python; else the value.

    An array is no number, even one of a single element.
    """
    numpy: Any = sys.modules.get("numpy")  # without it, there are no numbers of it
    if numpy is not None and isinstance(value, numpy.generic):  # float64 is a float, too
        return value.item()
    if isinstance(value, bool | int | float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def check_type(name: str, value: Any, hint: Any) -> None:
    """Checks a value by an annotation; annotations that it does not know accept everything.

    Raises:
        SettingsError: The value does not suit the annotation.
    """
    kinds = _alternatives(hint)
    if any(_suits(value, kind) for kind in kinds):
        return
    literals = [c for kind in kinds if get_origin(kind) is Literal for c in get_args(kind)]
    if literals:
        check_choice(name, value if isinstance(value, str) else repr(value), map(str, literals))
    expected = " or ".join(map(_describe, kinds))
    raise SettingsError(f"Expected `{name}` to be {expected}, got {_shown(value)}.")


@cache
def _hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(kind)
    except NameError:  # an annotation that only type checkers can resolve
        return {}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Returns the types of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_of_ints(hint: Any) -> bool:
    """Returns whether a setting, or each element of a tuple, is an integer."""
    return any(k is int or int in get_args(k) for k in _alternatives(hint))


def _is_of_numbers(hint: Any) -> bool:
    """Returns whether a setting, or each element of a tuple, is a number."""
    return any({int, float} & {k, *get_args(k)} for k in _alternatives(hint))


def _suits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin is Literal:
        return any(isinstance(value, type(c)) and value == c for c in get_args(kind))
    if origin is tuple:
        return isinstance(value, tuple | list) and _elements_suit(value, get_args(kind))
    if kind is Path:
        return isinstance(value, str | PathLike)
    if kind in (None, types.NoneType):
        return value is None
    if kind in _KINDS:
        return _KINDS[kind][0](value)
    if getattr(kind, "_is_protocol", False):
        return all(hasattr(value, name) for name in _members(kind))
    if origin is Callable and isinstance(value, type):
        return False  # a class such as torch.nn.MSELoss, where an instance is meant
    known = kind if isinstance(kind, type) else origin
    return not isinstance(known, type) or isinstance(value, known)


@cache
def _members(protocol: type) -> frozenset[str]:
    """Returns the public names that a protocol demands."""
    kinds = [c for c in protocol.__mro__ if getattr(c, "_is_protocol", False)]
    names = {name for c in kinds for name in (*vars(c), *vars(c).get("__annotations__", ()))}
    return frozenset(name for name in names if not name.startswith("_"))


def _elements_suit(values: Any, kinds: tuple[Any, ...]) -> bool:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return all(any(_suits(v, k) for k in _alternatives(kinds[0])) for v in values)
    return len(values) == len(kinds) and all(map(_suits, values, kinds))


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Returns whether a value is a number, NaN and infinity among them; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    if not is_number(value):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


_KINDS: Mapping[Any, tuple[Any, str]] = {
    bool: (lambda value: isinstance(value, bool), "True or False"),
    int: (_is_int, "an integer"),
    float: (_is_finite, "a finite number"),
    str: (lambda value: isinstance(value, str), "a string"),
}
"""Type -> its check, and its description."""


def _describe(kind: Any) -> str:
    if kind in _KINDS:
        return _KINDS[kind][1]
    if kind in (None, types.NoneType):
        return "None"
    if get_origin(kind) is tuple:
        return f"a tuple, each element {_describe(get_args(kind)[0])}"
    if get_origin(kind) is Callable:
        return "a function (not a class; MSELoss() is one, MSELoss is not)"
    return "a path" if kind is Path else f"a {getattr(kind, '__name__', kind)}"


def _shown(value: Any) -> str:
    """Returns a value and its type for a message."""
    text = short_repr(value)
    return text if isinstance(value, int | float) else f"{text} ({type(value).__name__})"
