"""Logs of any form, as the parts of each episode by known names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.deploy.experience.parts import gathered
from metarl.deploy.experience.rlds import is_rlds, rlds_episodes
from metarl.deploy.experience.trajectory_tables import (
    as_flags,
    check_marks,
    column_array,
    file_columns,
    joined_columns,
    listed_columns,
    npz_arrays,
    shape_of,
    split_episodes,
    table_columns,
)
from metarl.deploy.robot.spaces import ControlSpaces
from metarl.errors import DataError, short_repr
from metarl.ranges import user_path
from metarl.tasks.data.table_files import open_table
from metarl.tasks.data.tables import is_structured, is_table

NAMES = {
    "observations": ("observations", "observation", "obs", "observation.state", "states"),
    "next_observations": ("next_observations", "next_observation", "next_obs", "next_states"),
    "actions": ("actions", "action", "acts"),
    "rewards": ("rewards", "reward", "next.reward"),
    "terminated": (
        "terminated", "terminations", "terminals", "termination", "terminal", "next.done", "dones",
        "done",
    ),
    "truncated": ("truncated", "truncations", "timeouts", "truncation", "next.truncated"),
    "log_probs": ("log_probs", "log_prob", "action_log_probs"),
    "episode": ("episode", "episode_index", "episode_id", "episodes"),
    "times": ("timestamps", "timestamp"),
    "steps": (
        "step", "steps", "t", "timestep", "timesteps", "time_step", "step_index", "step_id",
        "frame_index",
    ),
}  # fmt: skip
"""Names of the parts of trajectories, and what logs call them."""
STARTS = re.compile("first|start|reset")
"""Names that say where episodes begin, which those of a list need not say."""
DONE = ("next.done", "dones", "done")
"""Names of ends of both kinds."""


def episodes_of(source: Any, spaces: ControlSpaces) -> Iterator[Mapping[str, Any]]:
    """Yields the parts of each episode of a log, by the names of `NAMES`.

    Args:
        source: The log; see `read_trajectories`.
        spaces: The spaces of training.

    Raises:
        DataError: A file cannot be read, a part is missing, or nothing says where episodes end.
    """
    source = _opened(source)
    if is_rlds(source) or (isinstance(source, Sequence) and source and all(map(is_rlds, source))):
        source = list(rlds_episodes(source))
    if isinstance(source, Mapping):
        found = _named(gathered(source, NAMES, spaces))
        check_parts(found, "the log", list(map(str, source)))
        _check_ends(found, source)
        yield from split_episodes(found)
    elif isinstance(source, Sequence) and len(source) and all(map(_is_table, source)):
        for one in source:
            yield from episodes_of(one, spaces)
    elif isinstance(source, Sequence):
        for one in _listed(source, spaces):
            yield from split_episodes(one)
    else:
        raise DataError(
            "Expected trajectories as a dict of arrays, a list of episodes, a Minari data set, a "
            f"table or the path of a Parquet, CSV or .npz file, got {short_repr(source, 60)}."
        )


def _listed(source: Sequence[Any], spaces: ControlSpaces) -> list[dict[str, Any]]:
    """Returns the parts of listed episodes, or one part with all of listed steps, with their ends.

    Raises:
        DataError: Steps or ends are incomplete.
    """
    found = [_named(gathered(one, NAMES, spaces)) for one in source]
    if found and all(shape_of(one.get("rewards", ())) == () for one in found):  # single steps
        first = source[0] if isinstance(source[0], Mapping) else {}
        steps = _joined_steps(found)
        _check_ends(steps, {name: [one.get(name) for one in source] for name in first})
        return [steps]
    for one, log in zip(found, source, strict=True):
        names = log if isinstance(log, Mapping) else {}
        _check_ends(one, {n: v for n, v in names.items() if not STARTS.search(str(n))})
    return found


def _joined_steps(found: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Returns the parts of single steps as lists; counters and times only if each step has one."""
    names = set().union(*found)
    names -= {n for n in ("steps", "times") if any(n not in one for one in found)}
    for name in sorted(names):
        if (known := sum(name in one for one in found)) < len(found):
            raise DataError(
                f"Expected {name} in each of the {len(found)} steps of the log, got it in "
                f"{known}; an end is false where the episode continues."
            )
    return {name: [one[name] for one in found] for name in names}


def _opened(source: Any) -> Any:
    """Returns files, tables and containers as a mapping of arrays, or as a list of episodes."""
    if isinstance(source, str | Path):
        path = user_path(source, "source")
        is_npz = path.suffix.lower() == ".npz"
        return npz_arrays(path) if is_npz else listed_columns(joined_columns(file_columns(path)))
    if is_structured(source):
        return open_table(source)
    if _is_table(source):
        return listed_columns(table_columns(open_table(source)))
    if isinstance(source, Iterator) or (isinstance(source, np.ndarray) and source.ndim == 1):
        return list(source)
    episodes = getattr(source, "iterate_episodes", None)  # of Minari
    return source if episodes is None else list(episodes())


def _is_table(source: Any) -> bool:
    """Returns whether a log is a table, or the path of a file; dicts are none."""
    return is_table(source) and not isinstance(source, Mapping)


def _named(episode: Any) -> dict[str, Any]:
    """Returns the parts of an episode that are there, by the names of `NAMES`."""
    parts: dict[str, Any] = {}
    for name, aliases in NAMES.items():
        for alias in aliases:
            value = (
                episode.get(alias)
                if isinstance(episode, Mapping)
                else getattr(episode, alias, None)
            )
            if value is not None and not (name == "steps" and callable(value)):
                parts[name] = _arrays(value, alias)
                break
    if "truncated" in parts and "terminated" in parts and not _has_terminations(episode):
        # An episode is also `done` where it was cut off.
        ends = [as_flags(parts[n], n) for n in ("terminated", "truncated")]
        if ends[0].shape == ends[1].shape:
            parts["terminated"] = ends[0] & ~ends[1]
    return parts


def _arrays(value: Any, name: str) -> Any:
    """Returns columns of pandas and Arrow as arrays, whose rows have places, not labels."""
    if isinstance(value, Mapping):
        return {part: _arrays(column, f"{name}.{part}") for part, column in value.items()}
    if type(value) is tuple:
        return tuple(_arrays(part, f"{name}[{i}]") for i, part in enumerate(value))
    return column_array(value, name) if hasattr(value, "to_numpy") else value


def check_parts(parts: Mapping[str, Any], where: str, names: Sequence[str] = ()) -> None:
    """Raises DataError unless a log has what is needed.

    Args:
        parts: Its parts by the names of `NAMES`.
        where: What has these parts.
        names: The names that it has itself.
    """
    missing = [n for n in ("observations", "actions", "rewards") if n not in parts]
    if missing:
        found = f" It has {', '.join(names)}." if names else ""
        raise DataError(
            f"Expected {', '.join(missing)} in {where}; known names are "
            f"{', '.join(', '.join(NAMES[n]) for n in missing)}, in tables also numbered from 0, "
            f"as observation_0, and of a Dict by parts, as observation.NAME.{found}"
        )


def _check_ends(parts: Mapping[str, Any], log: Mapping[str, Any]) -> None:
    """Raises DataError where only a part without a known name may say where episodes end.

    Args:
        parts: The known parts, by the names of `NAMES`.
        log: All parts, by the names of the log.
    """
    only_terminations = "terminated" not in parts or _has_terminations(log)
    if only_terminations and not parts.keys() & {"episode", "truncated"}:
        known = {alias for aliases in NAMES.values() for alias in aliases}
        others = {name: value for name, value in log.items() if name not in known}
        check_marks(others, next(iter(shape_of(parts.get("rewards", ()))), 1))


def _has_terminations(episode: Any) -> bool:
    """Returns whether an episode separates terminations from other ends."""
    names = [n for n in NAMES["terminated"] if n not in DONE]
    if isinstance(episode, Mapping):
        return any(episode.get(n) is not None for n in names)
    return any(getattr(episode, n, None) is not None for n in names)
