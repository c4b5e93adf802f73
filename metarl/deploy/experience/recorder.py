"""Records what a robot does: steps, episodes, and the returns of the start and of what adapted."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from metarl.deploy.experience.episode_log import EpisodeLog
from metarl.deploy.robot.actor import Action

REPEATED = (
    "the one before, with the same action, observation and reward, as messages that arrive twice "
    "do: its reward counts each time. Observe each step once."
)


class Acted(NamedTuple):
    """An action that was given and has not been observed yet.

    Attributes:
        row: The observation that it was given for, [O] float32.
        own: The action in the policy's units.
        given: The action that was returned, flat, in the environment's units.
        sampled: Whether the policy sampled it.
        version: Number of the parameters that did.
    """

    row: np.ndarray
    own: Action
    given: Action
    sampled: bool
    version: int


class Recorder:
    """The steps since the last adaptation, in episodes.

    Args:
        keeps: Whether to keep steps for an adaptation; a policy with a memory needs none.

    Attributes:
        acted: The action that is not observed yet; None: there is none.
        seen: The last observation, [O] float32; None at the start of an episode.
        steps: Environment steps so far.
        missed: Actions in the middle of episodes, since the last call of `take`, that were followed
            by one for another observation without being observed.
        jumps: Actions in the middle of episodes, since that call, that were chosen for another
            observation than the one that was observed last.
        repeats: Steps, since that call, that were observed once more, with the same action,
            observation and reward, without an action of `act` in between.
    """

    def __init__(self, keeps: bool = True) -> None:
        self._keeps = keeps
        self.acted: Acted | None = None
        self.seen: np.ndarray | None = None
        self.steps = self.missed = self.jumps = self.repeats = 0
        self._returns: dict[bool, dict[bool, list[float]]] = {
            explored: {False: [], True: []} for explored in (False, True)
        }
        self._explored = True
        self._logs: list[EpisodeLog] = []
        self._log = EpisodeLog()
        self._return = 0.0
        self._by: set[int] = set()
        self._samples = False  # whether the episode has a sampled action
        self._has_gap = False  # the episode lacks a step
        self._last: tuple[Acted, float, np.ndarray] | None = None  # the step of the last action

    @property
    def returns(self) -> dict[bool, list[float]]:
        """Returns of whole episodes of the start (False) and of adapted parameters (True).

        They are those of episodes with sampled actions, or without, as the last one: with most
        likely actions, returns are others.
        """
        return self._returns[self._explored]

    def forget_adapted(self) -> None:
        """Forgets the returns of adapted parameters."""
        for returns in self._returns.values():
            returns[True].clear()

    def choose(self, acted: Acted) -> None:
        """Notes an action; where one was not observed, a part of the episode ends before it."""
        before = self.seen if self.acted is None else self.acted.row
        same = before is None or np.array_equal(before, acted.row, equal_nan=True)
        same |= self.acted is None and not np.isfinite(acted.row).all()  # nothing was measured
        if not same and self.acted is not None and self.seen is not None and not self._keeps:
            warnings.warn(
                "An action of `act` was followed by another one without `observe`: the memory of "
                "this policy lacks its reward, and takes the action before for the last one.",
                RuntimeWarning,
                stacklevel=3,
            )
        if len(self._log) and not same:
            if self.acted is None:
                self.jumps += 1
            else:
                self.missed += 1
                self._has_gap = True
                self._logs.append(self._log)
                self._log = EpisodeLog()
        self.acted = acted

    def add(self, acted: Acted, reward: float, after: np.ndarray) -> None:
        """Adds a step."""
        if self.acted is not None:
            self._last = (acted, reward, after)
        elif self._last is not None and _equal(self._last, (acted, reward, after)):
            self.repeats += 1
            if not self._keeps:
                warnings.warn(f"An observed step repeats {REPEATED}", RuntimeWarning, stacklevel=3)
        if self._keeps:
            self._log.add(acted.row, acted.own, reward, acted.sampled, acted.version)
            self._log.final = after
        self._return += reward
        self._by.add(acted.version)
        self._samples |= acted.sampled
        self.steps += 1
        self.acted, self.seen = None, after

    def end(self, terminated: bool) -> None:
        """Ends the episode; its return counts for the parameters if all of it was theirs."""
        self._log.terminated, self._log.ended = terminated, True
        if len(self._by) == 1 and not self._has_gap:
            self._explored = self._samples
            self.returns[self._by != {0}].append(self._return)
        self.abandon()

    def abandon(self) -> None:
        """Ends the episode without a return, as when somebody resets the robot."""
        if len(self._log):
            self._logs.append(self._log)
        self._log, self._return, self._by = EpisodeLog(), 0.0, set()
        self.acted, self.seen, self._has_gap, self._samples = None, None, False, False
        self._last = None

    def take(self) -> list[EpisodeLog]:
        """Returns the steps since the last call, in episodes and parts of them."""
        logs, self._logs = self._logs, []
        self.missed = self.jumps = self.repeats = 0
        if len(self._log):
            logs.append(self._log)
            self._log = EpisodeLog()
        return logs

    def give_back(self, logs: list[EpisodeLog]) -> None:
        """Takes back steps that an adaptation refused; a part of an episode stays one."""
        self._logs = logs + self._logs


def _equal(first: tuple[Acted, float, np.ndarray], second: tuple[Acted, float, np.ndarray]) -> bool:
    """Whether two steps have the same action, reward and observation."""
    return (
        first[1] == second[1]
        and np.array_equal(first[2], second[2])
        and np.array_equal(first[0].given, second[0].given)
    )
