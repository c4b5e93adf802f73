"""The MuJoCo engine: its threads, its warnings, going on to the bit; see test_model_engines.py."""

from dataclasses import replace

import pytest
import torch
from metarl_envs import HalfCheetahVelocity

from metarl.errors import SettingsError
from metarl.sim import MujocoVectorEnv, make_vec
from tests.sim.families import Cart


def test_threads_are_checked():
    with pytest.raises(SettingsError, match="at least 0 threads, got -1"):
        make_vec(Cart(), 4, device="cpu", engine="mujoco", threads=-1)


def test_the_torch_engine_refuses_a_model():
    with pytest.raises(SettingsError, match="Expected a TorchFamily, got Cart"):
        make_vec(Cart(), 2, device="cpu", engine="torch")


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
