"""Search spaces of sweeps: settings by name, with ranges or choices from a command line."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import tyro

from metarl.errors import MetarlError, SettingsError, short_repr
from metarl.registry import did_you_mean

S = TypeVar("S")
(_NO_PREFIX,) = typing.get_args(tyro.conf.OmitArgPrefixes[int])[1:]
_FORM = (
    "Expected NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=CHOICE,CHOICE,... with the name of a "
    "setting, such as training.outer-lr=1e-4..1e-2:log"
)


class Dimension(NamedTuple):
    """A setting and the values to try.

    Attributes:
        name: The name as on the command line, "training.outer-lr".
        choices: The values, or two ends of a range.
        is_range: Whether they are ends.
        log: Whether the logarithm of a range is uniform.
    """

    name: str
    choices: tuple[Any, ...]
    is_range: bool
    log: bool = False

    def suggest(self, trial: Any) -> Any:
        """Returns the value that an `optuna.Trial` proposes."""
        if not self.is_range:
            return trial.suggest_categorical(self.name, self.choices)
        low, high = self.choices
        if isinstance(low, int):
            return trial.suggest_int(self.name, low, high, log=self.log)
        return trial.suggest_float(self.name, low, high, log=self.log)


def search_space(settings: Any, texts: Sequence[str]) -> list[Dimension]:
    """Returns the search space that a command line describes, checked against the settings.

    Args:
        settings: The settings that it starts from, nested dataclasses.
        texts: NAME=LOW..HIGH, with :log for a logarithmic range, or NAME=CHOICE,CHOICE,...

    Raises:
        SettingsError: There is no such setting, a value has another type, or an end of a range or
            a choice is out of the setting's range.
    """
    space = [_dimension(settings, text) for text in texts]
    names = [d.name for d in space]
    if not space or len(set(names)) < len(names):
        raise SettingsError(f"{_FORM}, each setting once; got {', '.join(texts) or 'none'}.")
    for dimension in space:
        for value in dimension.choices:
            try:
                with_values(settings, {dimension.name: value})
            except MetarlError as error:
                raise SettingsError(
                    f"{dimension.name} cannot be searched at {value!r}: {error}"
                ) from error
    return space


def with_values(settings: S, values: Mapping[str, Any]) -> S:
    """Returns settings with other values, which are checked.

    Args:
        settings: Nested dataclasses.
        values: Values by name, as on the command line.

    Raises:
        SettingsError: A value is out of the range of its setting.
    """
    for name, value in values.items():
        path, _, _ = _field(settings, name)
        settings = _replaced(settings, path, value)
    return settings


def as_arguments(settings: Any, values: Mapping[str, Any]) -> list[str]:
    """Returns the command-line arguments that set the values; a boolean one is `--[no-]NAME`."""
    arguments: list[str] = []
    for name, value in values.items():
        _, kinds, _ = _field(settings, name)
        if kinds == {bool}:
            group, dot, field = name.rpartition(".")
            arguments.append(f"--{group}{dot}{'' if value else 'no-'}{field}")
        else:
            arguments += [f"--{name}", _text(value)]
    return arguments


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _replaced(settings: S, path: Sequence[str], value: Any) -> S:
    template: Any = settings
    name, *rest = path
    inner = _replaced(getattr(settings, name), rest, value) if rest else value
    return dataclasses.replace(template, **{name: inner})


def _dimension(settings: Any, text: str) -> Dimension:
    name, equals, values = text.partition("=")
    name = name.removeprefix("--").replace("_", "-")
    if not equals or not name or not values:
        raise SettingsError(f"{_FORM}; got {short_repr(text)}.")
    _, kind, current = _field(settings, name)
    if ".." not in values:
        choices = tuple(_value(name, v, kind, current) for v in values.split(","))
        return Dimension(name, choices, is_range=False)
    ends, _, option = values.partition(":")
    low, _, high = ends.partition("..")
    if option not in ("", "log"):
        raise SettingsError(f"{_FORM}; got {short_repr(text)}.")
    ends_of = tuple(_value(name, v, kind, current) for v in (low, high))
    if any(isinstance(e, bool) or not isinstance(e, int | float) for e in ends_of):
        raise SettingsError(f"{name} is no number: expected choices, {name}=A,B,C; got {values}.")
    if not ends_of[0] < ends_of[1] or (option and ends_of[0] <= 0):
        raise SettingsError(
            f"Expected LOW below HIGH{' and above 0' if option else ''} for {name}, got {values}."
        )
    return Dimension(name, ends_of, is_range=True, log=bool(option))


def _field(settings: Any, name: str) -> tuple[list[str], set[Any], Any]:
    """Returns the nested fields of a setting, the types that it takes, and its value."""
    path: list[str] = []
    kinds: set[Any] = set()
    for part in name.replace("-", "_").split("."):
        names = _names(settings) if dataclasses.is_dataclass(settings) else {}
        if part not in names:
            hint = did_you_mean(part, names)
            raise SettingsError(
                f"There is no setting {name}.{hint} `metarl train EXPERIMENT --help` lists them."
            )
        for field in names[part]:
            hint = typing.get_type_hints(type(settings))[field]
            kinds = {hint, *typing.get_args(hint)}
            settings = getattr(settings, field)
        path += names[part]
    if dataclasses.is_dataclass(settings):
        raise SettingsError(f"{name} is a group of settings; name one of them ({name}.NAME).")
    return path, kinds, settings


def _names(settings: Any) -> dict[str, list[str]]:
    """Returns the fields of settings by their names on the command line, as paths of fields.

    The fields of some groups, such as the tasks of Omniglot, have no prefix there.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    names: dict[str, list[str]] = {}
    for field in dataclasses.fields(settings):
        if _NO_PREFIX in getattr(hints[field.name], "__metadata__", ()):
            group = getattr(settings, field.name)
            names |= {name: [field.name, *path] for name, path in _names(group).items()}
        else:
            names[field.name] = [field.name]
    return names


def _value(name: str, text: str, kinds: set[Any], current: Any) -> Any:
    """Returns the value of a setting from its text."""
    text = text.strip()
    if text == "None" and type(None) in kinds:
        return None
    if bool in kinds and text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    if str in kinds or isinstance(current, str):
        return text
    raise SettingsError(f"Cannot search {name} at {short_repr(text)}: it has another type.")
