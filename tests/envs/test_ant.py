"""Goals of the ant: their law, what they pay, and that it sees where it is."""

import math

import pytest
import torch
from metarl_envs import AntGoal

from metarl.errors import SettingsError
from tests.envs.test_locomotion import actions, started


@pytest.mark.parametrize("part", ["train", "test"])
def test_goals_are_uniform_in_the_disc(part):
    tasks = AntGoal(part=part).sample(4000, torch.Generator().manual_seed(0)).values["goal"]
    steps = torch.arange(1, 4001) / 4000
    inner = (tasks.norm(dim=1) / 3).square().sort().values  # uniform, as areas are
    angle = (torch.atan2(tasks[:, 1], tasks[:, 0]) / (2 * math.pi) + 0.5).sort().values
    for law in (inner, angle):
        assert (law - steps).abs().max() < 0.03


def test_goals_may_be_uniform_in_a_square():
    tasks = AntGoal(square=True).sample(4000, torch.Generator().manual_seed(0)).values["goal"]
    assert 2.99 < tasks.abs().max() <= 3 and tasks.norm(dim=1).max() > 4
    torch.testing.assert_close(tasks.std(0), torch.full((2,), 3**0.5), rtol=0.03, atol=0)
    assert tasks.mean(0).abs().max() < 0.1
    assert "U(-3, 3)^2" in str(AntGoal(square=True).card())


def test_the_distance_after_the_step_and_the_controls_cost():
    env = started(AntGoal())
    for a in actions(env.family, 5, 3):
        seen, reward, ended, *_ = env.step(a)
        goal, state = env.get_tasks()["goal"], env.state_dict()["state"]
        distance = (state["qpos"][:, :2] - goal).abs().sum(1)
        expected = -distance - 0.1 * a.clamp(-1, 1).square().sum(1)
        torch.testing.assert_close(reward, expected.float())
        torch.testing.assert_close(seen[:, :2], state["qpos"][:, :2].float())
        assert not ended.any()
    assert seen.shape == (3, 29)


def test_it_never_falls():
    state = AntGoal().reset({}, torch.full((2, AntGoal().reset_noise), 0.5))
    state["qpos"][:, 2] = 0.05
    assert not AntGoal().terminated(state, {}).any()


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_radii_are_checked(radius):
    with pytest.raises(SettingsError, match="radius above 0"):
        AntGoal(radius=radius)
