"""The published evaluations of robots: their goals, rates and returns."""

from dataclasses import replace

import pytest
import torch
from metarl_envs.protocols import ICML_ROBOTS, icml_robots

from metarl.evaluation.control_protocol import ControlProtocol
from metarl.sim import make_family


def protocol_of(name) -> ControlProtocol:
    (protocol,) = icml_robots(make_family(name))
    return protocol


@pytest.mark.parametrize("name", ICML_ROBOTS)
def test_goals_are_tasks_of_the_family(name):
    family, protocol = make_family(name), protocol_of(name)
    sampled = family.sample(40, torch.Generator().manual_seed(0)).values
    assert protocol.tasks.values.keys() == sampled.keys()
    for task, goals in protocol.tasks.values.items():
        assert goals.shape == sampled[task].shape and goals.dtype == sampled[task].dtype
    assert set(protocol.published) == {"maml", "pretrained", "random", "oracle"}
    assert list(protocol.published["maml"]) == [0, 1, 2, 3]


def test_goals_are_numpys_of_their_seed():
    goals = protocol_of("HalfCheetahVelocityRllab-v1").tasks.values["velocity"]
    assert goals.mean().item() == pytest.approx(0.9185448)
    assert protocol_of("AntVelocityRllab-v1").tasks.values["velocity"].max() > 2
    first = protocol_of("HalfCheetahDirectionRllab-v1").tasks.values["direction"]
    assert torch.equal(first, torch.where(goals < 1, -1.0, 1.0))


def test_the_ants_direction_has_more_rollouts_and_smaller_later_steps():
    ant, cheetah = (protocol_of(f"{r}DirectionRllab-v1") for r in ("Ant", "HalfCheetah"))
    assert (ant.trajectories, ant.scales) == (40, (1.0, 0.01, 0.01))
    assert (cheetah.trajectories, cheetah.scales) == (20, (1.0, 0.5, 0.5))


def test_other_families_and_horizons_have_none():
    assert icml_robots(make_family("HalfCheetahVelocity-v1")) == []
    assert icml_robots(replace(make_family("AntVelocityRllab-v1"), horizon=100)) == []
