"""Checks a user-defined vector environment against the interface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from metarl.errors import SimulationError
from metarl.ranges import NOT_NEGATIVE, check_int
from metarl.sim.check_family import family_problems, outside, report
from metarl.sim.sample_actions import sample_actions
from metarl.sim.vector_env import TensorVectorEnv
from metarl.sim.world_noise import WorldNoise
from metarl.tasks.check_sampling import equal, seeded
from metarl.trees import map_tensors

FEW_STEPS = 5  # length of the runs that are compared


def check_vector_env(env: Any, seed: int = 0) -> None:
    """Checks a vector environment and its family against their interfaces.

    Runs `check_family` on the family and checks the spaces and the autoreset mode; the shapes,
    dtypes and devices of the results of `reset` and `step`; that observations are in their space;
    `truncated`; resets within a step and with a mask; that resets keep the tasks; that the same
    seed or pre-drawn numbers repeat an episode; and that `load_state_dict` continues it bit for
    bit.

    Args:
        env: The environment. It is reset and stepped, and its tasks change.
        seed: Seed of the checks.

    Raises:
        TaskError: A check failed; the message lists all problems.
    """
    title = f"{type(env).__name__} is not a usable vector environment"
    if not isinstance(env, TensorVectorEnv):
        report(title, [f"it must be derived from TensorVectorEnv, {type(env).__name__} is not"])
    seed = check_int("seed", seed, NOT_NEGATIVE)
    problems = family_problems(env.family, seed)
    problems = problems or list(_attribute_problems(env))
    problems = problems or list(_episode_problems(env, seed))
    if not problems:
        for check in (_seed_problems, _mask_problems, _task_problems, _state_dict_problems):
            problems += check(env, seed)
    report(title, problems)


class Step(NamedTuple):
    """The return value of `step`."""

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    info: dict[str, Any]


def _attribute_problems(env: TensorVectorEnv) -> Iterator[str]:
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        yield f'metadata["autoreset_mode"] must be an AutoresetMode of gymnasium, got {mode!r}'
    for name in ("observation", "action"):
        shape = getattr(env, f"{name}_space").shape
        expected = (env.num_envs, *getattr(env, f"single_{name}_space").shape)
        if shape != expected:
            yield f"`{name}_space` must have the shape {expected}, got {shape}"


# One episode


def _episode_problems(env: TensorVectorEnv, seed: int) -> Iterator[str]:
    env.follow(None)
    observation, info = env.reset(seed=seed)
    yield from _observation_problems("the observation of `reset`", observation, env)
    if not isinstance(info, dict):
        yield f"`reset` must return an observation and a dict, got {type(info).__name__}"
    elapsed = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
    for actions in _actions(env, env.family.horizon, seed):
        step = Step(*env.step(actions))
        elapsed = elapsed + 1
        problems = list(_step_problems(env, step)) or list(_end_problems(env, step, elapsed))
        if problems:
            yield from problems
            return
        done = step.terminated | step.truncated
        if env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
            elapsed = elapsed.masked_fill(done, 0)
        elif env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP:
            elapsed = elapsed.masked_fill(done, -1)  # the next step resets the world
    try:
        env.check()
    except SimulationError as error:
        yield str(error)


def _step_problems(env: TensorVectorEnv, step: Step) -> Iterator[str]:
    yield from _observation_problems("the observation of `step`", step.observation, env)
    if env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP:
        pass  # no observation is replaced
    elif "final_obs" not in step.info:
        yield '`step` must return info["final_obs"], what the step led to'
    else:
        yield from _observation_problems('info["final_obs"]', step.info["final_obs"], env)
    for name, dtype in (
        ("reward", torch.float32),
        ("terminated", torch.bool),
        ("truncated", torch.bool),
    ):
        value = getattr(step, name)
        if not _matches(value, (env.num_envs,), dtype, env.device):
            yield f"`{name}` must be [{env.num_envs}] {dtype} on {env.device}, got {_format(value)}"


def _observation_problems(what: str, value: Any, env: TensorVectorEnv) -> Iterator[str]:
    space: Any = env.single_observation_space
    shape = (env.num_envs, *space.shape)
    if not _matches(value, shape, torch.float32, env.device):
        yield f"{what} must be {list(shape)} float32 on {env.device}, got {_format(value)}"
    elif outside(space, value):
        yield f"{what} leaves the observation space {space} or is not finite"


def _matches(value: Any, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> bool:
    return (
        isinstance(value, Tensor)
        and tuple(value.shape) == shape
        and value.dtype == dtype
        and value.device.type == device.type
    )


def _format(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{list(value.shape)} {value.dtype} on {value.device}"


def _end_problems(env: TensorVectorEnv, step: Step, elapsed: Tensor) -> Iterator[str]:
    horizon, final = env.family.horizon, step.info.get("final_obs", step.observation)
    mode = env.metadata["autoreset_mode"]
    running = ~(step.terminated | step.truncated)
    late, truncated = elapsed >= horizon, step.truncated
    if env.family.may_truncate:  # the family may cut an episode off sooner
        truncated = truncated & late
    if not torch.equal(truncated, late):
        yield f"`truncated` must be true from step {horizon} of an episode on, no sooner"
    elif mode == AutoresetMode.NEXT_STEP:
        reset = elapsed == 0
        if (step.reward[reset] != 0).any() or (step.terminated & reset).any():
            yield "the step that resets a world must earn 0 and end nothing"
    elif mode == AutoresetMode.DISABLED:
        if not torch.equal(step.observation, final):
            yield "without autoreset, the observation must be what the step led to, final_obs"
    elif not torch.equal(step.observation[running], final[running]):
        yield "worlds that are not done must go on: their observation must be their final_obs"


# Comparisons of two runs


def _actions(env: TensorVectorEnv, steps: int, seed: int) -> Tensor:
    return sample_actions(env.family.action_space, (steps, env.num_envs), seed).to(env.device)


def _run(env: TensorVectorEnv, seed: int) -> list[Any]:
    return [env.step(a) for a in _actions(env, FEW_STEPS, seed)]


def _seed_problems(env: TensorVectorEnv, seed: int) -> list[str]:
    problems = []
    first = (env.reset(seed=seed)[0], _run(env, seed))
    if not equal(first, (env.reset(seed=seed)[0], _run(env, seed))):
        problems.append("the same seed and actions give another episode")
    family, worlds = env.family, env.num_envs
    generator = seeded(seed)
    noise = WorldNoise(
        torch.rand(worlds, family.reset_noise, generator=generator),
        torch.rand(worlds, family.horizon, family.step_noise, generator=generator),
    )
    env.follow(noise)
    first = (env.reset()[0], _run(env, seed))
    if not equal(first, (env.reset()[0], _run(env, seed))):
        problems.append("the same numbers of `follow` and actions give another episode")
    env.follow(None)
    return problems


def _mask_problems(env: TensorVectorEnv, seed: int) -> list[str]:
    env.reset(seed=seed)
    before = env.step(_actions(env, 1, seed)[0])[0].clone()
    mask = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
    mask[0] = True
    after, _ = env.reset(options={"reset_mask": mask})
    if not torch.equal(after[1:], before[1:]):
        return ["a reset with a mask changes worlds that it does not mark"]
    return []


def _task_problems(env: TensorVectorEnv, seed: int) -> list[str]:
    problems = []
    tasks = env.family.sample(env.num_envs, seeded(seed + 1)).values
    tasks = {n: v.to(env.device) for n, v in tasks.items()}
    env.set_tasks(tasks)
    if not equal(env.get_tasks(), tasks):
        problems.append("`get_tasks` does not return what `set_tasks` was given")
    env.reset(seed=seed)
    _run(env, seed)
    if not equal(env.get_tasks(), tasks):
        problems.append("tasks do not survive `reset` and `step`")
    map_tensors(Tensor.zero_, env.get_tasks())
    if not equal(env.get_tasks(), tasks):
        problems.append("`get_tasks` gives away the tasks themselves; return copies")
    return problems


def _state_dict_problems(env: TensorVectorEnv, seed: int) -> list[str]:
    env.reset(seed=seed)
    _run(env, seed)
    saved = env.state_dict()
    first = _run(env, seed + 1)
    env.load_state_dict(saved)
    if not equal(first, _run(env, seed + 1)):
        return ["after `load_state_dict` the episode continues in another way"]
    return []
