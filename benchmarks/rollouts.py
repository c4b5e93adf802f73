"""Closed loops of a policy and a vector environment, to be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metarl.models.base import task_params
from metarl.rl.policies import policy_for
from metarl.sim import TensorVectorEnv


def rollouts(env: TensorVectorEnv, steps: int) -> Callable[[], None]:
    """Returns a function that takes steps with a policy (2 x 100), rewards and observations.

    The policy is where the environment's tensors are. A call ends when the device is done: `check`
    waits for it.

    Args:
        env: The environment; it is reset now, and goes on from call to call.
        steps: Steps of a call.
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
    """Returns a function that runs a whole episode with a policy, as training does.

    Args:
        env: The environment; its worlds do not reset themselves.
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
    """Returns what acts on observations and random numbers, and these numbers, step by step."""
    generator = torch.Generator().manual_seed(0)
    policy = policy_for((env.single_observation_space, env.single_action_space), generator)
    draws = policy.noise((steps, 1, env.num_envs), generator).to(env.device)
    policy.to(env.device)
    with torch.no_grad():
        distribution = policy.fixed(task_params(policy, 1))
    return lambda seen, draw: distribution(seen.unsqueeze(0)).sample(draw)[0], draws.unbind()
