"""Logged trajectories: from arrays, data sets and Parquet files to what a policy adapts on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Dict, Discrete, Tuple
from torch import Tensor

from metarl.deploy.arrays import as_array
from metarl.deploy.experience.logged_parts import NAMES, check_parts, episodes_of
from metarl.deploy.experience.trajectory_tables import as_flags, check_counter, count_of, step_of
from metarl.deploy.robot.actor import Action
from metarl.deploy.robot.spaces import ControlSpaces
from metarl.errors import DataError, ShapeError, short_repr
from metarl.sim.spaces import source_of

CONTINUES = 1e-3
"""Observations of a step and of the one before it may differ by this share of the largest."""
ROUNDING = 1e-3
"""A logarithm of a probability may exceed 0 by so much."""


@dataclass(frozen=True)
class Trajectory:
    """One logged episode, or a part of one.

    Attributes:
        observations: Before each step, and after the last if it is known: [L, O] or [L + 1, O]
            float32.
        actions: L flat actions in the environment's units.
        rewards: [L] float.
        terminated: Whether it terminated.
        ended: Whether it ended, by a termination or a time limit; False: it has not ended.
        log_probs: Log-density of each action under whoever acted, in the environment's units, [L];
            None if it is not known.
        times: When each observation was made, in s, [L] or [L + 1]; None if it is not known.
        steps: The counter of the steps, [L] or [L + 1]; None if there is none.
    """

    observations: np.ndarray
    actions: list[Action]
    rewards: np.ndarray
    terminated: bool
    ended: bool
    log_probs: np.ndarray | None = None
    times: np.ndarray | None = None
    steps: np.ndarray | None = None


def read_trajectories(source: Any, spaces: ControlSpaces) -> list[Trajectory]:
    """Returns the episodes of logged data.

    Args:
        source: One of: a dict of arrays (observations, actions, rewards, terminated, truncated,
            next_observations and log_probs if they are known), of one episode or of many one after
            another; a list of such dicts, or of objects with such attributes; steps or episodes of
            RLDS (`is_last` and `is_terminal`); a Minari data set;
            the path of a Parquet, CSV or .npz file, or a table of pandas or Arrow, with the same
            columns and an episode number; or a list of such paths or tables.
        spaces: The spaces of training.

    Raises:
        DataError: A file cannot be read, or a part is missing.
        ShapeError: Parts do not fit each other or the spaces of training.
    """
    found = [
        _trajectory(parts, spaces, f"episode {i}")
        for i, parts in enumerate(episodes_of(source, spaces))
    ]
    found = [one for one in found if len(one.rewards)]
    if not found:
        raise DataError("Expected logged episodes with at least one step, got none.")
    return found


def _trajectory(parts: Mapping[str, Any], spaces: ControlSpaces, where: str) -> Trajectory:
    check_parts(parts, f"{where} of the log")
    rewards = _numbers(parts["rewards"], "rewards", where)
    count = len(rewards)
    rewards = rewards.ravel()
    observations = _observations(parts["observations"], spaces, count, where)
    if "next_observations" in parts and len(observations) == count:
        after = _observations(parts["next_observations"], spaces, count, where)[:count]
        observations = _continued(observations, after, where)
    actions = _actions(parts["actions"], spaces, count, where)
    log_probs = parts.get("log_probs")
    if log_probs is not None:
        log_probs = _numbers(log_probs, "log_probs", where).ravel()
        if len(log_probs) != count or not np.isfinite(log_probs).all():
            raise ShapeError(f"Expected {count} finite log_probs in {where}, one per step.")
        if isinstance(spaces.action, Discrete) and log_probs.max(initial=0) > ROUNDING:
            raise ShapeError(
                f"Expected log_probs of at most 0 in {where}, the logarithms of probabilities, got "
                f"up to {log_probs.max():.3g}."
            )
    if not np.isfinite(rewards).all():
        raise ShapeError(f"Expected finite rewards in {where}; some are NaN or infinite.")
    ends = {n: bool(as_flags(parts[n], n).any()) for n in ("terminated", "truncated") if n in parts}
    terminated = ends.get("terminated", False)
    ended = any(ends.values()) or not ends
    counters = {name: _counter(parts.get(name), count) for name in ("times", "steps")}
    for name, value in counters.items():
        if value is not None:
            check_counter(value, where, ", ".join(NAMES[name]))
    return Trajectory(observations, actions, rewards, terminated, ended, log_probs, **counters)


def _observations(value: Any, spaces: ControlSpaces, count: int, where: str) -> np.ndarray:
    source = source_of(spaces.observation)
    try:
        length = count_of(value, source)
    except (TypeError, KeyError, ValueError) as error:
        raise _no_parts("observations", value, source, where) from error
    if length not in (count, count + 1):
        raise ShapeError(
            f"Expected {count} or {count + 1} observations in {where} with {count} rewards, got "
            f"{length}."
        )
    rows = np.zeros((length, spaces.size), np.float32)
    for t in range(length):
        one = step_of(value, t, source)
        if not spaces.read(
            as_array(one, "observations") if isinstance(one, Tensor) else one, rows[t]
        ):
            raise ShapeError(f"Expected finite observations in {where}; that of step {t} is not.")
    return rows


def _continued(observations: np.ndarray, after: np.ndarray, where: str) -> np.ndarray:
    """Returns the observations before each step and after the last, [L + 1, O].

    Args:
        observations: Before each step, [L, O].
        after: After each step, [L, O].
        where: The episode.

    Raises:
        DataError: A step does not begin where the one before it ended.
    """
    size = np.maximum(np.abs(observations), np.abs(after)).max(0, initial=0)
    gaps = np.abs(after[:-1] - observations[1:]) > CONTINUES * size
    if gaps.any():
        step = int(gaps.any(1).argmax())
        raise DataError(
            f"Expected the steps of {where} one after another, but the next observation of step "
            f"{step} is not the observation of step {step + 1}: mark that end (`terminated`, "
            "`truncated` or an `episode` number), or sort the steps. Shuffled steps, as those of a "
            "replay buffer, are no episodes."
        )
    return np.concatenate((observations, after[-1:]))


def _actions(value: Any, spaces: ControlSpaces, count: int, where: str) -> list[Action]:
    source = source_of(spaces.action)
    if isinstance(source, Dict | Tuple):
        flat = _composite_actions(value, spaces, source, count, where)
    else:
        rows = as_array(value, "actions")
        if rows.ndim == 2 and rows.shape[1] == 1 and not spaces.action_size:
            rows = rows[:, 0]
        if rows.ndim == 1 and spaces.action_size == 1:
            rows = rows[:, None]
        if len(rows) != count:
            raise ShapeError(f"Expected {count} actions in {where}, got {len(rows)}.")
        flat = [spaces.flat_action(row) for row in rows]
    if not all(np.isfinite(row).all() for row in flat):
        raise ShapeError(f"Expected finite actions in {where}.")
    return flat


def _composite_actions(
    value: Any, spaces: ControlSpaces, source: Dict | Tuple, count: int, where: str
) -> list[Action]:
    """Returns flat actions of parts: columns, or a row for each step."""
    try:
        if (found := count_of(value, source)) != count:
            raise ShapeError(f"Expected {count} actions in {where}, got {found}.")
        return [spaces.flat_action(step_of(value, t, source)) for t in range(count)]
    except (TypeError, KeyError, IndexError, ValueError) as error:
        if isinstance(error, ShapeError):
            raise
        raise _no_parts("actions", value, source, where) from error


def _no_parts(what: str, value: Any, space: Any, where: str) -> ShapeError:
    """Returns the error of a part of a log that is not of the parts of its space."""
    first = value[0] if isinstance(value, Sequence) and value else value
    found = short_repr(value, 60)
    if isinstance(first, Mapping):
        found = f"the parts {', '.join(map(str, first))}"
    return ShapeError(f"Expected {what} of {space} for each step in {where}, got {found}.")


def _counter(value: Any, count: int) -> np.ndarray | None:
    """Returns times in s or numbers of steps, [L] or [L + 1]; None if they are something else."""
    if value is None:
        return None
    numbers = np.ravel(as_array(value, "the counter of steps"))
    if numbers.dtype.kind == "M":
        numbers = (numbers - numbers[:1]) / np.timedelta64(1, "s")
    if numbers.dtype.kind not in "iuf" or len(numbers) not in (count, count + 1):
        return None
    return numbers.astype(np.float64)


def _numbers(value: Any, what: str, where: str) -> np.ndarray:
    """Returns a part of a log as float64.

    Raises:
        ShapeError: It is not of numbers.
    """
    try:
        return as_array(value, what).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ShapeError(
            f"Expected {what} of numbers in {where}, got {short_repr(value, 60)}."
        ) from error
