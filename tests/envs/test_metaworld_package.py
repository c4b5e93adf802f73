"""What is said where Meta-World is missing or has another version; nothing of it is needed."""

import pytest
import torch
from metarl_envs import MetaWorldReach, metaworld_package
from metarl_envs.metaworld import benchmark

from metarl.errors import SettingsError
from metarl.sim import make_vec


@pytest.fixture
def missing(monkeypatch):
    def version(name):
        raise metaworld_package.PackageNotFoundError(name)

    monkeypatch.setattr(metaworld_package, "version", version)


def test_a_missing_package_is_told_with_the_command_that_installs_it(missing):
    family = MetaWorldReach(horizon=4)
    assert "success" in str(family.card())  # `metarl list` works without it
    for use in (lambda: make_vec(family, 2, device="cpu"), benchmark):
        with pytest.raises(SettingsError, match="pip install --no-deps 'metaworld"):
            use()
    assert not metaworld_package.is_installed()


@pytest.mark.parametrize(
    ("version", "fits"), [("3.1", True), ("3.1.1", True), ("3.10.0", False), ("2.0.0", False)]
)
def test_only_the_version_whose_rewards_these_are_is_taken(version, fits, monkeypatch):
    monkeypatch.setattr(metaworld_package, "version", lambda name: version)
    assert metaworld_package.is_installed() is fits
    if not fits:
        with pytest.raises(SettingsError, match=rf"Expected Meta-World 3\.1, found {version}"):
            metaworld_package.asset("sawyer_xyz/sawyer_reach_v3.xml")


def test_goals_are_those_of_a_seed_and_no_goal_is_in_two_splits():
    family = MetaWorldReach(goals=20, seed=3)
    parts = {p: family.split(p).tasks_at(torch.arange(20)) for p in ("train", "validation", "test")}
    rows = torch.cat([torch.cat((t.values["object"], t.values["goal"]), 1) for t in parts.values()])
    assert len(rows.unique(dim=0)) == 60
    apart = (rows[:, :2] - rows[:, 3:5]).norm(dim=1)
    assert apart.min() >= 0.15
    again = MetaWorldReach(goals=10, seed=4).tasks_at(torch.arange(10)).values["goal"]
    assert torch.equal(again, parts["test"].values["goal"][:10])  # test goals: of seed + 1
