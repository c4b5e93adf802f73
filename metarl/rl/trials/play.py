"""Trials: several consecutive episodes of one task, played by an agent with a memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SettingsError, ShapeError
from metarl.rl.rollouts import RolloutNoise
from metarl.rl.units import Units
from metarl.sim.family import TaskFamily, Tasks
from metarl.sim.vector_env import TensorVectorEnv
from metarl.sim.world_noise import WorldNoise
from metarl.trees import map_tensors


class AgentInput(NamedTuple):
    """The inputs of an agent at one step of W worlds; float32, except for discrete actions.

    Attributes:
        observation: The current observation o_t, [W, O].
        action: The agent's previous action in this trial, a_{t-1}, [W, A] float32 or [W] int64; 0
            at the first step of the trial.
        reward: The reward of that action, r_{t-1}, [W]; 0 at the first step of the trial.
        ended: 1 if that action was the last of an episode, so that this is the first step of the
            next one, else 0; [W].
        begun: 0 at the first step of the trial, which has no previous action, else 1; [W].
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    ended: Tensor
    begun: Tensor


class AgentStep(NamedTuple):
    """The outputs of an agent at one step of W worlds.

    Attributes:
        action: The actions, [W, A] float32 or [W] int64.
        state: The agent's next state (its memory), nested tensors [W, *].
        record: Data of the step to store in `Trials.record`, nested tensors [W, *], or None.
    """

    action: Tensor
    state: Any
    record: Any


class Agent(Protocol):
    """Interface of an agent that plays trials: a recurrent policy or a fixed strategy."""

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws the random numbers for actions of batch shape `shape`, [*shape, *]."""
        ...

    def begin(self, tasks: Tasks) -> Any:
        """Returns the agent's state at the start of a trial, nested tensors [W, *].

        Args:
            tasks: The task of each world, [W, *] per name. Only an oracle reads their values; other
                agents use them to count the worlds.
        """
        ...

    def act(self, state: Any, agent_input: AgentInput, noise: Tensor) -> AgentStep:
        """Computes the actions of all worlds.

        Args:
            state: The agent's state, from `begin` or from the previous step.
            agent_input: The inputs of this step.
            noise: Random numbers of this step, from `noise`, [W, *].
        """
        ...


class Trials(NamedTuple):
    """N trials of each of T tasks; a trial has E episodes and at most L = E * H steps.

    Attributes:
        actions: The actions, [T, N, L, A] float32, or [T, N, L] int64.
        rewards: Reward of each step, [T, N, L] float32; 0 after the end of the trial.
        mask: 1 for the steps of the trial, which come first, 0 after its end; [T, N, L] float32.
        returns: Undiscounted return of each episode, [T, N, E].
        record: `AgentStep.record` of each step, nested tensors [T, N, L, *].
        metrics: The family's metrics of each episode, [T, N, E] float32 per name.
        next_observations: The observation after each step and before any reset, in the
            environment's units, [T, N, L, O]; None unless they were asked for.
    """

    actions: Tensor
    rewards: Tensor
    mask: Tensor
    returns: Tensor
    record: Any
    metrics: dict[str, Tensor] = {}  # noqa: RUF012 - nothing writes into it
    next_observations: Tensor | None = None


class Recalled(NamedTuple):
    """What W worlds remember of a trial.

    Attributes:
        state: The agent's state, nested tensors [W, *].
        action: The agent's previous action; see `AgentInput`.
        reward: The reward of that action, [W].
    """

    state: Any
    action: Tensor
    reward: Tensor


class TrialSteps(NamedTuple):
    """Steps of W worlds; the second dimension of all tensors is the time, L.

    Attributes:
        action: The agent's actions, [W, L, A] float32 or [W, L] int64.
        reward: The rewards, [W, L]; 0 after the end of an episode.
        alive: 1 where the episode had not ended before the step, [W, L].
        record: `AgentStep.record`.
        after: The observation after each step, [W, L, O], or None.
    """

    action: Tensor
    reward: Tensor
    alive: Tensor
    record: Any
    after: Tensor | None


PlayEpisode = Callable[[Recalled, Tensor, Tensor, bool], tuple[TrialSteps, Recalled]]
"""Plays an episode of all worlds after a reset: from what they remember, the first observation
[W, O], the agent's random numbers [H, W, *], and whether it is the first one."""


def draw_trial_noise(
    agent: Agent,
    family: TaskFamily,
    num_tasks: int,
    trials: int,
    episodes: int,
    generator: torch.Generator,
) -> RolloutNoise:
    """Draws the random numbers of trials.

    Args:
        agent: The agent.
        family: The family of the tasks.
        num_tasks: Number of tasks, T.
        trials: Number of trials of each task, N, at least 1.
        episodes: Number of episodes of each trial, E, at least 1.
        generator: Random generator.

    Returns:
        Noise with the actions [T, N, E, H, *], the resets [T, N, E, k] and the steps
        [T, N, E, H, k].

    Raises:
        SettingsError: `trials` or `episodes` is below 1.
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
def play(
    env: TensorVectorEnv,
    agent: Agent,
    tasks: Tasks,
    noise: RolloutNoise,
    units: Units | None = None,
    keep_next: bool = False,
    play_episode: PlayEpisode | None = None,
) -> Trials:
    """Plays one trial in every world.

    The agent's state is initialised at the start of the trial and carried over from one episode to
    the next. If an episode ends early, its world idles until the episodes of all worlds have ended.
    The idle steps do not change the agent's state and are masked in the result.

    Args:
        env: T * N worlds without autoreset (`autoreset="disabled"`).
        agent: The agent.
        tasks: The tasks, [T, *] per name; each task is run in N consecutive worlds.
        noise: The random numbers, from `draw_trial_noise`.
        units: Bring the agent's actions to the environment; None: they are in its units.
        keep_next: Stores the observation after each step.
        play_episode: What plays the episodes; None steps the environment.

    Returns:
        The trials, without derivatives.

    Raises:
        ShapeError: The number of worlds of `env` differs from that of `noise`.
        SimulationError: A reward or an observation is not finite, or an action is outside the
            action space.
    """
    num_tasks, trials = noise.actions.shape[:2]
    if env.num_envs != num_tasks * trials:
        raise ShapeError(
            f"Expected an environment of {num_tasks} tasks x {trials} trials = "
            f"{num_tasks * trials} worlds, got {env.num_envs}."
        )
    env.set_tasks({n: v.repeat_interleave(trials, 0) for n, v in tasks.items()})
    zeros = torch.zeros(env.num_envs, device=env.device)
    recalled = Recalled(agent.begin(env.get_tasks()), _no_action(env), zeros)
    play_episode = play_episode or partial(_play_episode, env, agent, units, keep_next)
    played: list[TrialSteps] = []
    measured: list[dict[str, Tensor]] = []
    draws = noise.actions.flatten(0, 1).movedim(0, 2)  # [E, H, W, *]: time first
    for episode, episode_draws in enumerate(draws):
        env.follow(WorldNoise(*(n[:, :, episode].flatten(0, 1) for n in noise[1:])))
        observation, _ = env.reset()
        steps, recalled = play_episode(recalled, observation, episode_draws, episode == 0)
        played.append(steps)
        measured.append(env.episode_metrics())
    env.check()
    shape = (num_tasks, trials)
    metrics = map_tensors(lambda *e: torch.stack(e, 1).unflatten(0, shape), *measured)
    whole = map_tensors(lambda *s: torch.cat(s, 1).unflatten(0, shape), *played)
    return _in_order(whole, len(draws), may_idle(env.family))._replace(metrics=metrics)


def may_idle(family: TaskFamily) -> bool:
    """Returns whether an episode of the family may end before its horizon."""
    return family.may_terminate or family.may_truncate


def select_alive(alive: Tensor, after: Any, before: Any) -> Any:
    """Returns `after` for the worlds whose episode was running, `before` for the idle ones.

    Args:
        alive: 1 for a running episode, else 0; [W].
        after: Nested tensors [W, *].
        before: Nested tensors [W, *].
    """
    return map_tensors(
        lambda new, old: torch.where(alive.view(-1, *[1] * (new.dim() - 1)) > 0, new, old),
        after,
        before,
    )


def _play_episode(
    env: TensorVectorEnv,
    agent: Agent,
    units: Units | None,
    keep_next: bool,
    recalled: Recalled,
    observation: Tensor,
    draws: Tensor,
    first: bool,
) -> tuple[TrialSteps, Recalled]:
    """Plays an episode step by step; see `PlayEpisode`."""
    family, idles, steps = env.family, may_idle(env.family), list[TrialSteps]()
    zeros = torch.zeros(env.num_envs, device=env.device)
    ones = torch.ones_like(zeros)
    alive, ended, begun = ones, zeros if first else ones, zeros if first else ones
    for draw in draws:
        agent_input = AgentInput(observation, recalled.action, recalled.reward, ended, begun)
        output = agent.act(recalled.state, agent_input, draw)
        observation, reward, terminated, truncated, _ = env.step(
            output.action if units is None else units.act(output.action)
        )
        next_one = observation if keep_next else None
        steps.append(TrialSteps(output.action, reward * alive, alive, output.record, next_one))
        after = Recalled(output.state, output.action, reward)
        recalled = select_alive(alive, after, recalled) if idles else after
        over = terminated | truncated if family.may_truncate else terminated
        alive, ended, begun = alive * ~over, zeros, ones
    return map_tensors(lambda *s: torch.stack(s, 1), *steps), recalled


def _no_action(env: TensorVectorEnv) -> Tensor:
    """Returns zeros of the shape of the actions of all worlds."""
    discrete = isinstance(env.single_action_space, spaces.Discrete)
    dtype = torch.int64 if discrete else torch.float32
    return torch.zeros(env.action_space.shape or (), dtype=dtype, device=env.device)


def _in_order(steps: TrialSteps, episodes: int, idles: bool) -> Trials:
    """Returns the trials of steps [T, N, L, *]; idle steps are moved to the end of their trial."""
    returns = steps.reward.unflatten(2, (episodes, -1)).sum(3)
    if idles:
        order = steps.alive.argsort(dim=2, descending=True, stable=True)
        steps = map_tensors(lambda t: _reorder_steps(t, order), steps)
    action, reward, mask, record, after = steps
    return Trials(action, reward, mask, returns, record, next_observations=after)


def _reorder_steps(values: Tensor, order: Tensor) -> Tensor:
    """Returns values [T, N, L, *] with their steps in the order given by indices [T, N, L]."""
    indices = order.view(*order.shape, *[1] * (values.dim() - 3)).expand(values.shape)
    return values.gather(2, indices)
