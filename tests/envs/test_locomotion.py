"""Walking robots: gymnasium's dynamics to the bit, and the rewards of the papers."""

from dataclasses import dataclass

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from metarl_envs import (
    AntDirection,
    AntVelocity,
    HalfCheetahDirection,
    HalfCheetahVelocity,
    HopperRandomParameters,
    Walker2dDirection,
    Walker2dRandomParameters,
    Walker2dVelocity,
)

from metarl.errors import SettingsError
from metarl.sim import FAMILIES, make_family, make_vec

ROBOTS = {
    "HalfCheetah-v5": HalfCheetahVelocity(),
    "Walker2d-v5": Walker2dVelocity(),
    "Ant-v5": AntVelocity(),
}
SETTINGS = {"Ant-v5": {"include_cfrc_ext_in_observation": False}}
STEPS = 20


def started(family, worlds=3, **settings):
    env = make_vec(family, worlds, device="cpu", autoreset="disabled", **settings)
    env.reset(seed=1)
    return env


def actions(family, steps, worlds, seed=0):
    shape = (steps, worlds, *family.action_space.shape)
    return 2.4 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1.2


@pytest.mark.parametrize("name", [n for n in FAMILIES.names() if hasattr(make_family(n), "robot")])
def test_mujoco_has_nothing_to_warn_of(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = make_family(name).model
    load = mujoco.MjModel.from_xml_string if "<" in model else mujoco.MjModel.from_xml_path
    load(model)
    assert not list(tmp_path.iterdir())
    assert "WARNING" not in "".join(capfd.readouterr())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("title", ROBOTS)
def test_dynamics_and_observations_are_gymnasiums_to_the_bit(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo's log of gymnasium's deprecated attributes
    check_same_as_gymnasium(title, ROBOTS[title])


def check_same_as_gymnasium(title, family):
    env = started(family)
    theirs = gymnasium.make(title, **SETTINGS.get(title, {})).unwrapped
    assert theirs.dt == family.dt
    theirs.reset(seed=0)
    start = env.state_dict()["state"]
    theirs.set_state(start["qpos"][1].numpy(), start["qvel"][1].numpy())
    for a in actions(family, STEPS, 3):
        ended = env.step(a)[2][1]
        if ended:
            break  # ours stay as they ended, theirs go on
        expected, *_ = theirs.step(a[1].clamp(-1, 1).numpy())
        now = env.state_dict()["state"]
        assert np.array_equal(now["qpos"][1], theirs.data.qpos)
        assert np.array_equal(now["qvel"][1], theirs.data.qvel)
        seen = family.observe(now, env.get_tasks())[1]
        assert np.array_equal(seen, expected.astype(np.float32))
    theirs.close()


def moved(family, tasks):
    """Two states 0.3 m apart, and the reward of the step between them, for each task."""
    noise = torch.zeros(2, family.reset_noise)
    before = family.reset(tasks, noise)
    after = {n: v.clone() for n, v in before.items()}
    after["qpos"][:, 0] += 0.3
    after["ctrl"] = torch.full((2, family.action_space.shape[0]), 0.5)
    return family.reward(before, torch.full_like(after["ctrl"], 9.0), after, tasks)


@pytest.mark.parametrize(
    ("velocity", "direction", "dt", "alive", "cost"),
    [
        (HalfCheetahVelocity(), HalfCheetahDirection(), 0.05, (0, 0), 0.05 * 6 * 0.25),
        (Walker2dVelocity(), Walker2dDirection(), 0.008, (15, 1), 1e-3 * 6 * 0.25),
        (AntVelocity(), AntDirection(), 0.05, (1.05, 0.05), 0.005 * 8 * 0.25),
    ],
)
def test_rewards(velocity, direction, dt, alive, cost):
    speed = 0.3 / dt
    tasks = {"velocity": torch.tensor([1.0, 80.0])}
    expected = torch.tensor([1 - speed, speed - 80]) + alive[0] - cost
    torch.testing.assert_close(moved(velocity, tasks), expected)
    tasks = {"direction": torch.tensor([1.0, -1.0])}
    expected = torch.tensor([speed, -speed]) + alive[1] - cost
    torch.testing.assert_close(moved(direction, tasks), expected)


@pytest.mark.parametrize(
    ("family", "positions", "ends"),
    [
        (HalfCheetahVelocity(), {1: -9.0, 2: 9.0}, False),
        (Walker2dVelocity(), {1: 1.0, 2: 0.9}, False),
        (Walker2dVelocity(), {1: 0.79}, True),
        (Walker2dVelocity(), {1: 2.01}, True),
        (Walker2dVelocity(), {2: -1.01}, True),
        (Walker2dDirection(), {2: 1.01}, True),
        (AntVelocity(), {1: 9.0, 2: 0.99}, False),
        (AntVelocity(), {2: 0.19}, True),
        (AntDirection(), {2: 1.01}, True),
    ],
)
def test_falls_end_the_episode(family, positions, ends):
    state = family.reset({}, torch.full((2, family.reset_noise), 0.5))
    assert not family.terminated(state, {}).any()
    for place, value in positions.items():
        state["qpos"][1, place] = value
    assert family.terminated(state, {}).tolist() == [False, ends]


@dataclass(frozen=True)
class SameHopper(HopperRandomParameters):
    """A hopper that no task changes."""

    def model_fields(self, tasks):
        return {}


def test_hoppers_are_gymnasiums_to_the_bit():
    check_same_as_gymnasium("Hopper-v5", SameHopper())


@pytest.mark.parametrize("family", [HopperRandomParameters(), Walker2dRandomParameters()])
def test_random_parameters(family):
    tasks = family.sample(2000, torch.Generator().manual_seed(0)).values
    bodies, joints = family.compiled.nbody, family.compiled.nv
    assert tasks["body_inertia"].shape == (2000, bodies, 3)
    assert tasks["dof_damping"].shape == (2000, joints)
    for name, factors in tasks.items():
        exponents = factors.log() / np.log(1.3 if name == "dof_damping" else 1.5)
        assert 2.9 < exponents.max() < 3.001 and -3.001 < exponents.min() < -2.9
        assert exponents.mean(0).abs().max() < 0.2
        assert (exponents.std(0) - 3**0.5).abs().max() < 0.1
    state = family.reset(tasks, torch.full((2000, family.reset_noise), 0.5))
    after = {**state, "qpos": state["qpos"] + 0.1, "ctrl": state["ctrl"] + 1}
    reward = family.reward(state, None, after, tasks)
    expected = 0.1 / 0.008 + 1 - 1e-3 * family.compiled.nu
    torch.testing.assert_close(reward, torch.full((2000,), expected))


def test_random_parameters_reach_every_worlds_model():
    env = started(HopperRandomParameters(), 2)
    tasks, own = env.get_tasks(), env.family.compiled
    for world in range(2):
        model = env.batch.get_model(world)
        for name, factors in tasks.items():
            expected = getattr(own, name) * factors[world].numpy()
            np.testing.assert_allclose(getattr(model, name), expected, rtol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 11.0, float("nan")])
def test_spreads_are_checked(spread):
    with pytest.raises(SettingsError, match="spread above 0"):
        Walker2dRandomParameters(spread)


def test_a_walker_that_falls_is_done_as_in_gymnasium():
    family, env = ROBOTS["Walker2d-v5"], started(ROBOTS["Walker2d-v5"], 20)
    theirs = gymnasium.make("Walker2d-v5").unwrapped
    theirs.reset(seed=0)
    start = env.state_dict()["state"]
    theirs.set_state(start["qpos"][1].numpy(), start["qvel"][1].numpy())
    for a in actions(family, 100, 20):
        _, _, ended, *_ = env.step(a)
        assert theirs.step(a[1].clamp(-1, 1).numpy())[2] == ended[1]
        if ended[1]:
            break
    assert ended[1]
    theirs.close()


@pytest.mark.parametrize("fastest", [2.0, 3.0])
def test_velocities_are_uniform_and_apart_between_splits(fastest):
    family, generator = HalfCheetahVelocity(fastest), torch.Generator().manual_seed(0)
    drawn = [
        family.split(part).sample(4000, generator).values["velocity"] for part in ("train", "test")
    ]
    for velocity in drawn:
        steps = torch.arange(1, 4001) / 4000
        assert (velocity.sort().values / fastest - steps).abs().max() < 0.03
        assert 0 < velocity.min() < 0.01 and fastest - 0.01 < velocity.max() < fastest
    assert not set(drawn[0].tolist()) & set(drawn[1].tolist())


def test_both_directions_in_every_split():
    for part in ("train", "validation", "test"):
        tasks = HalfCheetahDirection(part=part).sample(1000, torch.Generator().manual_seed(3))
        values, counts = tasks.values["direction"].unique(return_counts=True)
        assert values.tolist() == [-1, 1]
        assert counts.min() > 440


@pytest.mark.parametrize(
    ("family", "position", "velocity"),
    [
        (HalfCheetahVelocity(), 0.1 / 3**0.5, 0.1),
        (Walker2dVelocity(), 5e-3 / 3**0.5, 5e-3 / 3**0.5),
        (AntVelocity(), 0.1 / 3**0.5, 0.1),
    ],
)
def test_starts_are_gymnasiums(family, position, velocity):
    noise = torch.rand(4000, family.reset_noise, generator=torch.Generator().manual_seed(0))
    state = family.reset(family.sample(4000, torch.Generator()).values, noise)
    shift = state["qpos"] - family.default("qpos0", state["qpos"])
    assert 0.99 * position * 3**0.5 < shift.abs().max() <= position * 3**0.5
    for values, scale in ((shift, position), (state["qvel"], velocity)):
        torch.testing.assert_close(values.std(0) / scale, values[0] * 0 + 1, rtol=0.05, atol=0)
        assert (values.mean(0).abs() < 0.06 * scale).all()


def test_cards_tell_what_was_chosen():
    told = str(HalfCheetahVelocity(3.0, horizon=50, integrator="implicitfast").card())
    integrator = "implicitfast, which differs from gymnasium"
    for text in ("U(0, 3) m/s", "50 steps", integrator, "dt = 0.05 s"):
        assert text in told
    assert "U(0, 2) m/s" in str(HalfCheetahVelocity().card())
    assert not HalfCheetahDirection().card().disjoint


@pytest.mark.parametrize("fastest", [0.0, -1.0, float("inf"), float("nan")])
def test_settings_are_checked(fastest):
    with pytest.raises(SettingsError, match="fastest velocity above 0"):
        HalfCheetahVelocity(fastest)
    with pytest.raises(SettingsError, match="Unknown split"):
        HalfCheetahVelocity(part="rest")
