"""A gymnasium environment with other numbers than usual, as if it had been built with them."""

from __future__ import annotations

import inspect
import warnings
from ast import literal_eval
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import gymnasium
import numpy as np

from metarl.errors import SettingsError, UnknownNameError, short_repr
from metarl.registry import did_you_mean
from metarl.sim.gymnasium.check_parameters import MOST_DEPTH, same_values
from metarl.sim.gymnasium.fixed_attributes import FixedAttribute, installed, is_kept
from metarl.sim.gymnasium.observations import REAL
from metarl.sim.gymnasium.tasks import own_names, takes_number

WORDS = {"true": True, "false": False, "none": None}
"""Values in other letters than Python's."""


def changed_env(name: str, values: Mapping[str, Any], render_mode: str | None = None) -> Any:
    """Builds an environment whose attributes or keyword arguments have other values.

    An attribute has its value throughout the constructor, which is also given the value if it takes
    it, so that the numbers that it derives follow (a pole's moment from its length).

    Args:
        name: An id of gymnasium; `module:Name-v1` imports the module, as gymnasium does.
        values: Attributes of the unwrapped environment, or keyword arguments.
        render_mode: See `gymnasium.make`.

    Raises:
        UnknownNameError: There is no such environment.
        SettingsError: The environment has no such attribute or argument, or refuses the value.
    """
    modes: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    try:
        usual = gymnasium.make(name, **modes)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UnknownNameError(f"Cannot make the environment {name!r}: {error}") from error
    if not values:
        return usual
    kind = type(usual.unwrapped)
    known = sorted(own_names(usual.unwrapped) | _keywords(kind))
    attributes = {
        n: _like_usual(name, n, getattr(usual.unwrapped, n), v)
        for n, v in values.items()
        if hasattr(usual.unwrapped, n)
    }
    keywords = {n: v for n, v in values.items() if n not in attributes}
    kept = {n: v for n, v in attributes.items() if _is_argument(name, kind, n, v)}
    try:
        with ExitStack() as stack:
            for attribute, value in attributes.items():
                stack.enter_context(installed(FixedAttribute(attribute, value), kind))
            env = gymnasium.make(name, **modes, **keywords, **kept)
        for attribute, value in attributes.items():
            setattr(env.unwrapped, attribute, value)
    except (TypeError, AttributeError, ValueError) as error:
        hints = "".join(did_you_mean(n, known) for n in keywords)
        raise SettingsError(
            f"{name!r} does not take {', '.join(values)}: {error}.{hints} It has "
            f"{', '.join(known)}."
        ) from error
    finally:
        usual.close()
    own = _keywords(kind) | inspect.signature(gymnasium.make).parameters.keys()
    swallowed = [n for n in keywords if n not in own]
    if swallowed and same_values(usual.unwrapped, env.unwrapped, swallowed[0], MOST_DEPTH):
        warnings.warn(
            f"{name!r} looks the same with other values of {', '.join(swallowed)}: its constructor "
            "has no such arguments; do its `**kwargs` swallow them?"
            + did_you_mean(swallowed[0], known),
            RuntimeWarning,
            stacklevel=2,
        )
    return env


def _is_argument(env: str, kind: type, name: str, value: Any) -> bool:
    """Returns whether a constructor takes the value of an attribute, which keeps it as it is."""
    if name not in _keywords(kind):
        return False
    try:
        made = gymnasium.make(env, **{name: value})
    except Exception:  # what it takes is something else than the attribute
        return False
    made.close()
    return is_kept(getattr(made.unwrapped, name, None), value)


def _keywords(kind: type) -> set[str]:
    """Returns the names of the arguments of a class's constructors."""
    found: set[str] = set()
    for base in kind.__mro__:
        if inspect.isfunction(init := vars(base).get("__init__")):
            named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            parameters = list(inspect.signature(init).parameters.values())[1:]
            found |= {p.name for p in parameters if p.kind in named}
    return found


def parsed_values(texts: Sequence[str]) -> dict[str, Any]:
    """Returns the values of texts `name=value`.

    Raises:
        SettingsError: A text has another form.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.isidentifier() and equals and value):
            raise SettingsError(f"Expected name=value, as length=0.9, got {text!r}.")
        try:
            values[name] = literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values[name] = WORDS.get(value.lower(), value)
    return values


def _like_usual(env: str, name: str, usual: Any, value: Any) -> Any:
    """Returns a value in the form of the usual one: arrays are arrays.

    Raises:
        SettingsError: Something else would replace a number, a truth value or an array.
    """
    if isinstance(usual, bool):
        kind, fits = "true or false", value in (True, False)
    elif isinstance(usual, np.ndarray):
        kind = f"{usual.size} numbers, [1, 2] for two," if usual.ndim == 1 else "such an array"
        fits = usual.dtype.kind in REAL and _numbers_of(value).shape == usual.shape
        value = _numbers_of(value).astype(usual.dtype) if fits else value
    elif usual is not None and takes_number(usual):
        kind, fits = "a number", isinstance(value, int | float) and not isinstance(value, bool)
    else:
        return value
    if not fits:
        raise SettingsError(
            f"Expected {kind} as {name!r} of {env!r}, which is {short_repr(usual)}, got "
            f"{short_repr(value)}."
        )
    return value


def _numbers_of(value: Any) -> np.ndarray:
    """Returns a value as an array; one without numbers if it is something else."""
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return np.zeros(0)
