"""Episodes of W worlds, and their rewards and terminations in batched calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.cuda_graphs import may_hold
from metarl.sim.family import TaskFamily, Tasks, WorldState
from metarl.sim.results import READERS, Untouched, measured_values, world_values
from metarl.sim.spaces import only_images
from metarl.trees import map_tensors

Act = Callable[[Tensor], Tensor]
"""Returns the actions, [W, A] float32 or [W] int64, for the observations, [W, O]."""

MOST_NUMBERS = 2**20
"""The most task numbers that `score_states` repeats for one batched call; bounds the memory."""


class Episode(NamedTuple):
    """One episode in each of W worlds, of H steps or fewer.

    Attributes:
        observations: The observations before each step and after the last, [W, H + 1, O] float32,
            or uint8 where they are images of bytes; after the end, the last one of the episode.
        actions: The actions, [W, H, A] float32 or [W, H] int64; undefined after the end.
        rewards: The reward of each step, [W, H] float32; 0 after the end.
        terminated: Whether the world terminated at this step or before, [W, H] bool.
        truncated: Whether the family cut the episode off at this step or before, which is no
            termination, [W, H] bool; None for families that never do. The horizon does not count.
        measured: The numbers of `TaskFamily.measure`, [W, H] per name; undefined after the end.
            None for families without metrics, and where worlds were stepped one by one.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor | None = None
    measured: dict[str, Tensor] | None = None

    def ended(self) -> Tensor:
        """Returns whether the episode ended at this step or before, [W, H] bool."""
        return self.terminated if self.truncated is None else self.terminated | self.truncated

    def over(self) -> Tensor:
        """Returns which steps come after the end, [W, H] bool."""
        over = self.ended().roll(1, 1)
        over[:, 0] = False
        return over


def score_states(
    family: TaskFamily,
    tasks: Tasks,
    states: Sequence[WorldState],
    observations: Sequence[Tensor],
    actions: Sequence[Tensor],
) -> Episode:
    """Computes the rewards and ends of all steps in a few batched calls.

    Args:
        family: The family of the worlds.
        tasks: The task of each world, [W, *] per name.
        states: The states before each step and after the last, H + 1 times [W, *] per name.
        observations: The observations of these states, H + 1 times [W, O].
        actions: The actions of each step, H times [W, A] or [W].
    """
    worlds = len(observations[0])
    numbers = sum(value.numel() for value in tasks.values())
    size = max(1, MOST_NUMBERS // max(1, numbers))
    rewards, terminated, truncated, measured = [], [], [], []
    for low in range(0, len(actions), size):
        batch = torch.cat(tuple(actions[low : low + size]))
        count = len(batch) // worlds
        path = map_tensors(lambda *s: torch.cat(s), *states[low : low + count + 1])
        untouched = Untouched(path)
        before, after = (_rows(path, first, len(batch)) for first in (0, worlds))
        repeated = map_tensors(lambda v, n=count: v.expand(n, *v.shape).flatten(0, 1), tasks)
        reward = world_values("reward", family.reward(before, batch, after, repeated), len(batch))
        end = world_values("terminated", family.terminated(after, repeated), len(batch), True)
        rewards.append(reward.view(count, worlds))
        terminated.append(end.view(count, worlds))
        if family.metrics:
            numbers = family.measure(before, batch, after, repeated)
            numbers = measured_values(numbers, family.metrics, len(batch))
            measured.append({n: v.view(count, worlds) for n, v in numbers.items()})
        if family.may_truncate:
            cut = world_values("truncated", family.truncated(after, repeated), len(batch), True)
            truncated.append(cut.view(count, worlds))
        untouched.check(READERS)
    reward, terminal = (torch.cat(rows).T.contiguous() for rows in (rewards, terminated))
    observation, action = (torch.stack(tuple(rows), 1) for rows in (observations, actions))
    cut = torch.cat(truncated).T.contiguous() if truncated else None
    table = map_tensors(lambda *rows: torch.cat(rows).T, *measured) if measured else None
    episode = Episode(observation, action, reward, terminal, cut, table)
    return _freeze_ended(episode) if may_hold(episode.ended()) else episode


class Steps(Protocol):
    """Interface of worlds that are stepped one step at a time, such as `TensorVectorEnv`."""

    family: TaskFamily
    single_observation_space: spaces.Box

    def reset(self) -> tuple[Tensor, dict[str, Any]]:
        """Starts an episode in each world."""
        ...

    def step(self, actions: Any, /) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Steps every world once."""
        ...

    def check(self) -> None:
        """Checks all values since the last check."""
        ...


def play_steps(env: Steps, act: Act, cut_off: Callable[[], Tensor]) -> Episode:
    """Runs one episode in each world with `reset` and `step`; see `TensorVectorEnv.episode`.

    Args:
        env: The worlds.
        act: Called at each step with the observations [W, O]; returns the actions.
        cut_off: Returns which worlds the family has cut off so far, [W] bool.
    """
    keep = as_bytes if only_images(env.single_observation_space) else lambda seen: seen
    observation, _ = env.reset()
    steps, observations = [], [keep(observation)]
    for _ in range(env.family.horizon):
        action = act(observation)
        observation, reward, terminated, _, _ = env.step(action)
        cut = (cut_off(),) if env.family.may_truncate else ()
        observations.append(keep(observation))
        steps.append((action, reward, terminated, *cut))
    env.check()
    action, reward, terminated, *cut = (torch.stack(v, 1) for v in zip(*steps, strict=True))
    truncated = cut[0] if cut else None
    if len({seen.dtype for seen in observations}) > 1:
        observations = [seen.float() for seen in observations]
    return Episode(torch.stack(observations, 1), action, reward, terminated, truncated)


def as_bytes(observation: Tensor) -> Tensor:
    """Returns observations as uint8, a quarter of the memory, if they are whole numbers 0..255."""
    packed = observation.byte()
    return packed if torch.equal(packed.float(), observation) else observation


def last_states(states: Sequence[WorldState], episode: Episode) -> WorldState:
    """Returns the state in which the episode of each world ended, [W, *] per name.

    Args:
        states: The states before each step and after the last, H + 1 times [W, *] per name.
        episode: The episode.
    """
    over = episode.over()
    if not may_hold(over):
        return states[-1]
    steps = (~over).sum(1)
    worlds = torch.arange(len(steps), device=steps.device)
    return map_tensors(lambda *s: torch.stack(s)[steps, worlds], *states)


def hold_last(values: Tensor, last: Tensor) -> Tensor:
    """Replaces the values after index `last` by the value at `last`.

    Args:
        values: Shape [*W, L, *].
        last: Indices into the dimension of size L, [*W] int64.
    """
    steps = torch.arange(values.shape[last.dim()], device=values.device)
    index = torch.minimum(steps, last.unsqueeze(-1))
    index = index.view(*index.shape, *[1] * (values.dim() - index.dim()))
    return values.gather(last.dim(), index.expand_as(values))


def _freeze_ended(episode: Episode) -> Episode:
    """Keeps the last observation of worlds that have ended and sets their later rewards to 0."""
    if episode.truncated is None:
        episode = episode._replace(terminated=episode.terminated.cumsum(1) > 0)
    else:  # an episode ends only once: what its world does afterwards does not count
        first = episode.ended().cumsum(1).cumsum(1) == 1
        ends = (episode.terminated & first, episode.truncated & first)
        terminated, truncated = (end.cumsum(1) > 0 for end in ends)
        episode = episode._replace(terminated=terminated, truncated=truncated)
    over = episode.over()
    return episode._replace(
        observations=hold_last(episode.observations, (~over).sum(1)),
        rewards=episode.rewards.masked_fill(over, 0),
    )


def _rows(state: WorldState, first: int, count: int) -> WorldState:
    return map_tensors(lambda v: v[first : first + count], state)
