import mujoco
import numpy as np
import pytest
import torch
from metarl_envs.half_cheetah import HalfCheetahVelocity
from metarl_envs.navigation import Navigation2D, Navigation2DSparse
from metarl_envs.tabular_mdp import TabularMDP

from metarl.errors import SettingsError
from metarl.sim import make_renderer, make_vec
from metarl.sim.family_renderer import DrawnRenderer
from metarl.sim.mujoco.rendering import MujocoRenderer
from tests.sim.families import CART, Cart, Drift


def rendered(family, worlds=2, **size):
    """An environment whose worlds have started, and its renderer."""
    env = make_vec(family, worlds, device="cpu", autoreset="disabled")
    try:
        renderer = make_renderer(env, **size)
    except SettingsError as error:
        pytest.skip(str(error))
    env.reset(seed=0)
    return env, renderer


def test_mujoco_worlds_are_seen_as_they_are():
    env, renderer = rendered(HalfCheetahVelocity(), width=96, height=64)
    assert isinstance(renderer, MujocoRenderer)
    first, other = renderer.frame(0), renderer.frame(1)
    assert first.shape == (64, 96, 3) and first.dtype == np.uint8
    assert first.std() > 10
    assert (first != other).any()  # other positions at the start
    assert (renderer.frame(0) == first).all()
    for _ in range(3):
        env.step(torch.ones(2, 6))
    assert (renderer.frame(0) != first).any()
    env.reset(seed=0)
    assert (renderer.frame(0) == first).all()
    renderer.close()
    renderer.close()
    with pytest.raises(SettingsError, match="closed"):
        renderer.frame(0)


def test_the_camera_follows_the_robot():
    env, renderer = rendered(HalfCheetahVelocity(), width=64, height=64)
    seen = renderer.frame(0)
    values = env.state_dict()
    values["state"]["qpos"][0, 0] += 20.0  # a multiple of the floor's pattern
    env.load_state_dict(values)
    far = renderer.frame(0)
    assert np.abs(far.astype(int) - seen).mean() < 25 < seen.std()
    renderer.close()


def test_fields_that_a_task_changes_are_painted():
    class Ball(Cart):
        def model_fields(self, tasks):
            size = self.default("geom_size", tasks["mass"]).unsqueeze(0)
            return {"geom_size": size * tasks["mass"].view(-1, 1, 1)}

    env, renderer = rendered(Ball(), width=64, height=64)
    env.set_tasks({"mass": torch.tensor([1.0, 2.0])})
    small, large = ((renderer.frame(w) != renderer.frame(w)[0, 0]).any(2).sum() for w in range(2))
    assert 0 < 2 * small < large
    renderer.close()


def test_mocap_bodies_are_painted_where_they_are():
    marker = '<worldbody><body name="goal" mocap="true"><geom size="0.2" contype="0"/></body>'
    env, renderer = rendered(Cart(model=CART.replace("<worldbody>", marker)), width=64, height=64)
    seen = renderer.frame()
    values = env.state_dict()
    values["state"]["mocap_pos"][0, 0, 2] += 0.3
    env.load_state_dict(values)
    assert (renderer.frame() != seen).any()
    renderer.close()


def test_navigation_draws_its_way_from_the_start_of_the_episode():
    env, renderer = rendered(Navigation2D(), width=200, height=160)
    assert isinstance(renderer, DrawnRenderer)
    start = renderer.frame(0)
    assert start.shape == (160, 200, 3) and start.dtype == np.uint8
    for _ in range(3):
        env.step(torch.full((2, 2), 0.5))
        moved = renderer.frame(0)
    assert (moved != start).any()
    env.reset()
    assert (renderer.frame(0) == start).all()


@pytest.mark.parametrize("family", [Navigation2DSparse(), TabularMDP(), Drift()])
def test_families_of_tensors_draw_themselves(family):
    env, renderer = rendered(family, width=80, height=80)
    frames = [renderer.frame(1)]
    for _ in range(2):
        action = env.single_action_space.high if hasattr(env.single_action_space, "high") else 1
        env.step(torch.as_tensor(np.stack([action] * 2)))
        frames.append(renderer.frame(1))
    assert (frames[0] != frames[2]).any()
    renderer.close()


def test_what_cannot_be_seen_is_told():
    env = make_vec(Navigation2D(), 2, device="cpu")
    with pytest.raises(SettingsError, match="16 x 16"):
        make_renderer(env, 8, 100)
    renderer = make_renderer(env)
    with pytest.raises(SettingsError, match="`reset`"):
        renderer.frame()
    env.reset()
    with pytest.raises(SettingsError, match="world of 0 to 1, got 2"):
        renderer.frame(2)
    with pytest.raises(SettingsError, match="MujocoFamily"):
        MujocoRenderer(env)


def test_a_machine_without_opengl_is_told_what_to_install(monkeypatch):
    def refuse(width, height):
        raise RuntimeError("no\ndriver")

    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(mujoco, "GLContext", refuse)
    env = make_vec(HalfCheetahVelocity(), 1, device="cpu")
    with pytest.raises(SettingsError, match=r"glfw: RuntimeError: no driver.*libegl1"):
        make_renderer(env)
