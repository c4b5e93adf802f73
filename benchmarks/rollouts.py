"""Closed loops of a policy and a vector environment, to be timed."""

from __future__ import annotations

from collections.abc import Callable

import torch

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
    generator = torch.Generator().manual_seed(0)
    spaces = (env.single_observation_space, env.single_action_space)
    policy = policy_for(spaces, generator)
    params = {n: p.detach().to(env.device, copy=True) for n, p in task_params(policy, 1).items()}
    policy.to(env.device)
    observation, _ = env.reset(seed=0)
    draws = policy.noise((steps, 1, env.num_envs), generator).to(env.device)

    @torch.no_grad()
    def run() -> None:
        nonlocal observation
        for draw in draws:
            actions = policy.distribution(params, observation.unsqueeze(0)).sample(draw)
            observation, *_ = env.step(actions[0])
        env.check()

    return run
