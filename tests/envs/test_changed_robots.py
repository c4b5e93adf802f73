"""Robots that something befalls: what tasks are, what they do to the physics, and what pays."""

import pickle
from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch
from metarl_envs import (
    AntLeg,
    AntSlope,
    HalfCheetahActuator,
    HalfCheetahDirection,
    HalfCheetahFriction,
    HalfCheetahLatency,
    HalfCheetahPayload,
    HalfCheetahSlope,
    HalfCheetahStrength,
    HopperSlope,
    Walker2dPayload,
)
from metarl_envs.faults import Fault, Ranges

from metarl.errors import SettingsError
from tests.envs.test_locomotion import actions, started
from tests.sim.families import task_size

RANGES = {
    HalfCheetahSlope: ("slope", (-2, 2), (5, 12), (12, 18)),
    Walker2dPayload: ("payload", (0, 0.5), (0.75, 1.5), (1.5, 2.5)),
    HalfCheetahFriction: ("friction", (0.7, 1.3), (0.35, 0.65), (0.15, 0.35)),
    HalfCheetahStrength: ("strength", (0.8, 1), (0.55, 0.75), (0.35, 0.55)),
    HalfCheetahLatency: ("latency", (0, 0.02), (0.03, 0.06), (0.06, 0.1)),
}
NEUTRAL = {"slope": 0, "payload": 0, "friction": 1, "strength": 1, "latency": 0, "actuator": 1}


def tasks_of(family, count=2000):
    return family.sample(count, torch.Generator().manual_seed(0)).values


@pytest.mark.parametrize("build", RANGES, ids=lambda build: build.keywords["name"])
def test_each_set_of_tasks_has_its_range(build):
    name, train, test, beyond = RANGES[build]
    sets = [
        (build(), train),
        (build().split("validation"), train),
        (build().split("test"), test),
        (build(beyond=True).split("test"), beyond),
        (build(beyond=True), train),
    ]
    for family, (low, high) in sets:
        values = tasks_of(family)[name]
        steps = torch.arange(1, 2001) / 2000
        assert ((values.sort().values - low) / (high - low) - steps).abs().max() < 0.04
    trained, validated = (set(tasks_of(family)[name].tolist()) for family, _ in sets[:2])
    assert not trained & validated


@pytest.mark.parametrize(
    ("build", "actuators", "group"), [(HalfCheetahActuator, 6, 1), (AntLeg, 8, 2)]
)
def test_one_group_of_actuators_fails(build, actuators, group):
    for family, (low, high) in ((build(), (0.4, 1)), (build(part="test"), (0.1, 0.35))):
        left = tasks_of(family)["actuator"]
        assert left.shape == (2000, actuators)
        together = left.view(2000, -1, group)
        assert (together == together[..., :1]).all()
        fails = together[..., 0] < 1
        assert (fails.sum(1) == 1).all()
        assert (fails.float().mean(0) * actuators / group - 1).abs().max() < 0.2
        assert low <= left[left < 1].min() < low + 0.01
        assert high - 0.01 < left[left < 1].max() <= high
    disabled = tasks_of(build(beyond=True, part="test"))["actuator"]
    assert set(disabled.unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    "build",
    [HalfCheetahSlope, HalfCheetahPayload, HalfCheetahFriction, HalfCheetahActuator,
     HalfCheetahStrength, HalfCheetahLatency],
    ids=lambda build: build.keywords["name"],
)  # fmt: skip
def test_a_fault_that_changes_nothing_changes_nothing(build):
    family = build()
    neutral = {n: torch.full_like(v, NEUTRAL[n]) for n, v in tasks_of(family, 3).items()}
    env, sound = started(family), started(HalfCheetahDirection())
    env.set_tasks(neutral)
    sound.set_tasks({"direction": torch.ones(3)})
    env.reset(seed=1)
    sound.reset(seed=1)
    for a in actions(family, 10, 3):
        for value, expected in zip(env.step(a)[:4], sound.step(a)[:4], strict=True):
            assert torch.equal(value, expected)


def test_the_ground_rises_by_the_tasks_angle():
    for family in (AntSlope(part="test"), HopperSlope(part="test")):
        env = started(family)
        for world, slope in enumerate(env.get_tasks()["slope"].deg2rad().tolist()):
            gravity = env.batch.get_model(world).opt.gravity
            expected = 9.81 * np.array([-np.sin(slope), 0, -np.cos(slope)])
            np.testing.assert_allclose(gravity, expected, rtol=1e-6)


def test_the_torso_carries_the_load():
    env = started(HalfCheetahPayload(part="test"))
    own = env.family.compiled
    for world, load in enumerate(env.get_tasks()["payload"].tolist()):
        model = env.batch.get_model(world)
        others = np.arange(own.nbody) != 1
        np.testing.assert_array_equal(model.body_mass[others], own.body_mass[others])
        np.testing.assert_allclose(model.body_mass[1], (1 + load) * own.body_mass[1])
        np.testing.assert_allclose(model.body_inertia[1], (1 + load) * own.body_inertia[1])
        whole = own.body_subtreemass[0] + load * own.body_mass[1]
        np.testing.assert_allclose(model.body_subtreemass[0], whole)


def test_soles_and_floor_wear():
    env = started(HalfCheetahFriction())
    for world, factor in enumerate(env.get_tasks()["friction"].tolist()):
        model, own = env.batch.get_model(world), env.family.compiled
        np.testing.assert_allclose(model.geom_friction, factor * own.geom_friction, rtol=1e-6)


@pytest.mark.parametrize("build", [HalfCheetahActuator, HalfCheetahStrength])
def test_actuators_get_what_is_left_and_what_was_asked_for_costs(build):
    env = started(build())
    (left,) = env.get_tasks().values()
    for a in actions(env.family, 3, 3):
        before = env.state_dict()["state"]["qpos"][:, 0]
        reward, state = env.step(a)[1], env.state_dict()["state"]
        asked = a.clamp(-1, 1)
        assert torch.equal(state["ctrl"].float(), asked * left.view(3, -1))
        speed = (state["qpos"][:, 0] - before) / 0.05
        expected = speed - 0.05 * asked.square().sum(1)
        torch.testing.assert_close(reward, expected.float(), rtol=1e-5, atol=1e-5)


def late(model, start, commands, steps):
    """Positions after each of the commands, five steps of MuJoCo's, that come some steps late."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = start["qpos"], start["qvel"]
    given = np.concatenate([np.zeros((steps, model.nu)), np.repeat(commands, 5, 0)])
    for number in range(5 * len(commands)):
        data.ctrl[:] = given[number]
        mujoco.mj_step(model, data)
    return data.qpos


def test_controls_come_late():
    env, sound = started(HalfCheetahLatency(), 4), HalfCheetahDirection().compiled
    env.set_tasks({"latency": torch.tensor([0.0, 0.0149, 0.05, 0.1])})
    # Between two steps: rounding, of float32 too, makes no step of difference.
    delays = env.family.model_fields(env.get_tasks())["actuator_delay"] / 0.01
    assert delays[:, 0].tolist() == pytest.approx([0, 0.75, 4.75, 9.75])
    commands = actions(env.family, 6, 4)
    for _ in range(2):  # what was on its way is forgotten at the start of an episode
        env.reset()
        start = env.state_dict()["state"]
        for a in commands:
            env.step(a)
        end = env.state_dict()["state"]["qpos"]
        for world, steps in enumerate((0, 1, 5, 10)):
            own = {n: v[world].numpy() for n, v in start.items()}
            asked = commands[:, world].clamp(-1, 1).numpy()
            np.testing.assert_array_equal(end[world], late(sound, own, asked, steps))


def test_controls_on_their_way_are_saved():
    env, other = (started(HalfCheetahLatency(part="test")) for _ in range(2))
    first, second = actions(env.family, 2, 3)
    env.step(first)
    other.load_state_dict(env.state_dict())
    assert torch.equal(env.step(second)[0], other.step(second)[0])


def test_faults_combine():
    both = Fault(
        slope=Ranges((0, 1), (2, 3), (3, 4)), strength=Ranges((0.9, 1), (0.5, 0.6), (0, 0))
    )
    family = HalfCheetahSlope(name="Both-v1", fault=both)
    tasks = tasks_of(family, 5)
    assert list(tasks) == ["slope", "strength"] and task_size(family) == 2
    assert set(family.model_fields(tasks)) == {"opt.gravity"}
    turned = {name: tasks[name] for name in ("strength", "slope")}
    assert torch.equal(family.task_vector(turned), family.task_vector(tasks))
    assert "slope and strength" in family.card().summary
    assert pickle.loads(pickle.dumps(family)) == family


def test_cards_tell_the_ranges():
    card = str(HalfCheetahLatency().card())
    assert "0 to 0.02 in training, 0.03 to 0.06 in tests, 0.06 to 0.1 beyond" in card
    assert "2 neighbouring actuators" in str(AntLeg().card())
    assert "tests: beyond" in str(replace(AntLeg(), beyond=True).card())


GOOD = Ranges((0, 1), (1, 2), (3, 4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Ranges((0, 1), (0.5, 2), (3, 4)), "do not overlap"),
        (lambda: Ranges((1, 0), (2, 3), (3, 4)), "do not overlap"),
        (lambda: Fault(), "at least one out of slope"),
        (lambda: Fault(strength=GOOD), "strength between 0.0 and 1.0, got"),
        (lambda: Fault(slope=GOOD, group=0), "at least 1 actuator"),
        (lambda: HalfCheetahSlope(part="rest"), "Unknown split"),
    ],
)
def test_settings_are_checked(build, message):
    with pytest.raises(SettingsError, match=message):
        build()
