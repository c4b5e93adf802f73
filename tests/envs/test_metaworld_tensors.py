"""The families of tensors against Meta-World's own environments, over whole episodes."""

import warnings
from importlib import import_module

import numpy as np
import pytest
import torch
from metarl_envs import MetaWorldPickPlace, MetaWorldPush, MetaWorldReach
from metarl_envs.metaworld import benchmark_split
from metarl_envs.metaworld_package import is_installed

from metarl.sim import make_vec

pytestmark = pytest.mark.skipif(not is_installed(), reason="Meta-World is not installed")

FAMILIES = {"reach": MetaWorldReach, "push": MetaWorldPush, "pick-place": MetaWorldPickPlace}
NUMBER = 2  # of goals


def scripted(name):
    """Meta-World's own policy for a task; it sees the goal."""
    title = "".join(part.capitalize() for part in name.split("-"))
    module = import_module(f"metaworld.policies.sawyer_{name.replace('-', '_')}_v3_policy")
    return getattr(module, f"Sawyer{title}V3Policy")()


def originals(name, seed=0):
    """Meta-World's environments with the first training goals."""
    split = benchmark_split(f"{name}-v3", "train", seed)
    envs = [split.classes[f"{name}-v3"]() for _ in range(NUMBER)]
    for env, task in zip(envs, split.tasks, strict=False):
        env.set_task(task)
    return envs


def chosen(kind, policy, observations, envs, random):
    """The actions of all worlds: random ones, the policy's, or the policy's with noise."""
    actions = []
    for seen, env in zip(observations, envs, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the policies exceed the action space
            action = policy.get_action(np.concatenate((seen[:-3], env._target_pos)))
        noise = random.standard_normal(4)
        values = {"random": random.uniform(-1.2, 1.2, 4), "scripted": action.clip(-1, 1)}
        actions.append(values.get(kind, action.clip(-1, 1) + 0.5 * noise).astype(np.float32))
    return np.stack(actions)


def largest_errors(name, kind, steps, engine="mujoco"):
    """The largest errors of observations, rewards and success, and the final success."""
    family = FAMILIES[name](horizon=steps)
    world = make_vec(family, NUMBER, device="cpu", engine=engine, autoreset="disabled")
    world.set_tasks(family.tasks_at(torch.arange(NUMBER)).values)
    envs, policy, random = originals(name), scripted(name), np.random.default_rng(0)
    theirs, mine = np.stack([env.reset()[0] for env in envs]), world.reset()[0]
    errors, succeeded = np.zeros(3), np.zeros(NUMBER)
    errors[0] = np.abs(mine.numpy() - theirs).max()
    for _ in range(steps):
        actions = chosen(kind, policy, theirs, envs, random)
        mine, reward, _, _, info = world.step(torch.from_numpy(actions))
        results = [env.step(a) for env, a in zip(envs, actions, strict=True)]
        theirs = np.stack([r[0] for r in results])
        succeeded = np.maximum(succeeded, [r[4]["success"] for r in results])
        found = (mine.numpy() - theirs, reward.numpy() - [r[1] for r in results],
                 info["metrics"]["success"].numpy() - succeeded)  # fmt: skip
        errors = np.maximum(errors, [np.abs(f).max() for f in found])
    world.check()
    return errors, succeeded


def test_reach_is_metaworlds_for_a_while():
    errors, _ = largest_errors("reach", "noisy", 20)
    assert errors.max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "scripted", "noisy"])
@pytest.mark.parametrize("name", FAMILIES)
def test_whole_episodes_are_metaworlds(name, kind):
    errors, succeeded = largest_errors(name, kind, 500)
    assert errors.max() < 1e-5
    if kind == "scripted":
        assert succeeded.all()


@pytest.mark.slow
def test_goals_are_those_of_its_benchmarks():
    for name, build in FAMILIES.items():
        for part in ("train", "test"):
            envs = benchmark_split(f"{name}-v3", part, 7)
            tasks = build(seed=7).split(part).tasks_at(torch.arange(3)).values
            env = envs.classes[f"{name}-v3"]()
            for row in range(3):
                env.set_task(envs.tasks[row])
                env.reset()
                np.testing.assert_allclose(tasks["goal"][row], env._target_pos, atol=1e-12)
                np.testing.assert_allclose(tasks["object"][row], env.obj_init_pos, atol=1e-12)


@pytest.mark.slow
def test_warp_is_near(tmp_path):
    pytest.importorskip("mujoco_warp")
    errors, _ = largest_errors("reach", "scripted", 30, engine="warp")
    assert errors[0] < 1e-3 and errors[1] < 1e-2 and errors[2] == 0
