"""Whole episodes: what happened in W worlds from one reset on, told step by step or all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from metarl.sim.family import Family, Tasks, WorldState
from metarl.trees import map_tensors

if TYPE_CHECKING:
    from metarl.sim.vector_env import TensorVectorEnv

Act = Callable[[Tensor], Tensor]
"""Returns the actions, [W, A] float32 or [W] int64, for what is seen, [W, O]."""

MOST_NUMBERS = 2**20
"""Of tasks that are repeated for steps computed at once; bounds the memory."""


class Episode(NamedTuple):
    """One episode in each of W worlds, of H steps or fewer.

    Attributes:
        observations: What was seen before each step and after the last, [W, H + 1, O] float32;
            after the end of an episode, what it ended with.
        actions: What was done, [W, H, A] float32 or [W, H] int64; after the end of an episode it
            has no meaning.
        rewards: Reward of each step, [W, H] float32; 0 after the end of the episode.
        terminated: Whether the task itself has ended, with this step or before; [W, H] bool.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor

    def over(self) -> Tensor:
        """Tells which steps come after the end of their episode, [W, H] bool."""
        over = self.terminated.roll(1, 1)
        over[:, 0] = False
        return over


def by_steps(env: TensorVectorEnv, act: Act) -> Episode:
    """Runs an episode as anyone would, step by step; `env` does not reset itself.

    Raises:
        SimulationError: As `TensorVectorEnv.check`.
    """
    observation, _ = env.reset()
    observations, actions, rewards, terminated = [observation], [], [], []
    for _ in range(env.family.horizon):
        action = act(observation)
        observation, reward, ended, _, _ = env.step(action)
        for kept, value in (
            (observations, observation), (actions, action), (rewards, reward), (terminated, ended)
        ):  # fmt: skip
            kept.append(value)
    env.check()
    return Episode(*(torch.stack(v, 1) for v in (observations, actions, rewards, terminated)))


def afterwards(
    family: Family,
    tasks: Tasks,
    states: Sequence[WorldState],
    observations: Sequence[Tensor],
    actions: Sequence[Tensor],
) -> Episode:
    """Tells an episode from its states: a family judges worlds, and these may be of many steps.

    Args:
        family: What the worlds are.
        tasks: The task of each, [W, *] per name.
        states: The state before each step and after the last, H + 1 times [W, *] per name.
        observations: What was seen of them, H + 1 times [W, O].
        actions: What was done, H times [W, A] or [W]; possible ones.
    """
    worlds = len(observations[0])
    numbers = sum(value.numel() for value in tasks.values())
    size = max(1, MOST_NUMBERS // max(1, numbers))
    rewards, terminated = [], []
    for low in range(0, len(actions), size):
        done = torch.cat(tuple(actions[low : low + size]))
        count = len(done) // worlds
        path = map_tensors(lambda *s: torch.cat(s), *states[low : low + count + 1])
        before, after = (_rows(path, first, len(done)) for first in (0, worlds))
        repeated = map_tensors(lambda v, n=count: v.expand(n, *v.shape).flatten(0, 1), tasks)
        rewards.append(family.reward(before, done, after, repeated).view(count, worlds))
        terminated.append(family.terminated(after, repeated).view(count, worlds))
    reward, ended = (torch.cat(rows).T.contiguous() for rows in (rewards, terminated))
    seen, done = (torch.stack(tuple(rows), 1) for rows in (observations, actions))
    episode = Episode(seen, done, reward, ended)
    return _waiting(episode) if ended.any() else episode


def held(values: Tensor, last: Tensor) -> Tensor:
    """Repeats in each world what there is at `last` instead of what comes after it.

    Args:
        values: Shape [*W, L, *].
        last: Places in the dimension of L, [*W] int64.
    """
    steps = torch.arange(values.shape[last.dim()], device=values.device)
    index = torch.minimum(steps, last.unsqueeze(-1))
    index = index.view(*index.shape, *[1] * (values.dim() - index.dim()))
    return values.gather(last.dim(), index.expand_as(values))


def _waiting(episode: Episode) -> Episode:
    """Lets worlds that terminated wait as they ended, as those of `TensorVectorEnv.step` do."""
    episode = episode._replace(terminated=episode.terminated.cumsum(1) > 0)
    over = episode.over()
    return episode._replace(
        observations=held(episode.observations, (~over).sum(1)),
        rewards=episode.rewards.masked_fill(over, 0),
    )


def _rows(state: WorldState, first: int, count: int) -> WorldState:
    return map_tensors(lambda v: v[first : first + count], state)
