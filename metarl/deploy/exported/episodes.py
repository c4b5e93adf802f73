"""Episodes of an exported policy: recorded, or logged, as the batch of its adaptation step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from metarl.deploy.experience.episode_log import EpisodeLog
from metarl.deploy.experience.trajectories import Trajectory
from metarl.deploy.robot.spaces import ControlSpaces
from metarl.errors import ShapeError
from metarl.sim.spaces import flat_actions

Arrays = dict[str, np.ndarray]


def trajectory_of(log: EpisodeLog) -> Trajectory:
    """Returns a recorded episode; one without an end continues."""
    assert log.final is not None
    observations = np.stack([*log.observations, log.final])
    rewards = np.asarray(log.rewards)
    return Trajectory(observations, log.actions, rewards, log.terminated, log.ended)


def firsts_of(metadata: dict[str, Any]) -> Any:
    """Returns what the environment adds to the choices of the graphs: a number, or [A]."""
    action = metadata["action"]
    parts = action.get("parts")
    return _entries(parts, lambda p: p.get("first", 0)) if parts else action.get("first", 0)


def counted_from_0(found: Sequence[Trajectory], metadata: dict[str, Any]) -> list[Trajectory]:
    """Returns logged episodes with the choices among several actions as the graphs count them.

    Raises:
        ShapeError: A choice is none of the environment's.
    """
    parts = metadata["action"].get("parts")
    if not parts:  # of a single choice, the space knows its first one
        return list(found)
    firsts, most = firsts_of(metadata), _entries(parts, _most)
    own = [replace(one, actions=[action - firsts for action in one.actions]) for one in found]
    rows = np.concatenate([np.stack([np.asarray(a) for a in one.actions]) for one in own])
    chosen = rows[:, np.isfinite(most)]
    if ((chosen != np.round(chosen)) | (chosen < 0) | (chosen > most[np.isfinite(most)])).any():
        raise ShapeError(
            f"Expected choices from {firsts.tolist()} to {(firsts + most).tolist()} in the actions "
            "of the log (inf: a number), whole ones, got others."
        )
    return own


def _most(part: dict[str, Any]) -> float:
    """Returns the largest choice of a part, counted from 0."""
    return float({"gaussian": np.inf, "bernoulli": 1}.get(part["kind"], part["size"] - 1))


def _entries(parts: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> Any:
    """Returns a number of each part for each of its entries, [A] float32."""
    sizes = [1 if part["kind"] == "categorical" else part["size"] for part in parts]
    return np.repeat(np.array([value(part) for part in parts], np.float32), sizes)


def is_given(action: Any, given: Any, metadata: dict[str, Any]) -> bool:
    """Returns whether an action is a given one, as it is or within the bounds.

    Args:
        action: The action.
        given: What `act` returned, flat.
        metadata: The content of adaptation.json.
    """
    bounds = [metadata["action"].get(side) for side in ("low", "high")]
    try:
        found = np.asarray(action, np.asarray(given).dtype)
    except (ValueError, TypeError):
        return False
    if np.array_equal(found, given):
        return True
    if None in bounds:  # of one discrete action
        return False
    low, high = _bounds(bounds[0], -np.inf), _bounds(bounds[1], np.inf)
    firsts = firsts_of(metadata)
    return np.array_equal(found, np.clip(given, low + firsts, high + firsts))


def spaces_of(metadata: dict[str, Any]) -> ControlSpaces:
    """Returns the flat spaces of an exported policy."""
    observation, action = metadata["observation"], metadata["action"]
    own = _box(observation["low"], observation["high"])
    if action["kind"] == "discrete":
        choices = spaces.Discrete(action["choices"], start=action.get("first", 0))
        return ControlSpaces(own, flat_actions(choices))
    flat = _box(action["low"], action["high"])
    if parts := action.get("parts"):  # choices are always at some bound
        numbers = np.isinf(_entries(parts, _most))
        low, high = np.where(numbers, flat.low, -np.inf), np.where(numbers, flat.high, np.inf)
        flat = spaces.Box(low.astype(np.float32), high.astype(np.float32))
    return ControlSpaces(own, flat)


def rollouts_of(found: Sequence[Trajectory]) -> Arrays:
    """Returns episodes as the batch of `OnnxAdaptation.adapt_on_log`, padded to the longest.

    An episode whose last observation is not known ends with the one before.
    """
    longest = max(len(one.rewards) for one in found)

    def rows(values: Any, length: int) -> np.ndarray:
        table = np.asarray(values)
        return np.pad(table, [(0, length - len(table)), *[(0, 0)] * (table.ndim - 1)])

    seen = [
        np.concatenate((o, o[-1:])) if len(o) == len(one.rewards) else o
        for one in found
        for o in (one.observations,)
    ]
    batch = {
        "observations": np.stack([rows(o, longest + 1) for o in seen]),
        "actions": np.stack([rows(one.actions, longest) for one in found]),
        "rewards": np.stack([rows(one.rewards, longest) for one in found]).astype(np.float32),
        "lengths": np.array([len(one.rewards) for one in found]),
        "terminated": np.array([one.terminated for one in found]),
        "cut": np.array([not one.ended for one in found]),
    }
    if all(one.log_probs is not None for one in found):
        known = [rows(one.log_probs, longest) for one in found if one.log_probs is not None]
        batch["log_probs"] = np.stack(known)
    return batch


def padded_flags(flags: Sequence[Sequence[bool]]) -> np.ndarray:
    """Returns flags of the steps of episodes as [N, H] bool, false after the end."""
    table = np.zeros((len(flags), max(map(len, flags))), bool)
    for row, own in zip(table, flags, strict=True):
        row[: len(own)] = own
    return table


def _box(low: Sequence[float | None], high: Sequence[float | None]) -> spaces.Box:
    return spaces.Box(_bounds(low, -np.inf), _bounds(high, np.inf), dtype=np.float32)


def _bounds(values: Sequence[float | None], unknown: float) -> np.ndarray:
    return np.array([unknown if v is None else v for v in values], np.float32)
