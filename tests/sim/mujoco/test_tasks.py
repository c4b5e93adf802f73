"""Families of MuJoCo models by what differs in them."""

import copy
import pickle

import pytest
import torch

from metarl.adaptation import MAML
from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.sim import (
    Choice,
    Latency,
    LogUniform,
    Mass,
    MujocoTasks,
    Ranges,
    SensorNoise,
    Uniform,
    check_family,
    check_vector_env,
    make_vec,
)
from metarl.sim.make import make_family
from metarl.sim.mujoco.physics import mj
from tests.sim.robots import ARM, Arms

EVERYTHING = {
    "angle": Uniform(-1, 1),
    "load": Mass("fore", Ranges(LogUniform(0.5, 2), test=LogUniform(2, 4))),
    "masses": Mass("*", Uniform(0.9, 1.1), each=True),
    "late": Latency(0, 2),
    "noise": SensorNoise(0, 0.1, entries=(0, 1)),
}
FREE = ARM.replace('<joint name="shoulder" type="hinge" axis="0 0 1"/>', "<freejoint/>").replace(
    '<motor name="turn" joint="shoulder"', '<motor name="turn" joint="elbow"'
)
FREE = FREE[: FREE.index("  <keyframe>")] + "</mujoco>"


@pytest.mark.parametrize("parameters", [Arms.parameters, EVERYTHING], ids=["few", "many"])
def test_the_contracts_hold(parameters):
    family = Arms(parameters=parameters)
    for part in ("train", "validation", "test"):
        check_family(family.split(part))
    check_vector_env(make_vec(family, 5, device="cpu"))


def test_tests_have_the_ranges_that_they_are_given():
    generator = torch.Generator().manual_seed(0)
    train = Arms(parameters=EVERYTHING)
    loads = {
        part: train.split(part).sample(300, generator).values["load"]
        for part in ("train", "validation", "test")
    }
    assert loads["train"].min() >= 0.5 and loads["train"].max() <= 2
    assert loads["validation"].max() <= 2 and loads["test"].min() >= 2
    assert loads["test"].max() <= 4 and loads["test"].std() > 0.3


@pytest.mark.parametrize(
    ("test", "disjoint"), [(Uniform(2, 3), True), (Uniform(1, 3), False), (Uniform(0.5, 1), True)]
)
def test_the_card_says_whether_the_splits_are_disjoint(test, disjoint):
    load = Mass("fore", Ranges(Uniform(1, 2), test=test))
    assert Arms(parameters={"load": load}).card().disjoint == disjoint


def test_the_card_has_every_number():
    text = str(Arms(parameters=EVERYTHING, reward_note="0.5 - |angle - wanted|").card())
    for part in (
        "angle: U(-1, 1)", "exp U(log 0.5, log 2) in training, exp U(log 2, log 4) in tests",
        "masses: mass of *, each its own x U(0.9, 1.1)", "late: actions late by 0 to 2 steps",
        "sensor noise of U(0, 0.1) on 0, 1", "qpos0, + U(-0.05, 0.05)", "controls of turn, bend",
        "4 steps of 0.005 s", "0.5 - |angle - wanted|", "8 steps",
    ):  # fmt: skip
        assert part in text


def test_settings_replace_the_attributes_of_the_class(monkeypatch):
    family = Arms(horizon=5, start_noise=0.0, bonus=2.0)
    assert (family.horizon, family.bonus, Arms.horizon) == (5, 2.0, 8)
    changed = family.with_settings(bonus=3.0)
    assert (changed.horizon, changed.bonus) == (5, 3.0)
    monkeypatch.setattr("tests.sim.robots.ready", family, raising=False)
    for name in ("tests.sim.robots:Arms", "tests.sim.robots:ready"):
        assert make_family(name, horizon=3).horizon == 3
    for copied in (copy.deepcopy(family), pickle.loads(pickle.dumps(family)), family.split("test")):
        assert copied.horizon == 5
    with pytest.raises(SettingsError, match="Did you mean 'horizon'"):
        Arms(horizont=5)


def test_episodes_start_at_a_keyframe_with_noise():
    tasks = Arms().sample(200, torch.Generator().manual_seed(0)).values
    noise = torch.rand(200, 4, generator=torch.Generator().manual_seed(1))
    state = Arms(keyframe="bent", start_noise=0.1).reset(tasks, noise)
    torch.testing.assert_close(
        state["qpos"].mean(0).float(), torch.tensor([0.0, 1]), atol=0.02, rtol=0
    )
    torch.testing.assert_close(
        state["qvel"].mean(0).float(), torch.tensor([0.5, 0]), atol=0.02, rtol=0
    )
    assert (state["qpos"] - torch.tensor([0.0, 1])).abs().max() <= 0.1
    still = Arms(keyframe="bent", start_noise=0.0).reset(tasks, noise)
    assert still["qpos"].unique(dim=0).tolist() == [[0, 1]]
    with pytest.raises(SettingsError, match="bent"):
        Arms(keyframe="home")


SERVO = ARM.replace('<key name="bent"', '<key name="bent" ctrl="0.5 -3"')


def test_the_controls_of_the_keyframe_act_until_the_first_late_action_arrives():
    parameters = {**Arms.parameters, "late": Latency(2)}
    family = Arms(model=SERVO, keyframe="bent", parameters=parameters)
    assert family.idle_action.tolist() == [0.5, -1]  # clipped to the bounds
    late, prompt = (
        make_vec(f, 2, device="cpu") for f in (family, Arms(model=SERVO, keyframe="bent"))
    )
    for env in (late, prompt):
        env.reset(seed=0)
    controls, other = (torch.tensor([pair] * 2) for pair in ([0.5, -1.0], [0.3, 0.9]))
    for action in (controls, controls, other):
        torch.testing.assert_close(late.step(other)[0], prompt.step(action)[0])


def test_idle_actions_are_0_without_a_keyframe_or_with_own_controls():
    class Half(Arms):
        def controls(self, actions, tasks):
            return actions / 2

    for family in (Arms(model=SERVO), Half(model=SERVO, keyframe="bent")):
        assert family.idle_action.tolist() == [0, 0]


def test_a_free_base_starts_upright():
    family = Arms(model=FREE, start_noise=0.5)
    check_family(family)
    state = family.reset(family.sample(9, torch.Generator()).values, torch.rand(9, 15))
    base = family.default("qpos0", state["qpos"])[:7]
    assert torch.equal(state["qpos"][:, :7], base.expand(9, 7))
    assert state["qpos"][:, 7].std() > 0


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"parameters": {}}, "tell tasks apart"),
        ({"parameters": {"load": 2.0}}, "such as Uniform"),
        ({"horizon": 0}, "horizon"),
        ({"frame_skip": 1.5}, "frame_skip"),
        ({"start_noise": -1.0}, "start_noise"),
        ({"part": "tests"}, "tests"),
        ({"model": ARM[: ARM.index("  <actuator>")] + "</mujoco>"}, "no actuators"),
        ({"parameters": {"noise": SensorNoise(0.1, entries=(7,))}}, "0 to 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(attributes, text):
    with pytest.raises(SettingsError, match=text):
        Arms(**attributes)


def test_a_class_without_a_model_is_refused():
    with pytest.raises(SettingsError, match="has no `model`"):
        type("Nothing", (MujocoTasks,), {"name": "N-v1", "reward": Arms.reward})()


def test_a_policy_adapts():
    family, generator = Arms(parameters=EVERYTHING), torch.Generator().manual_seed(0)
    learner = PolicyLearner(
        MAML(policy_for(family, generator, (8,)), 0.1),
        family,
        PolicyGradientSettings(trajectories=3),
    )
    inputs = learner.collect(family.sample(4, generator), generator, 0)
    learner.forward(inputs).losses.sum().backward()
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)


PULLED = """
<mujoco>
  <worldbody>
    <body name="hand" mocap="true"/>
    <body name="cart"><joint name="x" type="slide" axis="1 0 0"/>
      <geom name="box" type="box" size="0.1 0.1 0.1"/></body>
  </worldbody>
  <equality><weld body1="hand" body2="cart" solref="0.2 1"/></equality>
  <actuator><general name="push" joint="x" dyntype="filter" dynprm="0.2" gainprm="30"/></actuator>
  <keyframe><key name="zero"/><key name="home" qpos="0.5" qvel="0.1" act="2" mpos="0.3 0 0"/>
  </keyframe>
</mujoco>
"""


class Pulled(Arms):
    """A cart that a mocap body pulls; episodes start at a keyframe."""

    name, model = "Pulled-v1", PULLED
    keyframe, start_noise = "home", 0.0
    parameters = {"angle": Uniform(0, 1)}  # noqa: RUF012


def test_a_keyframe_sets_activations_and_mocap_poses():
    env = make_vec(Pulled(), 2, device="cpu", autoreset="disabled")
    model = Pulled().compiled
    data = mj.MjData(model)
    for _ in range(2):  # the second episode starts there, too
        env.reset(seed=0)
        mj.mj_resetDataKeyframe(model, data, 1)
        for control in (0.5, -1.0, 0.25):
            env.step(torch.full((2, 1), control))
            data.ctrl[:] = control
            mj.mj_step(model, data, Pulled.frame_skip)
        torch.testing.assert_close(
            env.snapshot(0)[0]["qpos"][0], torch.from_numpy(data.qpos), rtol=0, atol=0
        )
    check_family(Pulled())


def test_keyframes_are_given_by_name():
    with pytest.raises(SettingsError, match="Expected `keyframe` to be a string, got 1"):
        Pulled(keyframe=1)
    with pytest.raises(SettingsError, match="Expected `keyframe` to be a string, got 0"):
        Pulled(keyframe=0)


class Reaching(Arms):
    """An arm whose observation has the place of its hand, now and a step before."""

    name, derived = "Reaching-v1", {"hand": ("xpos", ("fore",))}

    def remember(self, before, after, tasks):
        return {"last": after["hand"] if before is None else before["hand"]}

    def observe(self, state, tasks):
        return torch.cat([state["qpos"], state["hand"][:, 0], state["last"][:, 0]], 1).float()


def test_observations_of_derived_and_remembered_values():
    assert Reaching().observation_space.shape == (8,)
    check_family(Reaching())


def test_mistakes_of_parameters_name_what_came():
    with pytest.raises(SettingsError, match=r"got \[Mass\("):
        Arms(parameters=[Mass("fore", Uniform(0.5, 2))])
    with pytest.raises(SettingsError, match=r"as Choice\(1, 2, 5\), got \[1, 2\]"):
        Choice([1, 2])
    with pytest.raises(SettingsError) as raised:
        Arms(horizn=5)
    assert str(raised.value).count(" horizon,") == 1


def test_latencies_that_share_a_bound_share_a_value():
    shared = Ranges(Latency(0, 2), test=Latency(2, 4))
    assert not shared.apart and Ranges(Latency(0, 1), test=Latency(2, 4)).apart
    assert Ranges(Uniform(0, 2), test=Uniform(2, 4)).apart


def column(family, noise, tasks):
    """One position for all joints."""
    positions, velocities = MujocoTasks.initial(family, noise, tasks)
    return positions[:, :1], velocities


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("initial", column, r"the positions of `initial` .* \[1, 2\], .* got \[1, 1\] float64"),
        ("controls", lambda s, a, t: a[:, :1], r"`controls` .* \[8, 2\], .* got \[8, 1\] float32"),
        ("controls", lambda s, a, t: a[0], r"`controls` .* got \[2\] float32"),
        ("controls", lambda s, a, t: a.numpy(), "`controls` .* got a ndarray"),
        ("controls", lambda s, a, t: a.mul_(0.5), "changes its arguments"),
        ("controls", lambda s, a, t: a - a.mean(0), "`controls` mixes worlds"),
    ],
)
def test_starts_and_controls_of_other_shapes_are_refused(method, change, message):
    """Broadcasting had given one number to all joints, or one row to all worlds, in silence."""
    family = type("Wrong", (Arms,), {method: change})()
    with pytest.raises(TaskError, match=message):
        check_family(family)
    if "got" in message:
        with pytest.raises(ShapeError, match=r"a row for each world, got"):
            worlds = make_vec(family, 3, device="cpu")
            worlds.reset()
            worlds.step(torch.zeros(3, 2))


def gravities(family, tasks):
    """The gravity of each task, downwards."""
    return tasks["load"].double()[:, None] * torch.tensor([0.0, 0.0, -9.81])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (lambda s, t: None, "`model_fields` .* a dict of fields of the model, .* got None"),
        (lambda s, t: {"opt.gravity": gravities(s, t).numpy()}, "'opt.gravity'.* got a ndarray"),
        (lambda s, t: {"opt.gravity": gravities(s, t)[0]}, r"\[\d, 3\], .* got \[3\] float64"),
        (lambda s, t: {"opt.gravty": gravities(s, t)}, "no field 'opt.gravty' .* 'opt.gravity'"),
        (lambda s, t: {"opt.gravity": torch.rand(len(t["load"]), 3)}, "`model_fields` gives other"),
        (lambda s, t: {"opt.gravity": gravities(s, t).sort(0).values}, "`model_fields` mixes"),
    ],
)
def test_fields_of_the_model_that_do_not_fit_are_found(fields, message):
    family = type("Wrong", (Arms,), {"model_fields": fields})()
    with pytest.raises(TaskError, match=message):
        check_family(family)
    if "got" in message:
        with pytest.raises((ShapeError, SettingsError), match=message):
            make_vec(family, 3, device="cpu")


def test_tasks_change_the_same_fields():
    def fields(family, tasks):
        name = "opt.gravity" if tasks["load"][0] < 1 else "opt.wind"
        return {name: gravities(family, tasks)}

    env = make_vec(type("Varied", (Arms,), {"model_fields": fields})(), 2, device="cpu")
    angles = torch.zeros(2)
    env.set_tasks({"angle": angles, "load": torch.tensor([0.6, 0.7])})
    with pytest.raises(SettingsError, match=r"the same fields .* got \['opt.wind'\] after"):
        env.set_tasks({"angle": angles, "load": torch.tensor([1.6, 1.7])})
