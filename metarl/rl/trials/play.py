"""Trials: several episodes of one world by a agent that may remember what came before."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError, ShapeError
from metarl.rl.rollouts import RolloutNoise
from metarl.sim.family import TaskFamily, Tasks
from metarl.sim.vector_env import TensorVectorEnv, WorldNoise
from metarl.trees import map_tensors


class AgentInput(NamedTuple):
    """What a agent is told before it acts, in each of W worlds; all float32 but some actions.

    Attributes:
        observation: What the world shows, [W, O].
        action: The agent's last action of this trial, [W, A] float32 or [W] int64; 0 before any.
        reward: What that action gave, [W]; 0 before any.
        ended: 1 where that action was the last of an episode, so that this is a first step; [W].
        begun: 0 at the first step of a trial, where there was no action yet; else 1; [W].
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    ended: Tensor
    begun: Tensor


class AgentStep(NamedTuple):
    """What a agent does.

    Attributes:
        action: [W, A] float32 or [W] int64.
        state: What it remembers: nested tensors [W, *].
        record: What is kept of the step: nested tensors [W, *], or None.
    """

    action: Tensor
    state: Any
    record: Any


class Agent(Protocol):
    """Who plays trials: a recurrent policy, or a strategy without anything to learn."""

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws the random numbers that `shape` actions take, [*shape, *]."""
        ...

    def begin(self, tasks: Tasks) -> Any:
        """Returns the state at the start of a trial, nested tensors [W, *].

        Args:
            tasks: The task of each world, [W, *] per name; only an oracle looks at more than
                their number.
        """
        ...

    def act(self, state: Any, agent_input: AgentInput, noise: Tensor) -> AgentStep:
        """Chooses the actions of all worlds."""
        ...


class Trials(NamedTuple):
    """N trials of each of T tasks, their steps one after the other: L of them or fewer.

    Attributes:
        actions: [T, N, L, A] float32, or [T, N, L] int64.
        rewards: Reward of each step, [T, N, L] float32; 0 beyond the end of the trial.
        mask: 1 for the steps of the trial, which come first, 0 beyond its end; [T, N, L] float32.
        returns: Undiscounted return of each episode, [T, N, E].
        record: What the agent kept of each step, [T, N, L, *].
    """

    actions: Tensor
    rewards: Tensor
    mask: Tensor
    returns: Tensor
    record: Any


class _Memory(NamedTuple):
    state: Any
    action: Tensor
    reward: Tensor


class _Step(NamedTuple):
    action: Tensor
    reward: Tensor
    alive: Tensor
    record: Any


def draw_trial_noise(
    agent: Agent,
    family: TaskFamily,
    num_tasks: int,
    trials: int,
    episodes: int,
    generator: torch.Generator,
) -> RolloutNoise:
    """Draws the randomness of trials; the episodes follow the trials: [T, N, E, H, *].

    Raises:
        SettingsError: There is no trial or no episode to play.
    """
    if min(trials, episodes) < 1:
        raise SettingsError(
            f"Expected at least 1 trial of at least 1 episode, got {trials} of {episodes}."
        )
    shape = (num_tasks, trials, episodes)
    options = {"generator": generator, "device": generator.device}
    return RolloutNoise(
        agent.noise((*shape, family.horizon), generator),
        torch.rand(*shape, family.reset_noise, **options),
        torch.rand(*shape, family.horizon, family.step_noise, **options),
    )


@torch.no_grad()
def play(env: TensorVectorEnv, agent: Agent, tasks: Tasks, noise: RolloutNoise) -> Trials:
    """Plays one trial in every world.

    The agent's state starts anew with the trial and passes from one episode to the next. A world
    whose episode ended early waits for the others; to its agent the next episode follows at once.

    Args:
        env: T * N worlds that do not reset themselves (`autoreset="disabled"`).
        agent: Who plays.
        tasks: The tasks, [T, *] per name; each gets N worlds beside each other.
        noise: The randomness, of `draw_trial_noise`.

    Raises:
        ShapeError: `env` has another number of worlds than `noise` is for.
        SimulationError: A reward or an observation was not finite or an action not in the space.
    """
    num_tasks, trials, episodes, _ = noise.actions.shape[:4]
    if env.num_envs != num_tasks * trials:
        raise ShapeError(
            f"Expected an environment of {num_tasks} tasks x {trials} trials = "
            f"{num_tasks * trials} worlds, got {env.num_envs}."
        )
    env.set_tasks({n: v.repeat_interleave(trials, 0) for n, v in tasks.items()})
    waits = type(env.family).terminated is not TaskFamily.terminated
    zeros = torch.zeros(env.num_envs, device=env.device)
    ones = torch.ones_like(zeros)
    memory = _Memory(agent.begin(env.get_tasks()), _no_action(env), zeros)
    steps: list[_Step] = []
    draws = noise.actions.flatten(0, 1).movedim(0, 2)  # [E, H, W, *]: time first
    for episode, episode_draws in enumerate(draws):
        env.follow(WorldNoise(*(n[:, :, episode].flatten(0, 1) for n in noise[1:])))
        observation, _ = env.reset()
        alive, ended = ones, ones if episode else zeros
        for draw in episode_draws:
            begun = ones if steps else zeros
            agent_input = AgentInput(observation, memory.action, memory.reward, ended, begun)
            choice = agent.act(memory.state, agent_input, draw)
            observation, reward, terminated, _, _ = env.step(choice.action)
            steps.append(_Step(choice.action, reward * alive, alive, choice.record))
            after = _Memory(choice.state, choice.action, reward)
            memory = _where(alive, after, memory) if waits else after
            alive, ended = alive * ~terminated, zeros
    env.check()
    return _joined(steps, (num_tasks, trials), episodes, waits)


def _no_action(env: TensorVectorEnv) -> Tensor:
    numbered = isinstance(env.single_action_space, spaces.Discrete)
    kind = torch.int64 if numbered else torch.float32
    return torch.zeros(env.action_space.shape or (), dtype=kind, device=env.device)


def _where(alive: Tensor, after: _Memory, before: _Memory) -> _Memory:
    """Returns `after` in the worlds whose episode goes on, else `before`."""
    return map_tensors(
        lambda new, old: torch.where(alive.view(-1, *[1] * (new.dim() - 1)) > 0, new, old),
        after,
        before,
    )


def _joined(steps: list[_Step], shape: tuple[int, int], episodes: int, waited: bool) -> Trials:
    """Joins steps of W worlds; those in which a world waited go to the end of its trial."""
    joined = map_tensors(lambda *s: torch.stack(s, 1).unflatten(0, shape), steps[0], *steps[1:])
    returns = joined.reward.unflatten(2, (episodes, -1)).sum(3)
    if waited:
        order = joined.alive.argsort(dim=2, descending=True, stable=True)
        joined = map_tensors(lambda t: _in_order(t, order), joined)
    return Trials(joined.action, joined.reward, joined.alive, returns, joined.record)


def _in_order(values: Tensor, order: Tensor) -> Tensor:
    """Returns values [T, N, L, *] with the steps in the order [T, N, L]."""
    places = order.view(*order.shape, *[1] * (values.dim() - 3)).expand(values.shape)
    return values.gather(2, places)
