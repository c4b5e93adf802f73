"""The command line of experiments: settings per algorithm, parsed by tyro."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import tyro

from metarl import ranks
from metarl.console import say
from metarl.errors import CheckpointError, SettingsError, UnknownNameError, short_repr
from metarl.help_texts import settings_registry
from metarl.lab.trust import TRUST, check_trusted
from metarl.models.modules import is_network_file
from metarl.ranges import check_fields, user_path
from metarl.registry import check_choice, did_you_mean
from metarl.runs.networks import NETWORKS
from metarl.runs.run_folder import FUNCTION, read_note, to_json
from metarl.runs.run_search import ResumePoint, find_run_or_none
from metarl.tasks.files import read_json

S = TypeVar("S")


def parse_settings(
    configs: Mapping[str, S],
    experiment: str,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> tuple[S, ResumePoint | None]:
    """Parses the command line of an experiment.

    `--algorithm NAME` chooses the defaults; `--resume latest|PATH` takes the settings of the
    resumed run instead, as does `--resume auto` if there is a run. Code that these name as
    `module:Name` is imported only with `--trust` or if the arguments name it too. All other
    arguments change single settings. Of a resumed run, those that only determine its start (the
    class attribute `only_at_start` of the settings names them) stay as they were; all changes are
    printed.

    Args:
        configs: Default settings by algorithm; the first one is the default. The settings are
            frozen dataclasses with at least the fields `algorithm`, `resume` and `runs`.
        experiment: Name of the experiment, and of the folder of its runs.
        arguments: The arguments; by default those of the process.
        prog: Name of the command in its help; by default that of the script.

    Returns:
        The settings, and the run folder and checkpoint to resume or None for a new run.

    Raises:
        UnknownNameError: No configuration has the algorithm's name.
        CheckpointError: There is no such run to resume.
        UntrustedError: The run names code that the arguments do not allow.
        SettingsError: The arguments change settings that the algorithm does not use.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    trusted, arguments = TRUST in arguments, [a for a in arguments if a != TRUST]
    name = _value_of("--algorithm", arguments) or next(iter(configs))
    check_choice("algorithm", name, configs, UnknownNameError)
    default: Any = configs[name]
    point = None
    chosen = _value_of("--algorithm", arguments)
    resume = _value_of("--resume", arguments)
    if resume is not None:
        runs = user_path(_value_of("--runs", arguments) or default.runs, "runs")
        which = resume
        point = ranks.from_first(lambda: find_run_or_none(runs, experiment, name, which))
    elif int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        raise SettingsError(
            "torchrun --max-restarts needs --resume auto: without it, a restart begins another run."
        )
    if point is not None:
        _check_experiment(point.folder, experiment)
        default = saved_settings(configs, point.folder)
        if chosen not in (None, default.algorithm):
            raise SettingsError(
                f"The run {point.folder} trains {default.algorithm}, not {chosen}; "
                "leave out --algorithm or resume another run."
            )
    elif trusted and resume is None:
        raise SettingsError(f"{TRUST} allows what a run names; it needs --resume RUN.")
    # Functions, such as losses, come from Python only; tyro would show them as fixed.
    hidden = (tyro.conf.SuppressFixed,)
    parsed = tyro.cli(
        type(default), default=default, args=arguments, prog=prog, config=hidden,
        registry=settings_registry(),
    )  # fmt: skip
    _refuse_unused(default, parsed)
    if point is not None:
        if not trusted:
            check_trusted(parsed, point.folder, _values(arguments))
        parsed = resumed_settings(default, parsed, point.folder)
    elif resume is not None:  # a new run after `--resume auto`
        changed: Any = parsed
        parsed = dataclasses.replace(changed, resume=None)
    return parsed, point


def _refuse_unused(default: Any, given: Any) -> None:
    """Raises SettingsError if settings differ that the `unused` of the algorithm's options names.

    Args:
        default: The settings without the arguments; what an older run has stored stays as it is.
        given: The settings with the arguments.
    """
    unused = getattr(getattr(given, "learner", None), "unused", ())
    typed = [p for p in _different(default, given) if p in unused or p.split(".")[0] in unused]
    if typed:
        options = ", ".join(f"--{path.replace('_', '-')}" for path in typed)
        raise SettingsError(
            f"--algorithm {given.algorithm} makes no use of {options}: leave "
            f"{'it' if len(typed) == 1 else 'them'} out."
        )


def _different(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Yields the settings that differ, as update.max_kl."""
    for name in (f.name for f in dataclasses.fields(old)):
        before, after = getattr(old, name), getattr(new, name)
        if dataclasses.is_dataclass(before) and type(before) is type(after):
            yield from _different(before, after, f"{prefix}{name}.")
        elif before != after:
            yield prefix + name


def _check_experiment(folder: Path, experiment: str) -> None:
    """Raises SettingsError if a run says that it is of another experiment."""
    found = ranks.from_first(lambda: read_note(folder)).get("experiment", experiment)
    if found != experiment:
        raise SettingsError(
            f"The run {folder} belongs to the experiment {short_repr(found)}, not to "
            f"{experiment!r}: resume it with the command that began it, see its command.txt."
        )


def resumed_settings(saved: S, given: S, folder: Path) -> S:
    """Returns the settings of a resumed run; prints what changes and what is ignored.

    Args:
        saved: The settings in the run's config.json.
        given: The same with the changes of the command line.
        folder: The run folder.
    """
    changes: list[str] = []
    ignored: list[str] = []
    settings = _merged(saved, given, "", changes, ignored)
    if changes:
        say(f"The run {folder} is resumed with other settings: {', '.join(changes)}.")
    if ignored:
        say(
            f"Ignored, because they only determine the start of a run: {', '.join(ignored)}. "
            "For other values, start a new run."
        )
    return settings


def _merged(saved: S, given: S, prefix: str, changes: list[str], ignored: list[str]) -> S:
    """Returns `given` with the values of `saved` where a resumed run has no choice."""
    template: Any = saved
    values: dict[str, Any] = {}
    for name in (f.name for f in dataclasses.fields(template) if f.init):
        old, new = getattr(saved, name), getattr(given, name)
        path = prefix + name
        if path in ("resume", "runs"):  # how the run was found
            values[name] = old
        elif type(old) is type(new) and dataclasses.is_dataclass(old):
            values[name] = _merged(old, new, f"{path}.", changes, ignored)
        elif old != new and name in getattr(saved, "only_at_start", ()):
            values[name] = old
            ignored.append(f"{path} {new} (the run has {old})")
        else:
            values[name] = new
            if old != new:
                changes.append(f"{path} {new} (it was {old})")
    return dataclasses.replace(template, **values)


def settings_from(default: S, saved: Mapping[str, Any]) -> S:
    """Returns the dataclass `default` with the values of a `config.json`, nested ones included.

    Raises:
        SettingsError: A saved name is not a field, or a value has another type or is out of range.
    """
    template: Any = default
    changes: dict[str, Any] = {}
    types = {f.name: f.type for f in dataclasses.fields(template)}
    if not isinstance(saved, Mapping):
        raise SettingsError(
            f"Expected the saved settings {', '.join(types)} by name, got {short_repr(saved)}."
        )
    # Runs of older versions lack settings: what they did stays as it was.
    saved = {**getattr(template, "in_older_runs", {}), **saved}
    for name, value in saved.items():
        if name not in types:
            raise SettingsError(
                f"The saved setting {short_repr(name)} is unknown here.{did_you_mean(name, types)} "
                "If another version made the run: its versions.json names it."
            )
        current = getattr(template, name)
        if dataclasses.is_dataclass(current):
            changes[name] = settings_from(current, value)
        elif _is_function(value):
            changes[name] = _function(name, current, value)
        elif isinstance(value, list):
            changes[name] = tuple(value)
        else:
            is_path = "Path" in str(types[name]) and isinstance(value, str)
            changes[name] = user_path(value, name) if is_path else value
    settings = dataclasses.replace(template, **changes)
    check_fields(settings)  # for settings that do not check themselves
    return settings


def _is_function(saved: Any) -> bool:
    """Returns whether a saved value is the name of a function, as `to_json` writes it."""
    return isinstance(saved, dict) and set(saved) == {FUNCTION}


def _function(name: str, current: Any, saved: Mapping[str, Any]) -> Any:
    """Returns the function of the experiment, if it has the name that a run stored.

    Raises:
        SettingsError: It has another name, or there is none.
    """
    here = to_json(current)
    if here != saved:
        known = here[FUNCTION] if isinstance(here, dict) else short_repr(here)
        raise SettingsError(
            f"The run has the function {short_repr(saved[FUNCTION])} as `{name}`, and the "
            f"experiment has {known}. Functions are not stored with a run: give the experiment "
            "that function."
        )
    return current


def saved_settings(configs: Mapping[str, S], folder: Path) -> S:
    """Returns the settings in the `config.json` of a run folder.

    Args:
        configs: Default settings by algorithm.
        folder: The run folder.

    Raises:
        CheckpointError: The file is missing or damaged, or its algorithm has no configuration.
    """
    path = folder / "config.json"
    try:
        saved = ranks.from_first(lambda: read_json(path))
        if not isinstance(saved, dict) or "algorithm" not in saved:
            raise SettingsError(f'Expected {{"algorithm": ..., ...}}, got {short_repr(saved)}')
        check_choice("algorithm", saved["algorithm"], configs)
        return _with_stored_network(settings_from(configs[saved["algorithm"]], saved), folder)
    except (OSError, ValueError) as error:  # SettingsError is a ValueError
        end = "" if str(error).endswith(".") else "."
        raise CheckpointError(
            f"Cannot read the settings of the run {folder} from {path}: {error}{end} "
            "Repair the file, or use another run."
        ) from error


def _with_stored_network(settings: S, folder: Path) -> S:
    """Returns settings whose network file is the run's own, which has the same structure."""
    own = str(folder / NETWORKS)
    if not Path(own).exists():
        return settings
    changed: dict[str, Any] = {}
    for name, value in vars(settings).items():
        if name == "network" and isinstance(value, str) and is_network_file(value):
            changed[name] = own
        elif name == "policy" and getattr(value, "network", None) is not None:
            changed[name] = dataclasses.replace(cast(Any, value), network=own)
    return dataclasses.replace(cast(Any, settings), **changed)


def _values(arguments: Sequence[str]) -> set[str]:
    """Returns the arguments, and the values of those of the form --name=value."""
    return {*arguments, *(a.partition("=")[2] for a in arguments if a.startswith("--"))}


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    value = None
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            value = arguments[i + 1]
        elif argument.startswith(flag + "="):
            value = argument.removeprefix(flag + "=")
    return value
