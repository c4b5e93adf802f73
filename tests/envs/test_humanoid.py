"""The humanoid: gymnasium's dynamics to the bit, ProMP's reward, and another solver."""

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from metarl_envs import HumanoidDirection

from metarl.errors import SettingsError
from tests.envs.test_locomotion import actions, started

DERIVED = ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")


def test_dynamics_and_observations_are_gymnasiums_to_the_bit():
    family = HumanoidDirection()
    env = started(family)
    without = {f"include_{name}_in_observation": False for name in DERIVED}
    theirs = gymnasium.make("Humanoid-v5", **without).unwrapped
    assert theirs.dt == family.dt
    theirs.reset(seed=0)
    start = env.state_dict()["state"]
    theirs.set_state(start["qpos"][1].numpy(), start["qvel"][1].numpy())
    for a in actions(family, 20, 3):
        seen, _, ended, *_ = env.step(a)
        expected, _, fell, *_ = theirs.step(a[1].clamp(-0.4, 0.4).numpy())
        now = env.state_dict()["state"]
        assert np.array_equal(now["qpos"][1], theirs.data.qpos)
        assert np.array_equal(now["qvel"][1], theirs.data.qvel)
        assert np.array_equal(seen[1], expected.astype(np.float32))
        assert ended[1] == fell
        if fell:
            break
    theirs.close()


def centre(family, qpos):
    data = mujoco.MjData(family.compiled)
    data.qpos[:] = qpos
    mujoco.mj_forward(family.compiled, data)
    return data.subtree_com[0, 0]


def test_the_velocity_of_the_centre_of_mass_pays_in_the_tasks_direction():
    env = started(HumanoidDirection(), 4)
    tasks = env.get_tasks()
    env.set_tasks({"direction": torch.tensor([1.0, -1.0, 1.0, -1.0])})
    for a in actions(env.family, 5, 4):
        before = env.state_dict()["state"]["qpos"]
        reward, after = env.step(a)[1], env.state_dict()["state"]["qpos"]
        for world, direction in enumerate((1, -1, 1, -1)):
            moved = centre(env.family, after[world]) - centre(env.family, before[world])
            effort = a[world].clamp(-0.4, 0.4).square().sum()
            expected = 1.25 * direction * moved / 0.015 + 5 - 0.1 * effort
            torch.testing.assert_close(reward[world], expected.float(), rtol=1e-4, atol=1e-4)
    assert set(tasks["direction"].tolist()) <= {-1, 1}


@pytest.mark.parametrize(("height", "ends"), [(0.99, True), (1.01, False), (2.01, True)])
def test_falls_end_the_episode(height, ends):
    family = HumanoidDirection()
    state = family.reset({}, torch.full((1, family.reset_noise), 0.5))
    state["qpos"][0, 2] = height
    assert family.terminated(state, {}).tolist() == [ends]


def test_the_solver_is_chosen():
    own, newton = HumanoidDirection(), HumanoidDirection(solver="Newton")
    assert own.compiled.opt.solver == mujoco.mjtSolver.mjSOL_PGS
    assert newton.compiled.opt.solver == mujoco.mjtSolver.mjSOL_NEWTON
    assert "option solver=Newton" in str(newton.card())
    np.testing.assert_array_equal(newton.compiled.body_mass, own.compiled.body_mass)
    with pytest.raises(SettingsError, match=r"solver 'newton'\. Did you mean 'Newton'"):
        HumanoidDirection(solver="newton")
