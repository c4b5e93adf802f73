"""Attributes that have a value throughout a constructor or keep one, and who reads attributes."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import numpy as np

from metarl.sim.gymnasium.observations import REAL


class FixedAttribute:
    """A data descriptor that stands for an attribute: counts its reads, and may fix its value.

    Args:
        name: The name of the attribute.
        value: The value that every assignment stores; by default what is assigned.

    Attributes:
        reads: How often it was read from an object.
        class_reads: How often it was read from the class, which no object's value changes.
    """

    def __init__(self, name: str, *value: Any) -> None:
        self.reads = self.class_reads = 0
        self.default: Any = None
        self.name, self._value = name, value

    def __get__(self, instance: Any, kind: type | None = None) -> Any:
        """Returns the fixed value, or what is stored in the instance."""
        if instance is None:
            self.class_reads += 1
            return self._value[0] if self._value else self.default
        self.reads += 1
        if self.name in vars(instance):
            return vars(instance)[self.name]
        return self._value[0] if self._value else self.default

    def __set__(self, instance: Any, value: Any) -> None:
        """Stores the fixed value, or the one that is assigned."""
        vars(instance)[self.name] = self._value[0] if self._value else value


@contextmanager
def installed(attribute: FixedAttribute, kind: type) -> Iterator[bool]:
    """Puts a descriptor into a class for the block; yields False where that cannot be done."""
    name, nothing = attribute.name, object()
    old = inspect.getattr_static(kind, name, nothing)
    own = name in vars(kind)
    if hasattr(type(old), "__set__") or hasattr(type(old), "__get__"):
        yield False
        return
    attribute.default = None if old is nothing else old
    try:
        setattr(kind, name, attribute)
    except TypeError:  # a class of C
        yield False
        return
    try:
        yield True
    finally:
        if own:
            setattr(kind, name, old)
        else:
            delattr(kind, name)


def is_kept(found: Any, value: Any) -> bool:
    """Returns whether an attribute has the value that a constructor was given, up to rounding."""
    try:
        mine, given = np.asarray(found), np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return False
    if mine.shape != given.shape:
        return False
    if mine.dtype.kind in REAL and given.dtype.kind in REAL:
        return bool(np.allclose(mine.astype(float), given.astype(float), atol=0, equal_nan=True))
    return mine.dtype.kind == given.dtype.kind and bool((mine == given).all())


def reads_attribute(kind: type, name: str) -> bool:
    """Returns whether `step`, `reset` or a method that they call has code that reads an attribute.

    No episode may have run that code yet. Methods that render are left out.
    """
    waiting, known = ["step", "reset"], set[str]()
    while waiting:
        method = waiting.pop()
        known.add(method)
        for base in kind.__mro__:
            names = set(_loaded_names(_code_of(vars(base).get(method))))
            if name in names:
                return True
            waiting += [n for n in names - known if "render" not in n]
    return False


def _code_of(method: Any) -> CodeType | None:
    """Returns the code of a method or property; None for what has none, such as functions of C."""
    function: Any = method.fget if isinstance(method, property) else method
    return getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)


def _loaded_names(code: CodeType | None) -> Iterator[str]:
    """Yields the names that code reads, that of functions inside of it included."""
    if code is None:
        return
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith("LOAD_") and isinstance(instruction.argval, str):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _loaded_names(constant)
