"""The MuJoCo engine: per-world models, masked resets, divergence, going on to the bit."""

from dataclasses import replace

import pytest
import torch
from metarl_envs import HalfCheetahVelocity

from metarl.errors import SettingsError, ShapeError, SimulationError
from metarl.sim import MujocoVectorEnv, WorldNoise, check_vector_env, make_vec
from tests.sim.families import CART, Cart, Drift

MASSES = torch.tensor([0.5, 1.0, 2.0, 8.0])


def carts(family=None, **settings):
    env = MujocoVectorEnv(family or Cart(), 4, threads=2, **settings)
    env.set_tasks({"mass": MASSES})
    return env


@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_check_vector_env_finds_nothing(autoreset):
    check_vector_env(carts(autoreset=autoreset))


@pytest.mark.parametrize("again", [False, True])
def test_a_force_accelerates_each_world_by_its_own_mass(again):
    env = carts()
    env.reset()
    if again:  # what tasks set lasts, and what it is scaled from does not change
        env.step(torch.zeros(4, 1))
        env.set_tasks({"mass": MASSES.flip(0)})
        env.set_tasks({"mass": MASSES})
        env.reset(options={"reset_mask": torch.tensor([True, False, True, False])})
    _, change, *_ = env.step(torch.full((4, 1), 0.7))
    torch.testing.assert_close(change, 3 * 0.7 / MASSES * 0.04)


def test_constants_follow_from_what_tasks_set():
    env = carts()
    for world, mass in enumerate(MASSES.tolist()):
        model = env.batch.get_model(world)
        assert model.body_mass[1] == pytest.approx(mass)
        assert model.body_subtreemass[0] == pytest.approx(mass)
        assert model.dof_invweight0[0] == pytest.approx(1 / mass)
    assert env.family.compiled.body_mass[1] == 2


def test_tasks_take_effect_in_the_running_episode():
    env = carts(autoreset="disabled")
    env.follow(WorldNoise(torch.rand(4, 2), torch.empty(4, 6, 0)))
    start, _ = env.reset()
    env.set_tasks({"mass": torch.full((4,), 4.0)})
    seen, change, *_ = env.step(torch.ones(4, 1))
    torch.testing.assert_close(change, torch.full((4,), 3 / 4 * 0.04))
    torch.testing.assert_close(seen[:, 1], start[:, 1] + 0.03)


class Unknown(Cart):
    """A family whose tasks change what no model has."""

    def model_fields(self, tasks):
        return {"body_mas": tasks["mass"]}


class Misshapen(Cart):
    """A family that gives a number where the model has one for each body."""

    def model_fields(self, tasks):
        return {"body_mass": tasks["mass"]}


@pytest.mark.parametrize(
    ("family", "settings", "error", "message"),
    [
        (Unknown(), {}, SettingsError, "no field 'body_mas' .*Did you mean 'body_mass'"),
        (Misshapen(), {}, ShapeError, r"'body_mass' of shape \(4, 2\), .* got \(4,\)"),
        (Drift(), {}, SettingsError, "Expected a MujocoFamily, got Drift"),
        (Cart(), {"threads": -1}, SettingsError, "at least 0 threads, got -1"),
        (Cart(model="<mujoco/"), {}, SettingsError, "does not compile"),
    ],
)
def test_what_cannot_run(family, settings, error, message):
    with pytest.raises(error, match=message):
        make_vec(family, 4, device="cpu", engine="mujoco", **settings)


def test_the_torch_engine_refuses_a_model():
    with pytest.raises(SettingsError, match="Expected a TorchFamily, got Cart"):
        make_vec(Cart(), 2, device="cpu", engine="torch")


def test_resets_of_some_worlds_leave_the_others_alone():
    env, other = (carts(autoreset="disabled", seed=3) for _ in range(2))
    for e in (env, other):
        e.reset()
        e.step(torch.ones(4, 1))
    mask = torch.tensor([False, True, False, True])
    seen, _ = env.reset(options={"reset_mask": mask})
    going = torch.cat([other.state_dict()["state"][n] for n in ("qpos", "qvel")], 1).float()
    assert torch.equal(seen[~mask], going[~mask])
    assert (seen[mask] >= 0).all() and (seen[mask] < 1).all()
    assert not torch.isclose(seen[mask], going[mask]).any()
    for _ in range(3):
        (first, *_), (second, *_) = env.step(torch.ones(4, 1)), other.step(torch.ones(4, 1))
        assert torch.equal(first[~mask], second[~mask])
        assert not torch.equal(first[mask], second[mask])


def test_worlds_that_end_start_anew_in_the_same_step():
    env = carts()
    env.follow(WorldNoise(torch.full((4, 2), 0.25), torch.empty(4, 6, 0)))
    env.reset()
    seen, _, ended, _, info = env.step(torch.tensor([[9e3], [0.0], [0.0], [9e3]]))
    assert ended.tolist() == [True, False, False, True]
    torch.testing.assert_close(seen[[0, 3]], torch.full((2, 2), 0.25))
    assert (info["final_obs"][[0, 3], 0] > 1).all()
    assert torch.equal(info["final_obs"][1:3], seen[1:3])


@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_divergence_is_named(autoreset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file
    family = Cart(model=CART.replace('gear="3"', 'gear="1e6"'))
    env = carts(family, autoreset=autoreset)
    env.reset()
    env.step(torch.zeros(4, 1))
    env.step(torch.tensor([[0.0], [0.0], [9e9], [0.0]]))
    message = r"World 2 has the observation \[nan, nan\] in step 1 .* the task mass 2; .*BADQACC"
    with pytest.raises(SimulationError, match=message):
        env.check()
    env.reset()
    env.check()
    env.step(torch.tensor([[0.0], [0.0], [9e9], [0.0]]))
    with pytest.raises(SimulationError, match=r"in step 0 .*BADQACC in world 2"):
        env.check()
    env.reset()
    env.step(torch.zeros(4, 1))
    env.check()
    assert env.diagnosis() == ""


def test_divergence_is_found_without_a_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = carts(Cart(model=CART.replace('gear="3"', 'gear="1e6"')))
    env.reset()
    with pytest.raises(SimulationError, match=r"World 0 .*BADQACC in world 0"):
        for _ in range(8):
            env.step(torch.full((4, 1), 9e9))


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


def test_states_that_do_not_fit_are_refused():
    env = carts()
    env.reset()
    saved = env.state_dict()
    with pytest.raises(ShapeError, match=r"physics state of shape \(2, .*got \(4, "):
        make_vec(Cart(), 2, device="cpu").load_state_dict(saved)
    del saved["physics"]
    with pytest.raises(ShapeError, match="got none"):
        env.load_state_dict(saved)
