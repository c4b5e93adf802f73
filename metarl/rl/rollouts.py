"""Rollouts of the policies of many tasks, in all their worlds at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.errors import ShapeError
from metarl.models.base import Params
from metarl.rl.distributions import Distribution
from metarl.rl.policies import Policy
from metarl.sim.episode import hold_last
from metarl.sim.family import TaskFamily, Tasks
from metarl.sim.vector_env import TensorVectorEnv, WorldNoise
from metarl.trees import map_tensors


class RolloutNoise(NamedTuple):
    """The randomness of N rollouts of each of T tasks, drawn beforehand.

    A rollout depends on its own numbers alone, so it stays the same however many tasks go through
    one call.

    Attributes:
        actions: What the policy's `sample` consumes, [T, N, H, *].
        reset: Uniform numbers for the resets, [T, N, k].
        steps: Uniform numbers for the dynamics, [T, N, H, k].
    """

    actions: Tensor
    reset: Tensor
    steps: Tensor


class Rollouts(NamedTuple):
    """One episode in each of N worlds of T tasks, H steps long or shorter.

    Attributes:
        observations: What the policy saw, [T, N, H, O] float32.
        actions: What it did, before any clipping: [T, N, H, A] float32, or [T, N, H] int64.
        rewards: Reward of each step, [T, N, H] float32; 0 after the end of the episode.
        mask: 1 for the steps of the episode, 0 for those after its end; [T, N, H] float32.
        terminated: Whether the task itself ended at this step, [T, N, H] bool. An episode that did
            not terminate was truncated at its last step.
        final_observations: What was seen after the last step, [T, N, O].
        behaviour: The distributions that the actions were drawn from, [T, N, H, *].
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    mask: Tensor
    terminated: Tensor
    final_observations: Tensor
    behaviour: Distribution

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
    """Draws the randomness of `trajectories` rollouts of each of `num_tasks` tasks."""
    worlds = (num_tasks, trajectories)
    options = {"generator": generator, "device": generator.device}
    return RolloutNoise(
        policy.noise((*worlds, family.horizon), generator),
        torch.rand(*worlds, family.reset_noise, **options),
        torch.rand(*worlds, family.horizon, family.step_noise, **options),
    )


@torch.no_grad()
def collect(
    env: TensorVectorEnv, policy: Policy, params: Params, tasks: Tasks, noise: RolloutNoise
) -> Rollouts:
    """Runs one episode in every world, each task with its own policy.

    Args:
        env: T * N worlds that do not reset themselves (`autoreset="disabled"`).
        policy: The policy.
        params: Its parameters for each task, [T, *shape] per name.
        tasks: The tasks, [T, *] per name; each gets N worlds beside each other.
        noise: The randomness.

    Raises:
        ShapeError: `env` has another number of worlds than `noise` is for.
        SimulationError: A reward or an observation was not finite or an action not in the space.
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
    draws = iter(noise.actions.movedim(2, 0).contiguous().unbind())  # time first
    shape = (num_tasks, trajectories)
    policies, behaviours = policy.fixed(params), []

    def act(observation: Tensor) -> Tensor:
        behaviours.append(policies(observation.view(*shape, -1)))
        return behaviours[-1].sample(next(draws)).view(worlds, *policy.action_shape)

    episode = map_tensors(lambda v: v.unflatten(0, shape), env.episode(act))
    mask = alive(episode.terminated)
    rollouts = Rollouts(
        observations=episode.observations[:, :, :-1].contiguous(),
        actions=episode.actions,
        rewards=episode.rewards,
        mask=mask,
        terminated=episode.terminated & (mask > 0),
        final_observations=episode.observations[:, :, -1],
        behaviour=map_tensors(lambda *steps: torch.stack(steps, 2), *behaviours),
    )
    return _settled(rollouts, noise) if episode.terminated.any() else rollouts


def _settled(rollouts: Rollouts, noise: RolloutNoise) -> Rollouts:
    """Acts after the end of an episode on what it ended with, whatever was seen there then."""
    mask, count = rollouts.mask, rollouts.mask.shape[1]
    steps = mask.sum(2).long()

    def settle(values: Tensor) -> Tensor:
        # What has one place for all worlds of a task does not depend on what they see.
        return hold_last(values, steps) if values.shape[1] == count else values

    behaviour = map_tensors(settle, rollouts.behaviour)
    here = mask.view(*mask.shape, *[1] * (rollouts.actions.dim() - 3)) > 0
    actions = torch.where(here, rollouts.actions, behaviour.sample(noise.actions))
    return rollouts._replace(actions=actions, behaviour=behaviour)


def alive(terminated: Tensor) -> Tensor:
    """Returns 1 for every step up to and with the first termination, 0 afterwards.

    Args:
        terminated: Whether the task ended at a step, [..., H] bool.

    Returns:
        Shape [..., H], float32.
    """
    before = terminated.cumsum(-1) - terminated.long()
    return (before == 0).float()
