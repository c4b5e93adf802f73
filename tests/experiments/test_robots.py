"""The experiments on robots as a user runs them, with a tiny budget."""

import pytest
from metarl_experiments.robot_configs import robot_configs

from metarl.errors import SettingsError, UnknownNameError
from metarl.lab.lookup import script_experiment
from metarl.lab.robots import FamilySettings, named_family
from metarl.runs.eval_file import read_curves
from metarl.sim import FAMILIES, make_family
from tests.experiments.test_control_scripts import EXPERIMENTS, TINY

# Script -> its default family, another one, and a setting of that.
SCRIPTS = {
    "half_cheetah": ("HalfCheetahVelocity-v1", "HalfCheetahLatency-v1", "beyond=true"),
    "ant": ("AntVelocity-v1", "AntGoal-v1", "square=true"),
    "walker2d": ("Walker2dVelocity-v1", "Walker2dSlope-v1", "integrator=implicitfast"),
    "hopper": ("HopperRandomParameters-v1", "HopperStrength-v1", "beyond=true"),
    "humanoid": ("HumanoidDirection-v1", "HumanoidDirection-v1", "solver=Newton"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_robot_runs(script, tmp_path, monkeypatch, capsys):
    _, family, option = SCRIPTS[script]
    arguments = ["--runs", str(tmp_path), *TINY, "--training.iterations", "1", "--horizon", "5"]
    monkeypatch.setattr("sys.argv", [script, *arguments, "--family", family, "--options", option])
    script_experiment(EXPERIMENTS / f"{script}.py").main()
    assert f"{family}:" in capsys.readouterr().out
    (folder,) = (tmp_path / script / "maml").iterdir()
    (line,) = read_curves(folder)
    assert line["environment_steps"] == 2 * 2 * 2 * 5
    assert len(line["mean"]) == 3


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_start_with_a_family_of_their_robot(script):
    family, _, _ = SCRIPTS[script]
    settings = script_experiment(EXPERIMENTS / f"{script}.py").configs["promp"]
    assert isinstance(settings, FamilySettings) and settings.family == family


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        ("fastest=3", "fastest", 3),
        ("fastest=2.5", "fastest", 2.5),
        ("integrator=implicitfast", "integrator", "implicitfast"),
    ],
)
def test_options_reach_the_family(option, name, value):
    family = named_family(FamilySettings(family="HalfCheetahVelocity-v1", options=(option,)))
    assert getattr(family, name) == value
    assert family.horizon == 200


def test_true_and_false_are_options_too():
    built = [
        named_family(FamilySettings(family="AntGoal-v1", horizon=7, options=(f"square={word}",)))
        for word in ("true", "false")
    ]
    assert [family.square for family in built] == [True, False]
    assert built[0].horizon == 7


@pytest.mark.parametrize("option", ["fastest", "=3", "fastest=", "a b=3"])
def test_options_are_checked(option):
    with pytest.raises(SettingsError, match="name=value, as fastest=3; got"):
        named_family(FamilySettings(family="AntVelocity-v1", options=(option,)))


def test_an_option_that_the_family_has_not_is_told():
    with pytest.raises(SettingsError, match="fastet"):
        named_family(FamilySettings(family="AntVelocity-v1", options=("fastet=3",)))


def test_a_family_of_another_robot_is_refused():
    settings = robot_configs("AntVelociti-v1")["maml"]
    with pytest.raises(
        UnknownNameError, match=r"Did you mean 'AntVelocity-v1'.*AntGoal-v1"
    ) as told:
        named_family(settings, "Ant")
    assert "Hopper" not in str(told.value)
    with pytest.raises(UnknownNameError, match="of Hopper"):
        named_family(robot_configs("AntVelocity-v1")["maml"], "Hopper")


def test_every_robots_family_has_a_script():
    robots = ("HalfCheetah", "Ant", "Walker2d", "Hopper", "Humanoid")
    own = [name for name in FAMILIES.names() if hasattr(make_family(name), "robot")]
    assert len(own) > 20
    assert all(name.startswith(robots) for name in own)


def test_configurations_keep_their_kind():
    configs = robot_configs("AntGoal-v1")
    assert all(settings.family == "AntGoal-v1" for settings in configs.values())
    assert getattr(configs["promp"].update, "max_kl", None) == 0.1
