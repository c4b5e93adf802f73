"""Families and vector environments by name."""

import gymnasium
import metarl_envs
import pytest
import torch
from metarl_envs import Bandit, Navigation2D

from metarl.adaptation import MAML
from metarl.errors import SettingsError, UnknownNameError
from metarl.rl import PolicyLearner, policy_for
from metarl.sim import (
    FAMILIES,
    GymTasks,
    GymVectorEnv,
    MujocoVectorEnv,
    TaskFamily,
    TorchVectorEnv,
    Uniform,
    make_family,
    make_vec,
)
from metarl.sim.single_env import SingleEnv
from tests.sim.families import Drift

# A family for which no engine is there.
Unmoved = type("Unmoved", (TaskFamily,), dict.fromkeys(TaskFamily.__abstractmethods__))

PENDULA = GymTasks("Pendulum-v1", {"g": Uniform(5, 15)}, horizon=5)


def broken(size):
    """A builder that needs an argument."""
    return size


def test_families_are_found_by_name_and_take_settings():
    assert make_family("Navigation2D-v1") == Navigation2D()
    assert make_family("Bandit-v1", arms=10, horizon=20) == Bandit(10, 20)


def test_families_are_found_by_module_and_name():
    assert make_family("tests.sim.families:Drift", horizon=9) == Drift(9)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("navigation2d-v1", r"Unknown task family .*Did you mean 'Navigation2D-v1'\? Known: Ant"),
        ("metarl_envs:Navigatoin2D", "Cannot find .*has no attribute 'Navigatoin2D'.*module:Name"),
        ("no_such_module:TaskFamily", "No module named 'no_such_module'"),
        (":TaskFamily", "module:Name"),
    ],
)
def test_unknown_families(name, message):
    with pytest.raises(UnknownNameError, match=message):
        make_vec(name, 2)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Bandit-v1", {"amrs": 3}, "'Bandit-v1' cannot be built: .*'amrs'"),
        ("Bandit-v1", {"amrs": 3}, "Did you mean 'arms'. Its settings: arms, horizon, part"),
        ("tests.sim.test_make:broken", {}, "cannot be built: .*size"),
        ("tests.sim.test_make:broken", {"size": 3}, "to build a TaskFamily, got int"),
    ],
)
def test_families_that_cannot_be_built(name, settings, message):
    with pytest.raises(SettingsError, match=message):
        make_family(name, **settings)


def test_a_family_itself_may_be_named():
    assert make_family("tests.sim.test_make:PENDULA") is PENDULA
    assert make_family("tests.sim.test_make:PENDULA", horizon=9).horizon == 9
    with pytest.raises(SettingsError, match=r"cannot be built: .*'horizn'"):
        make_family("tests.sim.test_make:PENDULA", horizn=9)
    assert isinstance(make_vec("tests.sim.test_make:PENDULA", 2), GymVectorEnv)


def test_an_environment_without_tasks_is_told_what_to_do():
    with pytest.raises(UnknownNameError, match=r"not a family .*GymTasks\('Pendulum-v1', .*:tasks"):
        make_family("Pendulum-v1")


def test_a_vector_environment_by_name_or_of_a_family():
    by_name = make_vec("Navigation2D-v1", 3, device="cpu", autoreset="disabled", seed=5)
    of_family = make_vec(Navigation2D(), 3, device=torch.device("cpu"), engine="torch", seed=5)
    assert isinstance(by_name, TorchVectorEnv)
    assert isinstance(make_vec("HalfCheetahVelocity-v1", 2, device="cpu"), MujocoVectorEnv)
    assert by_name.family == of_family.family
    assert torch.equal(by_name.get_tasks()["goal"], of_family.get_tasks()["goal"])


def test_the_device_is_found():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert make_vec("Navigation2D-v1", 2).device.type == expected


def test_engines_are_checked():
    with pytest.raises(UnknownNameError, match=r"Unknown engine 'trch'. Did you mean 'torch'"):
        make_vec(Drift(), 2, engine="trch")
    with pytest.raises(SettingsError, match="No engine runs Unmoved"):
        make_vec(Unmoved(), 2)


def test_all_shipped_families_are_plug_ins():
    shipped = [getattr(metarl_envs, name) for name in metarl_envs.__all__]
    assert len(shipped) > 30
    for build in shipped:
        assert FAMILIES.get(build().name) is build


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Drift, r"got the class Drift. Build one: Drift\(\)"),
        (gymnasium.make("CartPole-v1"), "GymTasks makes one of an environment"),
        (None, "got None"),
    ],
)
def test_what_is_no_family_is_refused(wrong, message):
    """Classes, environments and ids had ended with an AttributeError."""
    generator = torch.Generator()
    adaptation = MAML(policy_for(Drift(), generator), 0.1)
    calls = [lambda f: make_vec(f, 2), SingleEnv, lambda f: PolicyLearner(adaptation, f)]
    if not isinstance(wrong, gymnasium.Env):  # it has spaces
        calls.append(lambda f: policy_for(f, generator))
    for call in calls:
        with pytest.raises(SettingsError, match=f"Expected a family of tasks.*{message}"):
            call(wrong)
    with pytest.raises(SettingsError, match="builds those that are registered by their names"):
        policy_for("CartPole-v1", generator)
