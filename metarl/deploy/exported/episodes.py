"""Episodes of an exported policy: recorded, or logged, as the batch of its adaptation step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from metarl.deploy.experience.trajectories import Trajectory
from metarl.deploy.robot.spaces import ControlSpaces
from metarl.errors import ShapeError
from metarl.sim.spaces import flat_actions

Arrays = dict[str, np.ndarray]


class RecordedEpisode:
    """The steps of an episode, or the part since the last adaptation.

    Attributes:
        seen: The observation of the action that is not observed yet, [O]; None: there is none.
        chosen: That action.
        explored: Whether it was sampled.
        rewards: Rewards of the steps.
        sampled: Whether the action of each step was sampled.
    """

    def __init__(self) -> None:
        self.seen: np.ndarray | None = None
        self.chosen: np.ndarray | None = None
        self.explored = False
        self.rewards: list[float] = []
        self.sampled: list[bool] = []
        self._observations: list[np.ndarray] = []
        self._actions: list[Any] = []
        self._terminated, self._ended = False, False

    def add(self, reward: float, after: np.ndarray) -> None:
        """Adds a step from `seen` by `chosen`."""
        assert self.seen is not None and self.chosen is not None
        if not self._observations:
            self._observations.append(self.seen)
        self._observations.append(after)
        self._actions.append(self.chosen)
        self.rewards.append(reward)
        self.sampled.append(self.explored)
        self.chosen = None

    def end(self, terminated: bool) -> None:
        """Ends the episode, by a termination or a time limit."""
        self._terminated, self._ended = terminated, True

    def trajectory(self) -> Trajectory:
        """Returns the episode; one without an end continues.

        Raises:
            ShapeError: Its observations or actions have different shapes.
        """
        try:
            observations = np.stack(self._observations)
        except ValueError as error:
            raise ShapeError(f"Expected observations of one shape: {error}.") from error
        rewards = np.asarray(self.rewards)
        return Trajectory(observations, self._actions, rewards, self._terminated, self._ended)


def spaces_of(metadata: dict[str, Any]) -> ControlSpaces:
    """Returns the flat spaces of an exported policy."""
    observation, action = metadata["observation"], metadata["action"]
    own = _box(observation["low"], observation["high"])
    if action["kind"] == "discrete":
        choices = spaces.Discrete(action["choices"], start=action.get("first", 0))
        return ControlSpaces(own, flat_actions(choices))
    return ControlSpaces(own, _box(action["low"], action["high"]))


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
