"""What all engines of MuJoCo's models do: models of tasks, masked resets, divergence, snapshots."""

import numpy as np
import pytest
import torch

from metarl.errors import SettingsError, ShapeError, SimulationError
from metarl.sim import WorldNoise, check_vector_env, make_vec
from tests.sim.families import CART, Cart, Drift

MASSES = torch.tensor([0.5, 1.0, 2.0, 8.0])
CONSTANTS = ("body_mass", "body_subtreemass", "body_invweight0", "dof_invweight0", "actuator_acc0")


def carts(engine, family=None, **settings):
    env = make_vec(family or Cart(), 4, **engine, **settings)
    env.set_tasks({"mass": MASSES})
    return env


def actions(*numbers):
    return torch.tensor(numbers).unsqueeze(1)


def noise(value):
    return WorldNoise(torch.full((4, 2), value), torch.empty(4, 6, 0))


def constants(env, name):
    """A constant of each world's model, [4, *]."""
    if hasattr(env, "batch"):
        values = [getattr(env.batch.get_model(i), name) for i in range(4)]
        return torch.from_numpy(np.stack(values)).float()
    return env.physics.constant(name).cpu()


@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_check_vector_env_finds_nothing(engine, autoreset):
    settings = {"deterministic": True} if engine["engine"] == "warp" else {}
    check_vector_env(carts(engine, autoreset=autoreset, **settings))


@pytest.mark.parametrize("again", [False, True])
def test_a_force_accelerates_each_world_by_its_own_mass(engine, again):
    env = carts(engine)
    env.reset()
    if again:  # what tasks set lasts, and what it is scaled from does not change
        env.step(torch.zeros(4, 1))
        env.set_tasks({"mass": MASSES.flip(0)})
        env.set_tasks({"mass": MASSES})
        env.reset(options={"reset_mask": torch.tensor([True, False, True, False])})
    _, change, *_ = env.step(torch.full((4, 1), 0.7))
    torch.testing.assert_close(change.cpu(), 3 * 0.7 / MASSES * 0.04)


def test_constants_follow_from_what_tasks_set(engine):
    env, c = carts(engine), carts({"engine": "mujoco", "device": "cpu"})
    assert torch.equal(constants(env, "body_mass")[:, 1], MASSES)
    torch.testing.assert_close(constants(env, "dof_invweight0")[:, 0], 1 / MASSES)
    for name in CONSTANTS:
        torch.testing.assert_close(constants(env, name), constants(c, name), rtol=1e-5, atol=1e-6)
    assert env.family.compiled.body_mass[1] == 2


def test_tasks_take_effect_in_the_running_episode(engine):
    env = carts(engine, autoreset="disabled")
    env.follow(WorldNoise(torch.rand(4, 2), torch.empty(4, 6, 0)))
    start, _ = env.reset()
    env.set_tasks({"mass": torch.full((4,), 4.0)})
    seen, change, *_ = env.step(torch.ones(4, 1))
    torch.testing.assert_close(change.cpu(), torch.full((4,), 3 / 4 * 0.04))
    torch.testing.assert_close(seen[:, 1], start[:, 1] + 0.03)


def test_tasks_that_stay_as_they_are_change_nothing(engine):
    first, second = (carts(engine, autoreset="disabled", seed=3) for _ in range(2))
    for env in (first, second):
        env.reset()
        env.step(torch.ones(4, 1))
    second.set_tasks(second.get_tasks())
    assert torch.equal(first.step(torch.ones(4, 1))[0], second.step(torch.ones(4, 1))[0])


class Unknown(Cart):
    """A family whose tasks change what no model has."""

    def model_fields(self, tasks):
        return {"body_mas": tasks["mass"]}


class Misshapen(Cart):
    """A family that gives a number where the model has one for each body."""

    def model_fields(self, tasks):
        return {"body_mass": tasks["mass"]}


@pytest.mark.parametrize(
    ("family", "error", "message"),
    [
        (Unknown(), SettingsError, "no field 'body_mas' .*Did you mean 'body_mass'"),
        (Misshapen(), ShapeError, r"'body_mass', .* \[4, 2\], .* got \[4\]"),
        (Drift(), SettingsError, "Expected a MujocoFamily, got Drift"),
        (Cart(model="<mujoco/"), SettingsError, "does not compile"),
    ],
)
def test_what_cannot_run(engine, family, error, message):
    with pytest.raises(error, match=message):
        make_vec(family, 4, **engine)


def test_resets_of_some_worlds_leave_the_others_alone(engine):
    env, other = (carts(engine, autoreset="disabled", seed=3) for _ in range(2))
    for e in (env, other):
        e.reset()
        e.step(torch.ones(4, 1))
    mask = torch.tensor([False, True, False, True], device=env.device)
    seen, _ = env.reset(options={"reset_mask": mask})
    going = torch.cat([other.state_dict()["state"][n] for n in ("qpos", "qvel")], 1).float()
    assert torch.equal(seen[~mask], going[~mask])
    assert (seen[mask] >= 0).all() and (seen[mask] < 1).all()
    assert not torch.isclose(seen[mask], going[mask]).any()
    for _ in range(3):
        (first, *_), (second, *_) = env.step(torch.ones(4, 1)), other.step(torch.ones(4, 1))
        assert torch.equal(first[~mask], second[~mask])
        assert not torch.equal(first[mask], second[mask])


def test_worlds_that_end_start_again_in_the_same_step(engine):
    env = carts(engine)
    env.follow(noise(0.25))
    env.reset()
    seen, _, ended, _, info = env.step(actions(9e3, 0.0, 0.0, 9e3))
    assert ended.tolist() == [True, False, False, True]
    torch.testing.assert_close(seen[[0, 3]].cpu(), torch.full((2, 2), 0.25))
    assert (info["final_obs"][[0, 3], 0] > 1).all()
    assert torch.equal(info["final_obs"][1:3], seen[1:3])


@pytest.fixture
def strong(engine, tmp_path, monkeypatch):
    """Builds carts that diverge where they are pushed."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file
    family = Cart(model=CART.replace('gear="3"', 'gear="1e6"'))
    return lambda **settings: carts(engine, family, **settings)


@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_divergence_is_named(strong, autoreset):
    env = strong(autoreset=autoreset)
    env.reset()
    env.step(torch.zeros(4, 1))
    env.step(actions(0.0, 0.0, 9e9, 0.0))
    message = r"World 2 has the observation \[nan, nan\] in step 1 .* the task mass 2; .*BADQACC"
    with pytest.raises(SimulationError, match=message):
        env.check()
    env.reset()
    env.check()
    env.step(actions(0.0, 0.0, 9e9, 0.0))
    with pytest.raises(SimulationError, match=r"in step 0 .*BADQACC in world 2"):
        env.check()
    env.reset()
    env.step(torch.zeros(4, 1))
    env.check()
    assert env.diagnosis() == ""


def test_divergence_is_found_without_a_check(strong):
    env = strong()
    env.reset()
    with pytest.raises(SimulationError, match=r"World 0 .*BADQACC in world 0"):
        for _ in range(8):
            env.step(torch.full((4, 1), 9e9))


def test_worlds_that_diverged_start_again_and_harm_no_other(strong):
    worlds = [strong(autoreset="disabled", seed=1) for _ in range(2)]
    for env, push in zip(worlds, (9e9, 0.0), strict=True):
        env.follow(noise(0.25))
        env.reset()
        env.step(actions(0.0, 0.0, push, 0.0))
        env.reset(options={"reset_mask": torch.tensor([False, False, True, True])})
    for _ in range(3):
        first, second = (env.step(torch.zeros(4, 1))[0] for env in worlds)
        assert torch.equal(first, second)
        assert first.isfinite().all()


def test_states_that_do_not_fit_are_refused(engine):
    env = carts(engine)
    env.reset()
    saved = env.state_dict()
    with pytest.raises(ShapeError, match=r"physics state of shape \(2, .*got \(4, "):
        make_vec(Cart(), 2, **engine).load_state_dict(saved)
    del saved["physics"]
    with pytest.raises(ShapeError, match="got none"):
        env.load_state_dict(saved)
