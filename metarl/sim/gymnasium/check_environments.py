"""Checks the environments of a gymnasium family by playing and comparing episodes.

Compared are episodes of at most 100 steps of random actions, with 3 starts: what shows later, or
after particular actions only, is not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.sim.gymnasium.environments import Environments, Rows, WorldError
from metarl.sim.gymnasium.family import SEEDS, GymFamily, Task, each_task
from metarl.sim.sample_actions import sample_actions
from metarl.sim.spaces import far_beyond
from metarl.tasks.check_sampling import seeded

MOST_STEPS = 100
STARTS = 3


class Start(NamedTuple):
    """What an episode depends on.

    Attributes:
        task: The task.
        seed: The seed of the reset.
        actions: The actions, inside the space, [L, A] float32 or [L] int64.
    """

    task: Task
    seed: int
    actions: np.ndarray


class Path(NamedTuple):
    """What an episode of L steps showed.

    Attributes:
        observations: [L + 1, O] float32.
        rewards: [L] float32.
        ends: Whether it had terminated or been truncated after each step, [L, 2] bool.
    """

    observations: np.ndarray
    rewards: np.ndarray
    ends: np.ndarray


class Player:
    """Plays episodes in one environment of a family.

    Args:
        family: The family.
    """

    def __init__(self, family: GymFamily) -> None:
        self.host = Environments(family, Rows.of(family, 1))
        self.host.rows.active[0] = True
        self._steps: list[tuple[np.ndarray, ...]] = []

    @property
    def env(self) -> gymnasium.Env:
        """The environment, which `begin` builds."""
        return self.host.env(0)

    def begin(self, start: Start) -> None:
        """Resets the environment with the task and the seed of a start."""
        self.host.rows.seed[0] = start.seed
        self.host.start({name: value[None] for name, value in start.task.items()})
        self._steps = [self._read()]

    def step(self, action: np.ndarray) -> None:
        """Steps the environment, unless its episode has ended."""
        rows = self.host.rows
        if not (rows.terminated[0] or rows.truncated[0]):
            rows.action[0] = action
            self.host.step()
            self._steps.append(self._read())

    def path(self) -> Path:
        """Returns the episode so far."""
        observations, rewards, ends = (np.stack(rows) for rows in zip(*self._steps))  # noqa: B905
        return Path(observations, rewards[1:], ends[1:])

    def play(self, start: Start) -> Path:
        """Plays one episode."""
        self.begin(start)
        for action in start.actions:
            self.step(action)
        return self.path()

    def _read(self) -> tuple[np.ndarray, ...]:
        rows = self.host.rows
        ends = np.array([rows.terminated[0], rows.truncated[0]])
        return rows.observation[0].copy(), rows.reward[0].copy(), ends


def difference(first: Path, second: Path) -> str | None:
    """Returns what differs first between two episodes, and in which step; None if nothing does."""
    for step in range(max(len(first.observations), len(second.observations))):
        if min(len(first.observations), len(second.observations)) <= step:
            return f"the end of the episode after step {step - 1}"
        if not _close(first.observations[step], second.observations[step]):
            return f"the observation {f'of step {step}' if step else 'of the reset'}"
        if step and not _close(first.rewards[step - 1], second.rewards[step - 1]):
            return f"the reward of step {step}"
        if step and not np.array_equal(first.ends[step - 1], second.ends[step - 1]):
            return f"the end of step {step}"
    return None


def _not_finite(path: Path) -> str | None:
    """Returns what is not finite first in an episode; None if all is."""
    for step, observation in enumerate(path.observations):
        if not np.isfinite(observation).all():
            return f"the observation {f'of step {step}' if step else 'of the reset'}"
        if step and not np.isfinite(path.rewards[step - 1]):
            return f"the reward of step {step}"
    return None


def _far_outside(space: spaces.Box, paths: Sequence[Path]) -> Iterator[str]:
    """Yields an observation that its bounds say nothing about."""
    seen = np.concatenate([path.observations for path in paths])
    sizes = np.abs(seen).max(0)
    entries = np.flatnonzero(far_beyond(space, sizes))
    if len(entries):
        entry = entries[0]
        yield (
            f"observations leave their bounds: entry {entry} is up to {sizes[entry]:.3g} in size, "
            f"and the space declares {space.low[entry]:.3g} to {space.high[entry]:.3g}, from which "
            "a policy takes its scale; declare the bounds that it has, or infinite ones"
        )


def starts(family: GymFamily, seed: int) -> list[Start]:
    """Draws the starts of the episodes that are compared, each of another task."""
    tasks = family.sample(STARTS, seeded(seed)).values
    length = min(family.horizon, MOST_STEPS)
    space = family.action_space
    result = []
    for number, task in enumerate(each_task(tasks)):
        actions = sample_actions(space, (length,), seed + number).numpy()
        if isinstance(space, spaces.Box):
            actions = actions.clip(space.low, space.high)
        result.append(Start(task, (7919 * seed + 104729 * (number + 1)) % SEEDS, actions))
    return result


def environment_problems(family: GymFamily, seed: int) -> Iterator[str]:
    """Yields what makes episodes depend on more than their task, seed and actions."""
    all_starts = starts(family, seed)
    try:
        yield from _episode_problems(family, all_starts)
    except WorldError as error:
        yield f"an environment {error.what}"


def _episode_problems(family: GymFamily, all_starts: Sequence[Start]) -> Iterator[str]:
    player, twin, fresh = players = [Player(family) for _ in range(3)]
    first = all_starts[0]
    try:
        paths, twins = ([p.play(start) for start in all_starts] for p in (player, twin))
        bad = next(filter(None, map(_not_finite, paths)), None)
        if bad:
            yield f"{bad} is infinite or not a number"
            return
        yield from _far_outside(family.env_observations, paths)
        for path, other in zip(paths, twins, strict=True):
            change = difference(path, other)
            if change:
                yield (
                    f"the same task, seed and actions give {change} other values in another "
                    "environment: draw all random numbers from `self.np_random`, after "
                    "`super().reset(seed=seed)`, and share nothing that changes among environments"
                )
                return
        change = difference(paths[-1], player.play(all_starts[-1]))  # the same task once more
        change = change or difference(paths[0], player.play(first))
        if change:
            yield (
                f"an episode leaves something to the next: {change} differs from that of a new "
                "environment; `reset` must restore all that an episode changes, such as random "
                "generators other than `self.np_random` and running statistics of wrappers "
                "(policies have their own)"
            )
            return
        change = difference(paths[-1], fresh.play(all_starts[-1]))  # without other tasks before
        if change:
            yield (
                f"an environment keeps what it derived from its first task: {change} of a later "
                "task differs from that of a new environment with this task; derive it in each "
                "`reset`, cached properties and objects that are built once included, or make the "
                "parameter a keyword argument, for which the environment is built again"
            )
            return
        change = difference(paths[0], _interleaved(player, twin, all_starts))
        if change:
            yield (
                f"environments share something that changes: {change} differs while another "
                "environment is reset and stepped in between"
            )
    finally:
        for one in players:
            one.host.close()


def _interleaved(player: Player, other: Player, all_starts: Sequence[Start]) -> Path:
    """Plays the first start while another environment plays the second and then the last."""
    first, second, *_, last = all_starts
    half = len(first.actions) // 2
    player.begin(first)
    other.begin(second)
    for step, action in enumerate(first.actions):
        if step == half:
            other.begin(last)
        other.step(last.actions[step])
        player.step(action)
    return player.path()


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
