"""Rollouts of a policy in a vector environment, for timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metarl.models.base import task_params
from metarl.rl.policies import policy_for
from metarl.sim import TensorVectorEnv


def rollouts(env: TensorVectorEnv, steps: int) -> Callable[[], None]:
    """Returns a function that steps an environment with a policy (2 x 100).

    The policy is on the environment's device. A call ends with `check`, which synchronises with the
    device.

    Args:
        env: The environment; it is reset once and keeps its state between calls.
        steps: Steps per call.
    """
    acts, draws = _policy(env, steps)
    observation, _ = env.reset(seed=0)

    @torch.no_grad()
    def run() -> None:
        nonlocal observation
        for draw in draws:
            observation, *_ = env.step(acts(observation, draw))
        env.check()

    return run


def episodes(env: TensorVectorEnv) -> Callable[[], None]:
    """Returns a function that runs an episode with a policy (2 x 100), as in training.

    Args:
        env: The environment, with autoreset disabled.
    """
    acts, draws = _policy(env, env.family.horizon)

    @torch.no_grad()
    def run() -> None:
        numbers = iter(draws)
        env.episode(lambda observation: acts(observation, next(numbers)))

    return run


def _policy(
    env: TensorVectorEnv, steps: int
) -> tuple[Callable[[Tensor, Tensor], Tensor], Sequence[Tensor]]:
    """Returns a policy (observations, noise) -> actions, and the noise of each step."""
    generator = torch.Generator().manual_seed(0)
    policy = policy_for((env.single_observation_space, env.single_action_space), generator)
    draws = policy.noise((steps, 1, env.num_envs), generator).to(env.device)
    policy.to(env.device)
    with torch.no_grad():
        distribution = policy.fixed(task_params(policy, 1))
    return lambda seen, draw: distribution(seen.unsqueeze(0)).sample(draw)[0], draws.unbind()
