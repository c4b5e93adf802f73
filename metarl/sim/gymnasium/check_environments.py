"""Checks the environments of a gymnasium family by playing and comparing episodes.

Compared are episodes of at most 100 steps of random actions, with 3 starts: what shows later, or
after particular actions only, is not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from gymnasium import spaces

from metarl.sim.check_family import sample_actions
from metarl.sim.gymnasium.environments import Environments, Rows, WorldError
from metarl.sim.gymnasium.family import SEEDS, GymFamily, Task, each_task
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
    """Plays episodes in W environments of a family.

    Args:
        family: The family.
        worlds: The number of environments, W.
    """

    def __init__(self, family: GymFamily, worlds: int = 1) -> None:
        self.host = Environments(family, Rows.of(family, worlds))
        self._steps: list[list[tuple[np.ndarray, ...]]] = [[] for _ in range(worlds)]

    def begin(self, start: Start, world: int = 0) -> None:
        """Resets a world with the task and the seed of a start."""
        rows = self._activate(world)
        rows.seed[world] = start.seed
        worlds = len(rows.seed)
        self.host.start({n: np.broadcast_to(v, (worlds, *v.shape)) for n, v in start.task.items()})
        self._steps[world] = [self._read(world)]

    def step(self, action: np.ndarray, world: int = 0) -> None:
        """Steps a world, unless its episode has ended."""
        rows = self._activate(world)
        if not (rows.terminated[world] or rows.truncated[world]):
            rows.action[world] = action
            self.host.step()
            self._steps[world].append(self._read(world))

    def path(self, world: int = 0) -> Path:
        """Returns the episode of a world so far."""
        observations, rewards, ends = (np.stack(rows) for rows in zip(*self._steps[world]))  # noqa: B905
        return Path(observations, rewards[1:], ends[1:])

    def play(self, start: Start) -> Path:
        """Plays one episode in world 0."""
        self.begin(start)
        for action in start.actions:
            self.step(action)
        return self.path()

    def _activate(self, world: int) -> Rows:
        rows = self.host.rows
        rows.active[:] = np.arange(len(rows.active)) == world
        return rows

    def _read(self, world: int) -> tuple[np.ndarray, ...]:
        rows = self.host.rows
        ends = np.array([rows.terminated[world], rows.truncated[world]])
        return rows.observation[world].copy(), rows.reward[world].copy(), ends


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
    player = Player(family)
    try:
        paths = [player.play(start) for start in all_starts]
        for start, path in zip(all_starts, paths, strict=True):
            change = difference(path, _play_anew(family, start))
            if change:
                yield (
                    f"the same task, seed and actions give {change} other values in a new "
                    "environment: draw all random numbers from `self.np_random`, share nothing "
                    "that changes among environments, and leave nothing to the next episode"
                )
                return
        # `player` has played the other starts since.
        change = difference(paths[0], player.play(all_starts[0]))
        if change:
            yield (
                f"an episode leaves something to the next: {change} differs from that of a new "
                "environment; `reset` must restore all that an episode changes"
            )
            return
        change = _interleaving_change(family, all_starts, paths[0])
        if change:
            yield (
                f"environments share something that changes: {change} differs while another "
                "environment is reset and stepped in between"
            )
    finally:
        player.host.close()


def _play_anew(family: GymFamily, start: Start) -> Path:
    player = Player(family)
    try:
        return player.play(start)
    finally:
        player.host.close()


def _interleaving_change(family: GymFamily, all_starts: Sequence[Start], alone: Path) -> str | None:
    """Plays the first start while another world plays the others; returns what differs."""
    player = Player(family, worlds=2)
    first, *others = all_starts
    half = len(first.actions) // 2
    try:
        player.begin(first)
        other = others[0]
        player.begin(other, world=1)
        for step, action in enumerate(first.actions):
            if step == half:
                other = others[-1]
                player.begin(other, world=1)
            player.step(other.actions[step], world=1)
            player.step(action)
        return difference(alone, player.path())
    finally:
        player.host.close()


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
