"""Logged trajectories: from arrays, data sets and Parquet files to what a policy adapts on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from torch import Tensor

from metarl.deploy.arrays import as_array
from metarl.deploy.experience.episode_log import EpisodeLog, log_probs_of
from metarl.deploy.experience.trajectory_tables import (
    as_flags,
    count_of,
    joined_columns,
    parquet_columns,
    split_episodes,
    step_of,
    table_columns,
)
from metarl.deploy.importance import Correction, importance_weights
from metarl.deploy.robot.actor import Action
from metarl.deploy.robot.spaces import ControlSpaces
from metarl.errors import DataError, SettingsError, ShapeError, short_repr
from metarl.models.base import Params, task_params
from metarl.registry import check_choice
from metarl.sim.spaces import action_leaves, source_of

Behaviour = Literal["start", "adapted"]
NAMES = {
    "observations": ("observations", "observation", "obs", "observation.state", "states"),
    "actions": ("actions", "action", "acts"),
    "rewards": ("rewards", "reward", "next.reward"),
    "terminated": ("terminated", "terminations", "terminals", "next.done", "dones", "done"),
    "truncated": ("truncated", "truncations", "timeouts", "next.truncated"),
    "log_probs": ("log_probs", "log_prob", "action_log_probs"),
    "episode": ("episode", "episode_index", "episode_id", "episodes"),
}
"""Names of the parts of trajectories, and what logs call them."""
DONE = ("next.done", "dones", "done")
"""Names of ends of both kinds."""

ROUNDING = 1e-3
"""A logarithm of a probability may exceed 0 by so much."""
AT_BOUNDS = 0.05
"""Share of clipped actions from which their probabilities are doubtful."""


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
    """

    observations: np.ndarray
    actions: list[Action]
    rewards: np.ndarray
    terminated: bool
    ended: bool
    log_probs: np.ndarray | None = None


def read_trajectories(source: Any, spaces: ControlSpaces) -> list[Trajectory]:
    """Returns the episodes of logged data.

    Args:
        source: One of: a dict of arrays (observations, actions, rewards, terminated, truncated,
            and log_probs if they are known), of one episode or of many one after another; a list
            of such dicts, or of objects with such attributes; a Minari data set; the path of a
            Parquet file, or a table of pandas or Arrow, with the same columns and an episode
            number.
        spaces: The spaces of training.

    Raises:
        DataError: A file cannot be read, or a part is missing.
        ShapeError: Parts do not fit each other or the spaces of training.
    """
    found = [
        _trajectory(parts, spaces, f"episode {i}") for i, parts in enumerate(_episodes(source))
    ]
    found = [one for one in found if len(one.rewards)]
    if not found:
        raise DataError("Expected logged episodes with at least one step, got none.")
    return found


def weigh(
    adapter: Any,
    found: Sequence[Trajectory],
    behaviour: Behaviour | None = None,
    correction: Correction = "episode",
    least_effective: float = 0.1,
) -> tuple[list[EpisodeLog], Tensor, float]:
    """Weighs logged episodes by how likely the policy that adapts would have acted so.

    Args:
        adapter: The `ControlAdapter` that adapts.
        found: The episodes.
        behaviour: Who acted: the trained "start", or the parameters that act now, "adapted", both
            with sampled actions; None: the log has `log_probs`.
        correction: See `importance_weights`.
        least_effective: Smallest effective share of the data, in [0, 1].

    Returns:
        The episodes, their weights [N, 1] or [N, H], and the effective sample size in steps.

    Raises:
        SettingsError: It is not known who acted, or the effective sample is too small.
    """
    policy, logs = adapter.learner.policy, [_log(adapter, one) for one in found]
    params: Params = adapter.params
    ratios = log_probs_of(logs, policy, params) - _behaviour(adapter, found, logs, behaviour)
    warn_of_bounds(adapter.spaces, found)
    mask = np.arange(ratios.shape[1]) < np.array([[len(log)] for log in logs])
    weights, effective = importance_weights(ratios.numpy(), mask, correction, least_effective)
    return logs, torch.from_numpy(weights).float(), effective


def _episodes(source: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the parts of each episode by the names of `NAMES`."""
    if isinstance(source, str | Path):
        source = joined_columns(parquet_columns(Path(source)))
    elif hasattr(source, "column_names") or hasattr(source, "iloc"):
        source = table_columns(source)
    elif hasattr(source, "iterate_episodes"):
        source = list(source.iterate_episodes())
    if isinstance(source, Mapping):
        yield from split_episodes(_named(source))
    elif isinstance(source, Sequence):
        found = [_named(one) for one in source]
        if found and all(np.ndim(one.get("rewards", ())) == 0 for one in found):  # single steps
            names = set().union(*found)
            for name in sorted(names):
                if (known := sum(name in one for one in found)) < len(found):
                    raise DataError(
                        f"Expected {name} in each of the {len(found)} steps of the log, got it in "
                        f"{known}; an end is false where the episode goes on."
                    )
            found = [{name: [one[name] for one in found] for name in names}]
        for one in found:
            yield from split_episodes(one)
    else:
        raise DataError(
            "Expected trajectories as a dict of arrays, a list of episodes, a Minari data set, a "
            f"table or the path of a Parquet file, got {short_repr(source, 60)}."
        )


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
            if value is not None:
                parts[name] = value
                break
    if "truncated" in parts and "terminated" in parts and not _has_terminations(episode):
        # An episode is also `done` where it was cut off.
        ends = [as_flags(parts[n], n) for n in ("terminated", "truncated")]
        if ends[0].shape == ends[1].shape:
            parts["terminated"] = ends[0] & ~ends[1]
    return parts


def _has_terminations(episode: Any) -> bool:
    """Returns whether an episode separates terminations from other ends."""
    names = [n for n in NAMES["terminated"] if n not in DONE]
    if isinstance(episode, Mapping):
        return any(episode.get(n) is not None for n in names)
    return any(getattr(episode, n, None) is not None for n in names)


def _trajectory(parts: Mapping[str, Any], spaces: ControlSpaces, where: str) -> Trajectory:
    missing = [n for n in ("observations", "actions", "rewards") if n not in parts]
    if missing:
        raise DataError(
            f"Expected {', '.join(missing)} in {where} of the log; known names are "
            f"{', '.join(', '.join(NAMES[n]) for n in missing)}."
        )
    rewards = _numbers(parts["rewards"], "rewards", where)
    count = len(rewards)
    if rewards.size != count:
        raise ShapeError(
            f"Expected rewards [steps] in {where}, got {list(rewards.shape)}. Of arrays of several "
            "episodes, [episodes, steps, *], make a list with a dict for each."
        )
    rewards = rewards.ravel()
    observations = _observations(parts["observations"], spaces, count, where)
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
    return Trajectory(observations, actions, rewards, terminated, ended, log_probs)


def _observations(value: Any, spaces: ControlSpaces, count: int, where: str) -> np.ndarray:
    try:
        length = count_of(value, source := source_of(spaces.observation))
    except (TypeError, KeyError, ValueError) as error:
        raise ShapeError(
            f"Expected observations of {source_of(spaces.observation)} for each step in {where}."
        ) from error
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
        raise ShapeError(f"Expected actions of {source} for each step in {where}.") from error


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


def _log(adapter: Any, one: Trajectory) -> EpisodeLog:
    count, final = len(one.rewards), None
    if len(one.observations) > count:
        final = one.observations[count]
    return EpisodeLog(
        list(one.observations[:count]), [adapter.own_action(a) for a in one.actions],
        one.rewards.tolist(), [True] * count, [adapter.version] * count, final,
        one.terminated, one.ended,
    )  # fmt: skip


def _behaviour(
    adapter: Any, found: Sequence[Trajectory], logs: Sequence[EpisodeLog], behaviour: str | None
) -> Tensor:
    """Returns the log-density of each action under whoever acted, the policy's units, [N, H]."""
    policy = adapter.learner.policy
    if behaviour is not None:
        check_choice("behaviour", behaviour, ("start", "adapted"))
        start = {n: p.detach() for n, p in task_params(policy, 1).items()}
        params = start if behaviour == "start" else adapter.params
        return log_probs_of(logs, policy, params)
    check_log_probs(found)
    units = policy.units
    # log p(a) = log p(a') + log |da' / da|, with the environment's a = a' * scale + shift
    change = 0.0
    if units is not None and units.actions is not None:
        change = float(units.actions.scale.log().sum())
    rows = torch.zeros(len(found), max(map(len, logs)))
    for n, one in enumerate(found):
        assert one.log_probs is not None
        rows[n, : len(one.log_probs)] = torch.from_numpy(one.log_probs + change).float()
    return rows


def check_log_probs(found: Sequence[Trajectory]) -> None:
    """Raises SettingsError unless all episodes have the log-probabilities of their actions."""
    if any(one.log_probs is None for one in found):
        raise SettingsError(
            "Expected the log-probabilities of the logged actions, `log_probs`, to correct for who "
            'acted. If the trained policy itself did, with sampled actions: behaviour="start" (or '
            '"adapted" for the parameters that act now). Logs of somebody else without '
            "probabilities cannot be adapted on by a policy gradient."
        )


def warn_of_bounds(spaces: ControlSpaces, found: Sequence[Trajectory]) -> None:
    """Warns of logs whose actions were clipped: a density does not describe these."""
    space = spaces.action
    if isinstance(space, Discrete):
        return
    numbers = np.zeros(space.shape, bool)  # choices and switches are always at some bound
    for leaf in action_leaves(space):
        numbers[leaf.start : leaf.stop] = isinstance(leaf.space, Box)
    numbers &= space.low < space.high
    rows = np.concatenate([np.stack([np.asarray(a) for a in one.actions]) for one in found])
    at_bounds = (rows <= space.low) | (rows >= space.high)
    share = float((at_bounds & numbers).any(1).mean())
    if share > AT_BOUNDS:
        warnings.warn(
            f"{share:.0%} of the logged actions are at the bounds of the action space, as if they "
            "were clipped: log the actions before they are clipped, or expect a biased adaptation.",
            RuntimeWarning,
            stacklevel=4,
        )


def warn_of_lengths(found: Sequence[Trajectory], horizon: int) -> None:
    """Warns of logs with episodes that are longer than in training, as if they were several."""
    longest = max(len(one.rewards) for one in found)
    if longest > horizon:
        warnings.warn(
            f"An episode of the log has {longest} steps, those of training had at most {horizon}. "
            "If the log holds several episodes, say where they end: `terminated` and `truncated`, "
            "or an `episode` number.",
            RuntimeWarning,
            stacklevel=4,
        )
