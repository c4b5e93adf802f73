"""rllab's robots: time, models, starts, and what is seen and paid, against MuJoCo's own numbers."""

import mujoco
import numpy as np
import pytest
import torch
from metarl_envs import (
    AntDirectionRllab,
    AntVelocityRllab,
    HalfCheetahDirectionRllab,
    HalfCheetahVelocity,
    HalfCheetahVelocityRllab,
)

from tests.envs.test_locomotion import actions, started

CHEETAHS = [HalfCheetahVelocityRllab(), HalfCheetahDirectionRllab()]
ANTS = [AntVelocityRllab(), AntDirectionRllab()]
POSE = [0, 0, 0.55, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1]


@pytest.mark.parametrize(("families", "dt", "size"), [(CHEETAHS, 0.01, 20), (ANTS, 0.02, 125)])
def test_time_and_sizes_are_rllabs(families, dt, size):
    for family in families:
        assert (family.dt, family.frame_skip, family.horizon) == (dt, 1, 200)
        assert family.observation_space.shape == (size,)
        assert family.action_space.high.tolist() == [1] * family.compiled.nu


def test_the_ant_has_rllabs_contacts_and_torques():
    model, own = ANTS[0].compiled, HalfCheetahVelocityRllab().compiled
    solimp = np.tile([0.8, 0.8, 0.01], (model.ngeom, 1))
    np.testing.assert_allclose(model.geom_solimp[:, :3], solimp)
    np.testing.assert_allclose(model.geom_solref, np.tile([0.02, 1], (model.ngeom, 1)))
    np.testing.assert_array_equal(model.actuator_gear[:, 0], 150)
    assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    assert own.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER
    assert HalfCheetahVelocity().compiled is own


def expected_pay(family, tasks, speed, effort):
    if "direction" in tasks:
        pay = tasks["direction"][1] * speed
    else:
        pay = -abs(speed - tasks["velocity"][1])
    alive = {"AntVelocityRllab-v1": 1.05, "AntDirectionRllab-v1": 0.05}.get(family.name, 0)
    return pay + alive - (0.005 if "Ant" in family.name else 0.05) * effort


@pytest.mark.parametrize("family", [*CHEETAHS, *ANTS], ids=lambda family: family.name)
def test_what_is_seen_and_paid_is_rllabs(family):
    env, data = started(family), mujoco.MjData(family.compiled)
    for a in actions(family, 10, 3, seed=4):
        seen, reward, *_ = env.step(a)
        state = env.state_dict()["state"]
        data.qpos[:], data.qvel[:] = state["qpos"][1], state["qvel"][1]
        mujoco.mj_forward(family.compiled, data)
        mujoco.mj_subtreeVel(family.compiled, data)
        parts = [data.qpos[1:], data.qvel, data.subtree_com[1]]
        if family in ANTS:
            parts = [data.qpos, data.qvel, np.zeros(84), data.xmat[1], data.subtree_com[1]]
        np.testing.assert_allclose(seen[1], np.concatenate(parts), rtol=1e-6, atol=1e-6)
        effort = a[1].clamp(-1, 1).square().sum()
        expected = expected_pay(family, env.get_tasks(), data.subtree_linvel[1, 0], effort)
        torch.testing.assert_close(reward[1], expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [CHEETAHS[0], ANTS[0]], ids=["cheetah", "ant"])
def test_starts_are_rllabs(family):
    noise = torch.rand(4000, family.reset_noise, generator=torch.Generator().manual_seed(0))
    state = family.reset({}, noise)
    pose = torch.zeros(9) if family is CHEETAHS[0] else torch.tensor(POSE)
    for values, scale in ((state["qpos"] - pose, 0.01), (state["qvel"], 0.1)):
        torch.testing.assert_close(values.std(0) / scale, values[0] * 0 + 1, rtol=0.05, atol=0)
        assert (values.mean(0).abs() < 0.06 * scale).all()
        assert values.abs().max() > 3.5 * scale  # normal, not uniform


def test_only_the_ant_falls():
    for family, heights in ((CHEETAHS[0], {0.1: False}), (ANTS[0], {0.19: True, 0.5: False})):
        state = family.reset({}, torch.full((2, family.reset_noise), 0.5))
        for height, ends in heights.items():
            state["qpos"][1, 2] = height
            assert family.terminated(state, {}).tolist() == [False, ends]


def test_cards_say_what_is_not_rllabs():
    card = str(ANTS[0].card())
    for text in ("84 zeros", "uses MuJoCo 1.31", "timestep=0.02", "dt = 0.02 s", "contact forces"):
        assert text in card
    assert "1 step of 0.01 s" in str(CHEETAHS[0].card())
