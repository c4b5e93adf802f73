"""The Warp engine: as MuJoCo's own, in float32; room, captures, streams, settings, the extra."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metarl_envs import AntVelocity, HalfCheetahVelocity, HopperRandomParameters

from metarl.errors import SettingsError, SimulationError
from metarl.sim import (
    ControlTasks,
    MujocoVectorEnv,
    WarpVectorEnv,
    WorldNoise,
    make,
    make_vec,
)
from metarl.sim.sample_actions import sample_actions
from tests.fake_cuda import fake_cuda
from tests.sim.families import CART, Cart
from tests.sim.warp.devices import prepare_warp

PUCK = """
<mujoco>
  <option timestep="0.01" integrator="Euler"/>
  <worldbody>
    <geom type="plane" size="9 9 1"/>
    <body pos="0 0 0.3">
      <joint type="slide" axis="1 0 0" range="-0.3 0.3" limited="true"/>
      <joint type="slide" axis="0 0 1"/>
      <joint type="hinge" axis="0 1 0"/>
      <geom type="sphere" pos="-0.1 0 0" size="0.1" mass="1"/>
      <geom type="sphere" pos="0.1 0 0" size="0.1" mass="1"/>
    </body>
  </worldbody>
  <actuator><motor joint="0" gear="5" ctrlrange="-1 1" ctrllimited="true"/></actuator>
</mujoco>
""".replace("<joint type", '<joint name="0" type', 1)


@dataclass(frozen=True)
class Puck(Cart):
    """A puck falls on a slope of a task's steepness and friction, and is pushed along it."""

    horizon: int = 60
    model: str = PUCK

    name = "Puck-v1"
    reset_noise = 6

    @property
    def observation_space(self):
        return spaces.Box(-np.inf, np.inf, (6,), np.float32)

    def sample(self, num_tasks, generator):
        draws = torch.rand(2, num_tasks, generator=generator, device=generator.device)
        return ControlTasks({"slope": draws[0] - 0.5, "friction": draws[1]})

    def model_fields(self, tasks):
        slope, friction = tasks["slope"], tasks["friction"].view(-1, 1, 1)
        gravity = 9.81 * torch.stack([slope.sin(), torch.zeros_like(slope), -slope.cos()], 1)
        return {
            "opt.gravity": gravity,
            "geom_friction": self.default("geom_friction", friction) * friction,
        }

    def initial(self, noise, tasks):
        return 0.2 * noise[:, :3], noise[:, 3:] - 0.5

    def observe(self, state, tasks):
        return torch.cat([state["qpos"], state["qvel"]], 1).float()

    def terminated(self, state, tasks):
        return state["qpos"][:, 0] > 9

    def task_vector(self, tasks):
        return torch.stack([tasks["slope"], tasks["friction"]], 1)


def both(family, worlds, device="cpu", **settings):
    """The Warp engine and MuJoCo's own with the same tasks."""
    settings = {"autoreset": "disabled", "seed": 1, **settings}
    warp = WarpVectorEnv(family, worlds, device=device, **settings)
    own = MujocoVectorEnv(family, worlds, device=device, threads=1, **settings)
    return warp, own


def errors(warp, own, steps, seed=3):
    """Differences of observations after each step, [steps, W, O]."""
    first, second = (env.reset(seed=seed)[0] for env in (warp, own))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    found = []
    for actions in sample_actions(own.family.action_space, (steps, own.num_envs), 2):
        seen, expected = (env.step(actions) for env in (warp, own))
        assert seen[0].dtype == torch.float32
        assert torch.equal(seen[2], expected[2])
        found.append((seen[0] - expected[0]).abs())
    warp.check()
    return torch.stack(found)


@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_it_steps_as_mujocos_own_engine_does(warp_device, autoreset):
    warp, own = both(Puck(), 16, warp_device, autoreset=autoreset)
    assert torch.equal(warp.get_tasks()["slope"], own.get_tasks()["slope"])
    found = errors(warp, own, 50)  # they fall, roll against the end and stay there
    assert found[:4].max() < 1e-5
    assert found.amax(2).median(1).values.max() < 1e-4  # each bounce makes more of a difference
    assert own.step(torch.zeros(16, 1))[0][:, 1].max() < -0.15  # they have fallen


def test_ends_and_fresh_starts_draw_the_same_numbers(warp_device):
    warp, own = both(Cart(), 8, warp_device, autoreset="same_step")
    assert errors(warp, own, 20).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "most"),
    [(HalfCheetahVelocity(), 1e-3), (HopperRandomParameters(), 1e-4), (AntVelocity(), 1e-3)],
)
def test_robots_move_as_in_mujocos_own_engine(warp_device, family, most):
    if isinstance(family, AntVelocity):  # Warp turns pyramidal cones at capsules another way
        family = elliptic(family)
    warp, own = both(family, 32, warp_device)
    found = errors(warp, own, 5).amax(2)[-1]
    assert found.median() < most / 10
    assert found.quantile(0.8) < most


def elliptic(family):
    """The family with friction cones that no frame of a contact makes different."""
    with open(family.model) as file:
        text = file.read()
    option = '<option cone="elliptic" '
    assert text.count("<option ") == 1
    model = property(lambda self: text.replace("<option ", option))
    return type("Elliptic", (type(family),), {"model": model})()


def uncaptured(physics, name):
    """Does at once what a graph was captured of."""

    def run():
        with physics._on_torch_stream():
            getattr(physics, name)()

    return run


def test_captured_steps_equal_direct_ones(warp_device, monkeypatch):
    warp = WarpVectorEnv(Puck(), 4, device=warp_device, deterministic=True)
    actions = sample_actions(warp.family.action_space, (8, 4), 0)
    runs = []
    for direct in (False, True):
        if direct:
            monkeypatch.setattr(warp.physics, "reset", uncaptured(warp.physics, "_reset"))
            monkeypatch.setattr(warp.physics, "step", uncaptured(warp.physics, "_step"))
        runs.append([warp.reset(seed=0)[0], *(warp.step(a)[0] for a in actions)])
    for captured, expected in zip(*runs, strict=True):
        assert torch.equal(captured, expected)


def test_a_saved_episode_goes_on_to_the_bit_elsewhere(warp_device):
    first, second = (
        WarpVectorEnv(Puck(), 4, device=warp_device, deterministic=True, seed=s) for s in (0, 1)
    )
    first.reset()
    actions = sample_actions(first.family.action_space, (100, 4), 0)
    for a in actions[:30]:  # in contact: the solver starts from the last solution
        first.step(a)
    second.load_state_dict(first.state_dict())
    for a in actions[30:]:
        for value, expected in zip(second.step(a)[:4], first.step(a)[:4], strict=True):
            assert torch.equal(value, expected)


@pytest.mark.parametrize(
    ("room", "message"),
    [
        ({"njmax": 1}, r"out of room in world \d \(.*NEFC.*\): .* njmax 1 for constraints"),
        ({"nconmax": 1}, r"out of room in world \d \(.*PHASE.*\): .*nconmax 1 for contacts"),
    ],
)
def test_worlds_that_run_out_of_room_are_named(warp_device, room, message):
    env = WarpVectorEnv(Puck(), 4, device=warp_device, **room)
    env.reset()
    with pytest.raises(SimulationError, match=message):
        for _ in range(40):
            env.step(torch.zeros(4, 1))
        env.check()
    env.reset()
    assert env.diagnosis() == ""


def test_a_solver_that_warp_lacks_gives_way_to_newtons(warp_device):
    family = Cart(model=CART.replace("<option ", '<option solver="PGS" '))
    env = WarpVectorEnv(family, 2, device=warp_device)
    env.reset()
    env.step(torch.ones(2, 1))
    env.check()
    assert family.compiled.opt.solver == 0


class Priority(Cart):
    """A family whose tasks change what Warp has only once."""

    def model_fields(self, tasks):
        return {"geom_priority": tasks["mass"].unsqueeze(1)}


OVERRIDE = CART.replace("</worldbody>", "</worldbody>").replace(
    'integrator="Euler"/>', 'integrator="Euler"><flag override="enable"/></option>'
)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (Priority(), {}, "one 'geom_priority' for all worlds.* engine='mujoco'"),
        (Cart(model=OVERRIDE), {}, "cannot run this model: .*OVERRIDE.* engine='mujoco'"),
        (Cart(), {"nconmax": 0}, "`nconmax` of at least 1, got 0"),
        (Cart(), {"physics_device": "gpu"}, "Expected auto, cpu, cuda or cuda:N, got 'gpu'"),
    ],
)
def test_what_it_cannot_run(warp_device, family, settings, message):
    with pytest.raises(SettingsError, match=message):
        WarpVectorEnv(family, 2, device=warp_device, **settings)


@pytest.mark.parametrize("missing", ["warp", "mujoco_warp"])
def test_the_extra_is_named_where_it_is_missing(missing, monkeypatch):
    if missing == "mujoco_warp":
        pytest.importorskip("warp", reason="needs the extra: metarl[warp]")
    for name in ("physics", "kernels"):
        monkeypatch.delitem(sys.modules, f"metarl.sim.warp.{name}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SettingsError, match=rf"needs {missing}, .* pip install 'metarl\[warp\]'"):
        make_vec(Cart(), 2, device="cpu", engine="warp")


@pytest.mark.parametrize(
    ("device", "there", "expected"),
    [("cuda", True, "warp"), ("cuda", False, "mujoco"), ("cpu", True, "mujoco")],
)
def test_the_engine_is_found(device, there, expected, monkeypatch):
    class BuiltError(Exception): ...

    def build(*args, device, **settings):
        raise BuiltError(device.type)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("metarl.sim.warp.engine.runs_on", lambda device: there)
    monkeypatch.setitem(make.ENGINES._values, expected, build)
    with pytest.raises(BuiltError, match=device):
        make_vec(Cart(), 2, device)


# What only a GPU can show


@pytest.mark.gpu
@pytest.mark.parametrize("family", [Puck(), HalfCheetahVelocity(), AntVelocity()])
def test_nothing_waits_for_the_device(family):
    prepare_warp("cuda")
    env = WarpVectorEnv(family, 64, device="cuda")
    actions = sample_actions(family.action_space, (5, 64), 0).cuda()
    env.reset()
    env.step(actions[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        observations = [env.step(a)[0] for a in actions]  # a synchronisation raises
    finally:
        torch.cuda.set_sync_debug_mode("default")
    env.check()
    assert all(o.isfinite().all() for o in observations)


@pytest.mark.gpu
def test_a_stream_of_torchs_own_is_kept_in_order():
    prepare_warp("cuda")
    runs = []
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            env = WarpVectorEnv(Puck(), 4096, device="cuda", deterministic=True)
            actions = sample_actions(env.family.action_space, (50, 4096), 0).cuda()
            runs.append([env.reset(seed=0)[0], *(env.step(a)[0] for a in actions)])
        torch.cuda.synchronize()
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def prepared_steps(device, physics, worlds=64, steps=20):
    """Observations after each step, [steps, W, O], with tasks and noise that the CPU has drawn."""
    family = Puck()
    env = WarpVectorEnv(
        family, worlds, device=device, physics_device=physics, autoreset="disabled",
        deterministic=True,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    env.set_tasks(family.sample(worlds, generator).values)
    noise = torch.rand(worlds, family.reset_noise, generator=generator)
    env.follow(WorldNoise(noise, torch.empty(worlds, family.horizon, 0)))
    seen = [env.reset()[0]]
    seen += [env.step(a)[0] for a in sample_actions(family.action_space, (steps, worlds), 2)]
    env.check()
    return torch.stack(seen).cpu()


def test_tensors_on_another_device_get_copies_that_are_waited_for():
    """The physics run on the CPU; the tensors seem to be on CUDA."""
    prepare_warp("cpu")
    expected = prepared_steps("cpu", "cpu", 8)
    with fake_cuda() as fake:
        seen = prepared_steps("cuda", "cpu", 8)
    assert fake.devices and not fake.non_blocking
    assert torch.equal(seen, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("physics", ["cpu", "cuda"])
def test_copies_between_devices_change_nothing(physics):
    """Only where the tensors are differs.

    Drawn on CUDA, tasks and starts are others, and then one world in ten differs from C MuJoCo by
    more than 1e-3 in 20 steps, up to whole units where it bounces a step earlier; so it does on a
    CPU alone.
    """
    prepare_warp("cuda")
    expected = prepared_steps(physics, physics)
    other = "cpu" if physics == "cuda" else "cuda"
    seen = prepared_steps(other, physics)
    assert torch.equal(seen[0], expected[0])
    # The controls and the slope are computed on the tensors' device, up to rounding; each bounce
    # makes more of a difference.
    assert (seen - expected)[:4].abs().max() < 1e-5
    assert (seen - expected).abs().amax(2).median(1).values.max() < 1e-4
