"""Objects as plain data: what they are built of, by names that are looked up, never executed.

A run stores the description of its learner, so that it opens without the script that made it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from metarl.devices import check_generator
from metarl.errors import CheckpointError, SettingsError, short_repr
from metarl.ranges import python_number
from metarl.registry import Registry

T = TypeVar("T")
CLASS, ARGUMENTS, DATA, MAPPING, MODULE = "class", "arguments", "data", "mapping", "module"
NO_MODULES: Mapping[int, str] = MappingProxyType({})
NO_NETWORKS: Mapping[str, nn.Module | str] = MappingProxyType({})
_RECORD = "_described_arguments"
_GENERATOR = torch.Generator

DESCRIBED: Registry[type] = Registry("described class")
"""Name -> class, filled by `described`."""


class Codec(NamedTuple):
    """How values that are no objects of `DESCRIBED` become plain data.

    Attributes:
        kind: The class of the values.
        encode: Returns JSON data; raises `UndescribedError` for values that it cannot describe.
        decode: Returns the value of JSON data.
    """

    kind: type
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


FUNCTIONS: Registry[Callable[..., Any]] = Registry("described function")
"""Name -> function of MetaRL, such as an augmentation."""

CODECS: Registry[Codec] = Registry("kind of described value")
"""Name -> codec."""


class UndescribedError(SettingsError):
    """An object cannot be stored as plain data."""


def described(cls: type[T]) -> type[T]:
    """Registers a class whose objects can be described, by the arguments of their constructor.

    A dataclass or a named tuple is described by its fields; of other classes the constructor
    records its arguments. Objects of subclasses are not described unless these are registered too.
    """
    DESCRIBED.register(cls.__name__, cls)
    if dataclasses.is_dataclass(cls) or hasattr(cls, "_fields"):
        return cls
    construct: Any = vars(cls).get("__init__")
    if construct is None:
        return cls
    signature = inspect.signature(construct)
    names = list(signature.parameters)[1:]
    generator = signature.parameters.get("generator")
    needs_generator = generator is not None and generator.default is generator.empty

    @functools.wraps(construct)
    def constructed(self: Any, *args: Any, **kwargs: Any) -> None:
        given = dict(zip(names, args, strict=False)) | kwargs
        if needs_generator and "generator" in given:
            check_generator(given["generator"])
        construct(self, *args, **kwargs)
        if type(self) is cls:
            bound = signature.bind(self, *args, **kwargs).arguments
            object.__setattr__(self, _RECORD, dict(list(bound.items())[1:]))

    vars_of: Any = cls
    vars_of.__init__ = constructed
    return cls


def describe(value: Any, modules: Mapping[int, str] = NO_MODULES) -> Any:
    """Returns a value as JSON data.

    Args:
        value: Numbers, strings, None, lists, tuples and dicts of such; objects of `DESCRIBED` and
            values of `CODECS`. Generators are left out: they only draw values that are replaced.
        modules: Names of modules that are stored elsewhere, by `id`.

    Raises:
        UndescribedError: A part of it is of another class, such as a function of the user's.
    """
    if id(value) in modules:
        return {MODULE: modules[id(value)]}
    value = python_number(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {DATA: "float", "value": str(value)}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    for name in CODECS.names():
        codec = CODECS.get(name)
        if isinstance(value, codec.kind):
            return {DATA: name, "value": codec.encode(value)}
    name = type(value).__name__
    if name in DESCRIBED.names() and DESCRIBED.get(name) is type(value):
        return {CLASS: name, ARGUMENTS: _arguments(value, modules)}
    for name in FUNCTIONS.names():
        if FUNCTIONS.get(name) is value:
            return {DATA: "function", "value": name}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [describe(v, modules) for v in value]
    if isinstance(value, Mapping):
        return {MAPPING: {str(k): describe(v, modules) for k, v in value.items()}}
    raise UndescribedError(
        f"A run stores names and numbers, and {short_repr(value, 60)} is a "
        f"{type(value).__module__}.{type(value).__qualname__}, which cannot be looked up by name."
    )


def rebuilt(
    data: Any, generator: torch.Generator, modules: Mapping[str, nn.Module | str] = NO_NETWORKS
) -> Any:
    """Returns the value of JSON data that `describe` returned.

    Args:
        data: The data; lists become tuples.
        generator: Passed to constructors that draw initial values.
        modules: Modules that are stored elsewhere, by name, or the reasons why one is not.

    Raises:
        UndescribedError: A module is not stored.
        CheckpointError: The data name a class that this version does not know, or arguments that it
            does not take.
    """
    if isinstance(data, list):
        return tuple(rebuilt(v, generator, modules) for v in data)
    if not isinstance(data, dict):
        return data
    if MODULE in data:
        return _module(data[MODULE], modules)
    if MAPPING in data:
        return {k: rebuilt(v, generator, modules) for k, v in data[MAPPING].items()}
    try:
        if DATA in data:
            if data[DATA] == "float":
                return float(data["value"])
            if data[DATA] == "function":
                return FUNCTIONS.get(data["value"])
            return CODECS.get(data[DATA]).decode(data["value"])
        return _constructed(DESCRIBED.get(data[CLASS]), data[ARGUMENTS], generator, modules)
    except UndescribedError:
        raise
    except (KeyError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise CheckpointError(
            f"The description of the learner is damaged or of a newer MetaRL: {short_repr(data)} "
            f"cannot be built here ({error})."
        ) from error


def _arguments(value: Any, modules: Mapping[int, str]) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        found = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    elif isinstance(value, tuple):
        found = dict(zip(value._fields, value, strict=True))  # pyright: ignore[reportAttributeAccessIssue]
    else:
        found = getattr(value, _RECORD, {})
    return {n: describe(v, modules) for n, v in found.items() if not isinstance(v, _GENERATOR)}


def _module(name: str, modules: Mapping[str, nn.Module | str]) -> nn.Module:
    found = modules.get(name, "the run has no file with its structure")
    if isinstance(found, str):
        raise UndescribedError(f"The module {name} is not stored: {found}")
    return found


def _constructed(
    cls: type, arguments: Any, generator: torch.Generator, modules: Mapping[str, nn.Module | str]
) -> Any:
    parameters = inspect.signature(cls).parameters
    values = {n: rebuilt(v, generator, modules) for n, v in arguments.items()}
    if "generator" in parameters and "generator" not in values:
        values["generator"] = generator
    return cls(**values)
