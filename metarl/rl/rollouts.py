"""Rollouts: one episode in every world of many tasks, each task with its own policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.cuda_graphs import may_hold
from metarl.errors import ShapeError
from metarl.models.base import Params
from metarl.rl.distributions import Distribution
from metarl.rl.moments import Moments
from metarl.rl.policy import Policy
from metarl.rl.units import Units, bytes_to_units
from metarl.sim.episode import Episode, hold_last
from metarl.sim.family import TaskFamily, Tasks
from metarl.sim.vector_env import TensorVectorEnv
from metarl.sim.world_noise import WorldNoise
from metarl.trees import map_tensors


class RolloutNoise(NamedTuple):
    """The random numbers of N rollouts of each of T tasks, drawn in advance.

    A rollout depends only on its own random numbers, so it does not depend on the number of tasks
    that are collected in one call.

    Attributes:
        actions: Noise for the `sample` method of the action distributions, [T, N, H, *].
        reset: Uniform random numbers for the resets, [T, N, k].
        steps: Uniform random numbers for the dynamics, [T, N, H, k].
    """

    actions: Tensor
    reset: Tensor
    steps: Tensor


class Rollouts(NamedTuple):
    """One episode of at most H steps in each of N worlds of T tasks.

    Observations and actions are in the units of the policy.

    Attributes:
        seen: Observation before each step, [T, N, H, O] float32, or uint8 if all entries are bytes
            of images. `observations` are the same as float32.
        actions: Action of each step, before any clipping: [T, N, H, A] float32, or [T, N, H] int64.
        rewards: Reward of each step, [T, N, H] float32; 0 after the end of the episode.
        mask: 1 for the steps of the episode, 0 after its end; [T, N, H] float32.
        terminated: Whether the episode terminated at this step, [T, N, H] bool. An episode that did
            not terminate was truncated at its last step, by the horizon or by the environment.
        final_observations: Observation after the last step, [T, N, O].
        behaviour: The distributions that the actions were sampled from, [T, N, H, *].
        moments: What `Units.update` merges into the policy's running statistics; None if it has
            none.
        metrics: The family's metrics of each episode, [T, N] float32 per name.
    """

    seen: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor
    terminated: Tensor
    final_observations: Tensor
    behaviour: Distribution
    moments: dict[str, Moments] | None = None
    metrics: dict[str, Tensor] = {}  # noqa: RUF012 - nothing writes into it

    @property
    def observations(self) -> Tensor:
        """Observation before each step, [T, N, H, O] float32; of images, bytes / 255."""
        return bytes_to_units(self.seen)

    def returns(self) -> Tensor:
        """Returns the mean undiscounted return of each task, [T]."""
        return self.rewards.sum(2).mean(1)

    def steps(self) -> Tensor:
        """Returns the number of environment steps of each task, [T]."""
        return self.mask.sum((1, 2))


def draw_noise(
    policy: Policy,
    family: TaskFamily,
    num_tasks: int,
    trajectories: int,
    generator: torch.Generator,
) -> RolloutNoise:
    """Draws the random numbers of `trajectories` rollouts of each of `num_tasks` tasks."""
    worlds = (num_tasks, trajectories)
    options = {"generator": generator, "device": generator.device}
    return RolloutNoise(
        policy.noise((*worlds, family.horizon), generator),
        torch.rand(*worlds, family.reset_noise, **options),
        torch.rand(*worlds, family.horizon, family.step_noise, **options),
    )


class Decision(NamedTuple):
    """What the policies decide in a step of T tasks x N worlds.

    Attributes:
        action: The actions in the environment's units, [W, *].
        own_action: The actions in the policy's units, [W, *]; None if they are the same.
        behaviour: The distributions, [T, N, *].
    """

    action: Tensor
    own_action: Tensor | None
    behaviour: Distribution


class Played(NamedTuple):
    """An episode in each world, and what the policies chose.

    Attributes:
        episode: The episode, in the environment's units.
        own_actions: The actions in the policy's units, [W, H, *]; None if they are the same.
        behaviour: The distributions, [T, N, H, *].
    """

    episode: Episode
    own_actions: Tensor | None
    behaviour: Distribution


Play = Callable[[Params, Tensor], Played]
"""Plays an episode with parameters and draws [H, T, N, *]; the environment has its tasks."""


def choose_with(policy: Policy, params: Params) -> Callable[[Tensor, Tensor], Decision]:
    """Returns a function from observations [W, O] and draws [T, N, *] to a `Decision`."""
    policies, units = policy.fixed(params), policy.units

    def choose(observation: Tensor, draw: Tensor) -> Decision:
        if units is not None:
            observation = units.observe(observation)
        behaviour = policies(observation.view(*draw.shape[:2], -1))
        action = behaviour.sample(draw).view(len(observation), *policy.action_shape)
        if units is None:
            return Decision(action, None, behaviour)
        return Decision(units.act(action), action, behaviour)

    return choose


@torch.no_grad()
def collect(
    env: TensorVectorEnv,
    policy: Policy,
    params: Params,
    tasks: Tasks,
    noise: RolloutNoise,
    play: Play | None = None,
) -> Rollouts:
    """Runs one episode in every world, with the policy parameters of its task.

    Args:
        env: T * N worlds without autoreset (`autoreset="disabled"`).
        policy: The policy.
        params: The policy's parameters for each task, [T, *shape] per name.
        tasks: The tasks, [T, *] per name; each task is run in N consecutive worlds.
        noise: The random numbers, from `draw_noise`.
        play: What plays the steps; None for `env.episode`.

    Returns:
        The rollouts, without derivatives.

    Raises:
        ShapeError: The number of worlds of `env` differs from that of `noise`.
        SimulationError: A reward or an observation is not finite, or an action is outside the
            action space.
    """
    num_tasks, trajectories = noise.actions.shape[:2]
    worlds = num_tasks * trajectories
    if env.num_envs != worlds:
        raise ShapeError(
            f"Expected an environment of {num_tasks} tasks x {trajectories} trajectories = "
            f"{worlds} worlds, got {env.num_envs}."
        )
    env.set_tasks({n: v.repeat_interleave(trajectories, 0) for n, v in tasks.items()})
    env.follow(WorldNoise(noise.reset.flatten(0, 1), noise.steps.flatten(0, 1)))
    shape, units = (num_tasks, trajectories), policy.units
    draws = noise.actions.movedim(2, 0).contiguous()  # time first
    played = play(params, draws) if play else _play(env, policy, params, draws)
    episode = played.episode
    if played.own_actions is not None:
        episode = episode._replace(actions=played.own_actions)
    episode = map_tensors(lambda v: v.unflatten(0, shape), episode)
    ended = episode.ended()
    mask, moments = alive(ended), None
    if units is not None and units.learns:
        moments = units.moments(episode.observations[:, :, :-1], episode.rewards, mask)
    episode = episode._replace(observations=_in_units(episode.observations, units))
    rollouts = Rollouts(
        seen=episode.observations[:, :, :-1].contiguous(),
        actions=episode.actions,
        rewards=episode.rewards,
        mask=mask,
        terminated=episode.terminated & (mask > 0),
        final_observations=bytes_to_units(episode.observations[:, :, -1]),
        behaviour=played.behaviour,
        moments=moments,
        metrics={n: v.view(shape) for n, v in env.episode_metrics().items()},
    )
    return _replace_masked_actions(rollouts, noise) if may_hold(ended) else rollouts


def _play(env: TensorVectorEnv, policy: Policy, params: Params, draws: Tensor) -> Played:
    choose, numbers = choose_with(policy, params), iter(draws.unbind())
    own_actions, behaviours = list[Tensor](), list[Distribution]()

    def act(observation: Tensor) -> Tensor:
        action, own_action, behaviour = choose(observation, next(numbers))
        behaviours.append(behaviour)
        if own_action is not None:
            own_actions.append(own_action)
        return action

    return Played(
        env.episode(act),
        torch.stack(own_actions, 1) if own_actions else None,
        map_tensors(lambda *steps: torch.stack(steps, 2), *behaviours),
    )


def _in_units(observations: Tensor, units: Units | None) -> Tensor:
    """Returns observations in the policy's units; bytes, if these divide them by 255, as bytes."""
    if observations.dtype == torch.uint8:
        if units is not None and units.divides_bytes:
            return observations
        observations = observations.float()
    return observations if units is None else units.observe(observations)


def _replace_masked_actions(rollouts: Rollouts, noise: RolloutNoise) -> Rollouts:
    """Replaces the actions and distributions after the end of each episode.

    The new ones belong to the episode's last observation, which `seen` repeats after the
    end. During the rollout the policy saw other observations there: worlds are stepped up to the
    horizon, and terminations are computed afterwards.
    """
    mask, count = rollouts.mask, rollouts.mask.shape[1]
    steps = mask.sum(2).long()

    def hold(values: Tensor) -> Tensor:
        # A field with one entry for all worlds (log_std) does not depend on the observations.
        return hold_last(values, steps) if values.shape[1] == count else values

    behaviour = map_tensors(hold, rollouts.behaviour)
    in_episode = mask.view(*mask.shape, *[1] * (rollouts.actions.dim() - 3)) > 0
    actions = torch.where(in_episode, rollouts.actions, behaviour.sample(noise.actions))
    return rollouts._replace(actions=actions, behaviour=behaviour)


def alive(ended: Tensor) -> Tensor:
    """Returns 1 for every step up to and including the first end, 0 for later steps.

    Args:
        ended: Whether the episode has ended at a step, [..., H] bool.

    Returns:
        Shape [..., H], float32.
    """
    before = ended.cumsum(-1) - ended.long()
    return (before == 0).float()
