"""The MuJoCo engine: its threads, its warnings, going on to the bit; see test_model_engines.py."""

from dataclasses import replace

import pytest
import torch
from metarl_envs import HalfCheetahVelocity

from metarl.errors import SettingsError
from metarl.sim import MujocoVectorEnv, make_vec
from tests.sim.families import Cart
from tests.sim.robots import ARM, Arms


def test_threads_are_checked():
    with pytest.raises(SettingsError, match=r"`threads` in \[0, 1024\], got -1"):
        make_vec(Cart(), 4, device="cpu", engine="mujoco", threads=-1)


def test_the_torch_engine_refuses_a_model():
    with pytest.raises(SettingsError, match="Expected a TorchFamily, got Cart"):
        make_vec(Cart(), 2, device="cpu", engine="torch")


def test_bodies_may_sleep():
    """MuJoCo then keeps more than the state of a world."""
    sleeping = ARM.replace('timestep="0.005"/>', 'timestep="0.005"><flag sleep="enable"/></option>')
    states = []
    for model in (ARM, sleeping):
        family = Arms(model=model, start_noise=0.0, horizon=200)
        env = make_vec(family, 2, device="cpu", autoreset="disabled")
        env.set_tasks({n: torch.ones_like(v) for n, v in env.get_tasks().items()})
        env.reset()
        for action in (0.0, *[0.5] * 5):
            env.step(torch.full((2, 2), action))
        states.append(env.snapshot(1)[0]["qpos"])
    assert states[0].abs().max() > 0.01
    torch.testing.assert_close(*states)


def test_a_saved_episode_goes_on_to_the_bit_whatever_the_threads():
    family = replace(HalfCheetahVelocity(), horizon=30)
    shape = (60, 5, 6)
    actions = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first = MujocoVectorEnv(family, 5, threads=2, seed=4)
    first.reset()
    for a in actions[:20]:
        first.step(a)
    saved = first.state_dict()
    expected = [first.step(a) for a in actions[20:]]
    second = MujocoVectorEnv(family, 5, threads=1)
    second.load_state_dict(saved)
    for a, values in zip(actions[20:], expected, strict=True):
        for value, there in zip(second.step(a)[:4], values[:4], strict=True):
            assert torch.equal(value, there)
