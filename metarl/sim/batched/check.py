"""Checks of a batched simulator: what its tasks change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metarl.sim.batched.engine import BatchedVectorEnv
from metarl.sim.family import Tasks
from metarl.sim.sample_actions import sample_actions
from metarl.tasks.check_sampling import seeded

MOST_WORLDS = 64
MOST_STEPS = 100


def simulator_problems(family: Any, seed: int) -> Iterator[str]:
    """Yields what is wrong with the tasks of a `VectorEnvTasks`, in episodes of random actions.

    Args:
        family: The family.
        seed: Seed of the tasks, the resets and the actions.

    Raises:
        SimulationError: The simulator raises, or returns values that do not fit its spaces.
    """
    env = BatchedVectorEnv(family, min(family.worlds, MOST_WORLDS))
    tasks = family.sample(env.num_envs, seeded(seed)).values
    played = _played(env, tasks, seed)
    if not torch.equal(played, _played(env, tasks, seed)):
        return  # not even the same tasks give the same
    half = (env.num_envs + 1) // 2
    for name in family.own:
        other = _others(family, tasks, name, seed)[:half]
        values = torch.cat([other, tasks[name][half:]])
        changed = _played(env, {**tasks, name: values}, seed)
        if torch.equal(changed[:half], played[:half]):
            yield (
                f"the parameter {name!r} changes neither observations nor rewards in episodes of "
                f"{played.shape[1] - 1} random actions: `set_tasks` must give it to the dynamics, "
                "with what is computed from it"
            )
        elif not torch.equal(changed[half:], played[half:]):
            yield (
                f"the parameter {name!r} of the first {half} worlds changes the others: "
                "`set_tasks` must give each world its own value"
            )


def _others(family: Any, tasks: Tasks, name: str, seed: int) -> Tensor:
    """Returns values of a parameter, [W]; not all of them are those of the tasks."""
    values = tasks[name]
    for other in range(1, 100):
        values = family.sample(len(tasks[name]), seeded(seed + other)).values[name]
        if not (values == tasks[name]).any():
            break
    return values


def _played(env: BatchedVectorEnv, tasks: Tasks, seed: int) -> Tensor:
    """Returns observations and rewards of an episode, [W, L + 1, O + 1].

    Raises:
        SimulationError: One of them is not finite.
    """
    env.set_tasks(tasks)
    observation, _ = env.reset(seed=seed)
    steps = [torch.cat([observation, observation.new_zeros(env.num_envs, 1)], 1)]
    for step in range(min(env.family.horizon, MOST_STEPS)):
        actions = sample_actions(env.family.action_space, (env.num_envs,), seed + step)
        observation, reward, *_ = env.step(actions)
        steps.append(torch.cat([observation, reward.unsqueeze(1)], 1))
    env.check()
    return torch.stack(steps, 1)
