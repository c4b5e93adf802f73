"""Names of code in a run are refused, unless the user allows them on this command line."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from metarl.errors import SettingsError, UntrustedError
from metarl.lab.robots import FamilySettings
from metarl.lab.trust import check_trusted
from metarl.sim import make_family
from metarl.training import TrainingSettings
from tests.commands.conftest import TINY
from tests.experiments.test_custom import run as run_custom

FAMILY = "tests.sim.families:Drift"


@pytest.mark.parametrize(
    "change",
    [
        {"family": "os:system"},
        {"family": "os :system"},
        {"family": "weird-module:x"},
        {"family": "os:0"},
        {"options": ("command=os:system",)},
        {"options": ("command='os:system'",)},
        {"options": ("command={'a': ['os:system']}",)},
        {"training": TrainingSettings(device="os:system")},
    ],
    ids=str,
)
def test_names_of_code_are_found_in_any_setting(change):
    settings = FamilySettings(**change)
    with pytest.raises(UntrustedError, match=r"names code in its setting .*--trust.*trust\.md"):
        check_trusted(settings, Path("run"))


@pytest.mark.parametrize(
    "change",
    [
        {"family": "Navigation2D-v1"},
        {"options": ("fastest=3", "integrator=implicitfast", "ranges={'g': (1, 2)}")},
        {"training": TrainingSettings(device="cuda:1")},
        {"runs": Path("C:/runs"), "resume": "C:/runs/custom"},
    ],
    ids=str,
)
def test_other_settings_are_not(change):
    check_trusted(FamilySettings(**change), Path("run"))


def test_what_the_user_typed_is_allowed():
    @dataclass(frozen=True)
    class Inner:
        loss: str = "mine:loss"

    @dataclass(frozen=True)
    class Outer:
        inner: Inner = field(default_factory=Inner)
        family: str = "mine:tasks"

    check_trusted(Outer(), Path("run"), ["mine:tasks", "mine:loss"])
    with pytest.raises(UntrustedError, match=r"setting inner\.loss: 'mine:loss'"):
        check_trusted(Outer(), Path("run"), ["mine:tasks"])


@pytest.mark.parametrize("name", ["os:system", "os:getcwd", "subprocess:Popen", "os:environ"])
def test_what_is_no_family_is_not_called(name):
    with pytest.raises(SettingsError, match="which was not called"):
        make_family(name)


@pytest.fixture
def run_of_mine(tmp_path, monkeypatch):
    """A run of a family that its user named as module:Name, and the marker of the evil family."""
    small = ("--gradients.trajectories", 2, "--hidden", 4, "--test-steps", 1, "--film", 0)
    arguments = (
        "--algorithm", "reptile", "--family", FAMILY, "--horizon", 3, *TINY, *small,
        "--runs", tmp_path / "runs",
    )  # fmt: skip
    run_custom(monkeypatch, *arguments)
    (folder,) = (tmp_path / "runs" / "custom" / "reptile").iterdir()
    return folder


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_that_names_code_opens_only_if_it_is_trusted(run_of_mine, metarl, monkeypatch):
    for command in (("evaluate", run_of_mine), ("play", run_of_mine)):
        status, printed = metarl(*command)
        assert status == 1 and FAMILY in printed.err and "--trust" in printed.err
    status, printed = metarl("evaluate", run_of_mine, "--trust")
    assert status == 0, printed.err
    policy = run_of_mine / "policy.pt2"
    status, printed = metarl("export", run_of_mine, policy, "--to", "torch")
    assert status == 1 and "--trust" in printed.err and not policy.exists()


def test_resuming_reads_what_it_does_not_trust(run_of_mine, monkeypatch):
    resume = ("--resume", run_of_mine, "--training.iterations", 3)
    with pytest.raises(UntrustedError, match=r"--family \.\.\."):
        run_custom(monkeypatch, *resume)
    run_custom(monkeypatch, *resume, "--trust")
    run_custom(monkeypatch, *resume, "--family", FAMILY)
    run_custom(monkeypatch, *resume, f"--family={FAMILY}")
    with pytest.raises(SettingsError, match="it needs --resume"):
        run_custom(monkeypatch, "--family", FAMILY, "--trust")


def test_a_shell_command_in_a_run_is_not_run(run_of_mine, metarl, monkeypatch, tmp_path):
    marker = tmp_path / "marker"
    change_config(
        run_of_mine, family="os:system", options=[f"command=touch {marker}"], horizon=None
    )
    for arguments in ((), ("--trust",)):
        status, printed = metarl("evaluate", run_of_mine, *arguments)
        assert status == 1 and "os:system" in printed.err and "Traceback" not in printed.err
    with pytest.raises(UntrustedError, match="os:system"):
        run_custom(monkeypatch, "--resume", run_of_mine)
    with pytest.raises(SettingsError, match="was not called"):
        run_custom(monkeypatch, "--resume", run_of_mine, "--family", "os:system")
    assert not marker.exists()
