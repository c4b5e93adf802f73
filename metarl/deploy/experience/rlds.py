"""Episodes of RLDS, as TensorFlow Datasets and Open X-Embodiment have them.

A step has an observation, the action that follows, its reward, and the marks `is_first`, `is_last`
and `is_terminal`. The last step of an episode has the observation after the last action; its own
action and reward mean nothing (Ramos et al. 2021, RLDS: an Ecosystem to Generate, Share and Use
Datasets in Reinforcement Learning, arXiv:2111.02767, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from metarl.deploy.experience.trajectory_tables import as_flags
from metarl.errors import ShapeError

MARKS = ("is_first", "is_last", "is_terminal")
STEPS = "steps"
"""What an episode calls the list of its steps."""


def is_rlds(log: Any) -> bool:
    """Returns whether a log is a step of RLDS, an episode of such steps, or arrays of them."""
    return isinstance(log, Mapping) and (_has_steps(log) or log.keys() >= {*MARKS[1:]})


def rlds_episodes(log: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields the episodes of a log, without the action and the reward of the last step of each.

    Args:
        log: Arrays of steps, of one episode or of several one after another; an episode with a list
            of `steps`; a list of steps; or a list of episodes.

    Yields:
        The parts of an episode by their own names, [L, *] or [L + 1, *], with `terminated` and
        `truncated`, [L] bool, in place of the marks.

    Raises:
        ShapeError: Marks have other lengths, or an episode has no step before its last.
    """
    if not isinstance(log, Mapping):
        if all(np.ndim(step.get("is_last", ())) == 0 and "is_last" in step for step in log):
            yield from rlds_episodes(_joined(log))
        else:
            for one in log:
                yield from rlds_episodes(one)
        return
    if _has_steps(log):
        yield from rlds_episodes(_joined(list(log[STEPS])))
        return
    first, last, terminal = (
        as_flags(log[name], name) if name in log else np.zeros(0, bool) for name in MARKS
    )
    count = len(last)
    if not len(terminal) == count or (len(first) not in (0, count)):
        raise ShapeError(
            f"Expected {', '.join(MARKS)} of one length, got {len(first)}, {count} and "
            f"{len(terminal)}."
        )
    ends = [*np.flatnonzero(last[:-1]) + 1, count]
    for low, high in zip([0, *ends[:-1]], ends, strict=True):
        yield _episode(log, slice(low, high), bool(last[high - 1]), bool(terminal[high - 1]), count)


def _episode(
    log: Mapping[str, Any], rows: slice, has_ended: bool, is_terminal: bool, count: int
) -> dict[str, Any]:
    """Returns the parts of one episode; one that has not ended keeps its last action."""
    steps = rows.stop - rows.start - has_ended
    if steps < 1:
        raise ShapeError("Expected a step before the last one of each episode of RLDS, got none.")
    parts = {}
    for name, value in log.items():
        if name not in MARKS:
            is_observed = name.startswith("observation") or name == "obs"
            stop = rows.stop if is_observed else rows.start + steps
            parts[name] = _rows(value, rows.start, stop, count)
    is_end = np.arange(steps) == steps - 1
    return {
        **parts,
        "terminated": is_end & (has_ended and is_terminal),
        "truncated": is_end & (has_ended and not is_terminal),
    }


def _rows(value: Any, start: int, stop: int, count: int) -> Any:
    """Returns the rows of a part that has one for each step, nested parts included."""
    if isinstance(value, Mapping):
        return {name: _rows(part, start, stop, count) for name, part in value.items()}
    return value[start:stop] if hasattr(value, "__len__") and len(value) == count else value


def _joined(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the parts of single steps as lists, those of nested observations too."""
    parts: dict[str, Any] = {}
    for name, value in steps[0].items():
        column = [step[name] for step in steps]
        parts[name] = _joined(column) if isinstance(value, Mapping) else column
    return parts


def _has_steps(log: Mapping[str, Any]) -> bool:
    steps = log.get(STEPS)
    return isinstance(steps, Sequence) and len(steps) > 0 and isinstance(steps[0], Mapping)
