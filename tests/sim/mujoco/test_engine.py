"""The MuJoCo engine: its threads, its warnings, going on to the bit; see test_model_engines.py."""

from dataclasses import replace

import pytest
import torch
from metarl_envs import HalfCheetahVelocity

from metarl.errors import SettingsError, SimulationError
from metarl.sim import Mass, MujocoTasks, MujocoVectorEnv, Uniform, make_vec
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


BOXES = """<mujoco><size memory="1M"/><worldbody><geom type="plane" size="5 5 1"/>
  <body name="drone" pos="0 0 0.1"><freejoint/><geom type="box" size=".1 .1 .1" mass="1"/>
    <site name="rotor"/></body>
  <body name="crate" pos="0.15 0 0.1"><freejoint/><geom type="box" size=".1 .1 .1"/></body>
  </worldbody><actuator><motor site="rotor" gear="0 0 20 0 0 0" ctrlrange="0 1"/></actuator>
</mujoco>"""


class Boxes(MujocoTasks):
    """Boxes that touch; a load moves the centre of mass of one of them where `field` names it."""

    name, model, frame_skip, horizon = "Boxes-v1", BOXES, 2, 20
    parameters = {"load": Mass("drone", Uniform(0.5, 2))}  # noqa: RUF012
    field = ""

    def model_fields(self, tasks):
        if not self.field:
            return super().model_fields(tasks)
        places = self.default(self.field, tasks["load"].double()).repeat(len(tasks["load"]), 1, 1)
        places[:, 1, 0] = 0.1 * tasks["load"].double()
        return {self.field: places}

    def reward(self, before, actions, after, tasks):
        return after["qpos"][:, 2].float()


def test_a_body_whose_centre_of_mass_moves_is_named_where_the_model_has_to_allow_it():
    with pytest.raises(SimulationError, match=r"simple='false'.*The body is 'drone'"):
        make_vec(Boxes(field="body_ipos"), 2, device="cpu")
    allowed = BOXES.replace('name="drone"', 'name="drone" simple="false"')
    make_vec(Boxes(field="body_ipos", model=allowed), 2, device="cpu").reset()


def test_a_model_without_enough_memory_is_named():
    env = make_vec(Boxes(model=BOXES.replace("1M", "14K")), 2, device="cpu")
    with pytest.raises(SimulationError, match=r"cannot simulate world . of Boxes-v1.*size memory"):
        env.reset()
        env.step(torch.zeros(2, 1))


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
