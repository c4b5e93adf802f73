"""Help texts of the command line: docstrings whose lines are joined, so that a terminal wraps them.

tyro keeps the line breaks of the docstrings of fields and arguments.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FunctionType
from typing import Annotated, Any, cast

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

_BREAK = re.compile(r"[ \t]*\n[ \t]*(?=\S)")
_CONTINUED = re.compile(r"\n {8,}(?=\S)")  # in an argument's text of a Google docstring

HelpText = str | Callable[[], str | None] | None


def settings_registry() -> ConstructorRegistry:
    """Returns tyro's rules for dataclasses, with the docstrings of fields in joined lines."""
    registry, inside = ConstructorRegistry(), False

    @registry.struct_rule
    def joined_fields(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal inside
        if inside:  # the call below: the next rule answers
            return None
        inside = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            inside = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        return replace(spec, fields=tuple(map(_readable, spec.fields)))

    return registry


def with_joined_help(command: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a copy of a function whose docstring has the texts of arguments in joined lines."""
    assert isinstance(command, FunctionType)
    # A copy, because tyro reads the docstring of what `functools.wraps` wraps.
    copied = FunctionType(
        command.__code__, command.__globals__, command.__name__, command.__defaults__,
        command.__closure__,
    )  # fmt: skip
    copied.__kwdefaults__ = command.__kwdefaults__
    copied.__annotations__ = command.__annotations__
    copied.__doc__ = _CONTINUED.sub(" ", inspect.cleandoc(command.__doc__ or ""))
    return copied


def _readable(field: StructFieldSpec) -> StructFieldSpec:
    """Returns a field with a joined help text; an empty default is shown as "none"."""
    text = _joined(field.helptext)
    if field.default != ():
        return replace(field, helptext=text)
    hint = tyro.conf.arg(help_behavior_hint="(default: none)")
    return replace(field, helptext=text, type=cast(Any, Annotated[field.type, hint]))


def _joined(text: HelpText) -> HelpText:
    """Returns a help text with its lines joined; of one that is made later, when it is made."""
    if text is None:
        return None
    if callable(text):
        return partial(_called_and_joined, text)
    return _BREAK.sub(" ", text)


def _called_and_joined(text: Callable[[], str | None]) -> str | None:
    made = text()
    return None if made is None else _BREAK.sub(" ", made)
