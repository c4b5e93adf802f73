"""The maps between a policy's units and its environment's."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.rl.moments import Moments
from metarl.rl.units import CLIP, ActionScale, ObservationScale, units_for
from metarl.sim.spaces import flat_actions, flat_observations

INF = np.inf


def box(low, high, dtype=np.float32):
    return spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


def test_actions_reach_finite_bounds_and_keep_their_units_elsewhere():
    scale = ActionScale(box([200, 0, -INF, 0, -1], [400, 0.01, INF, INF, 1]))
    ends = scale(torch.tensor([[-1.0] * 5, [0.0] * 5, [1.0] * 5]))
    expected = [[200, 0, -1, -1, -1], [300, 0.005, 0, 0, 0], [400, 0.01, 1, 1, 1]]
    torch.testing.assert_close(ends, torch.tensor(expected), rtol=1e-6, atol=1e-8)
    assert scale.bounded.tolist() == [True, True, False, False, True]


def test_choices_and_the_largest_float_are_no_units_to_map():
    largest = float(np.finfo(np.float32).max)
    space = spaces.Tuple((spaces.Discrete(4), box([-largest], [largest]), box([0], [6])))
    scale = ActionScale(flat_actions(space))
    mapped = scale(torch.tensor([3.0, 0.5, -0.5]))
    torch.testing.assert_close(mapped, torch.tensor([3.0, 0.5, 1.5]))


def test_nothing_is_mapped_where_the_bounds_are_one():
    ones = box([-1, -1], [1, 1])
    assert units_for(ones, ones, scale_actions=True, normalize_observations=True) is None
    wide = box([-9], [9])
    assert units_for(wide, wide, scale_actions=False, normalize_observations=False) is None
    units = units_for(ones, spaces.Discrete(2), scale_actions=True, normalize_observations=True)
    assert units is None


def test_only_entries_without_a_scale_are_standardised():
    scale = ObservationScale(box([-1, 0, -8, -INF, 0], [1, 1, 8, INF, 300]), True)
    assert scale.entries.tolist() == [2, 3, 4]
    mean, deviation = [2.0, -1e5, 100.0], [4.0, 3.0, 1e-3]
    squares = [10 * d**2 for d in deviation]
    scale.update(Moments(*(torch.tensor(v).double() for v in (10, mean, squares))))
    observed = torch.tensor([[0.5, 0.25, 6.0, -1e5 + 3, 100.0], [9, 9, 1e9, -2e5, 100]])
    expected = torch.tensor([[0.5, 0.25, 1.0, 1.0, 0.0], [9, 9, CLIP, -CLIP, 0]])
    torch.testing.assert_close(scale(observed), expected, atol=1e-5, rtol=1e-5)


def test_narrow_bounds_give_no_scale():
    """What says 0.95 to 1.05 hardly differs for a policy; 0 to 0.5 and 1 to 2 do."""
    space = box([0.95, -1.05, 0.5, 1, 0, 1.5, 1], [1.05, -0.95, 1, 2, 0.5, 2, 1])
    assert ObservationScale(space, True).entries.tolist() == [0, 1, 5, 6]


def test_images_are_divided_by_255_and_discrete_values_unchanged():
    space = spaces.Dict(
        camera=spaces.Box(0, 255, (8, 9, 3), np.uint8),
        gear=spaces.Discrete(3),
        speed=box([0], [90]),
    )
    flat = flat_observations(space)
    scale = ObservationScale(flat, True)
    assert scale.entries.tolist() == [8 * 9 * 3 + 3]
    value = {"camera": np.full((8, 9, 3), 51, np.uint8), "gear": 1, "speed": [0.0]}
    mapped = scale(torch.from_numpy(spaces.flatten(space, value).astype(np.float32)))
    torch.testing.assert_close(mapped[:216], torch.full((216,), 0.2))
    assert mapped[216:].tolist() == [0, 1, 0, 0]


def test_constant_observations_are_only_shifted():
    scale = ObservationScale(box([-INF, -INF], [INF, INF]), True)
    moments = (10.0, [1e5, 0.0], [10 * (1e-3) ** 2, 0.0])
    scale.update(Moments(*(torch.tensor(v).double() for v in moments)))
    torch.testing.assert_close(scale(torch.tensor([1e5 + 1, 0.5])), torch.tensor([1.0, 0.5]))


@pytest.fixture
def units():
    wide, motor = box([-INF, -INF], [INF, INF]), box([200], [400])
    found = units_for(
        wide, motor, scale_actions=True, normalize_observations=True, scale_rewards=True
    )
    assert found is not None
    return found


def rollouts(generator, tasks=4):
    observations = torch.randn(tasks, 3, 6, 2, generator=generator) * 50 + 1000
    rewards = 1e4 * torch.randn(tasks, 3, 6, generator=generator)
    return observations, rewards, torch.ones(tasks, 3, 6)


def test_updates_standardise_what_comes_and_survive_a_state_dict(units, generator):
    assert units.learns and not units.started
    observations, rewards, mask = rollouts(generator)
    before = units.observe(observations)
    moments = units.moments(observations, rewards, mask)
    torch.testing.assert_close(units.observe(observations), before, rtol=0, atol=0)
    units.update(moments)
    own = units.observe(observations).flatten(0, 2)
    torch.testing.assert_close(own.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(own.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    power = units.reward(rewards).clamp(-9, 9).square().mean()
    assert 0.9 < power < 1.1
    torch.testing.assert_close(units.raw_observations(own), observations.flatten(0, 2))
    other = copy.deepcopy(units)
    other.update(moments)
    other.load_state_dict(units.state_dict())
    assert torch.equal(other.observe(observations), units.observe(observations))


def test_chunks_of_tasks_and_several_updates_give_the_same_statistics(units, generator):
    observations, rewards, mask = rollouts(generator)
    other = copy.deepcopy(units)
    units.update(units.moments(observations, rewards, mask))
    for low in (0, 2):
        part = (v[low : low + 2] for v in (observations, rewards, mask))
        other.update(other.moments(*part))
    for name, value in units.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=name)


def test_metrics_name_the_scale_and_what_is_clipped(units, generator):
    observations, rewards, mask = rollouts(generator)
    units.update(units.moments(observations, rewards, mask))
    actions = torch.tensor([0.5, 2.0]).repeat(9).view(1, 3, 6, 1).expand(4, 3, 6, 1)
    own = units.observe(observations)
    own[0] = CLIP
    found = units.metrics(own, actions, mask)
    assert {n: v.shape for n, v in found.items()} == dict.fromkeys(found, (4,))
    assert found["units/observations_clipped"].tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(found["units/actions_clipped"], torch.full((4,), 0.5))
    assert 900 < found["units/observation_mean"][0] < 1100
    assert 40 < found["units/observation_deviation"][0] < 60
    assert 0.8e4 < found["units/reward_size"][0] < 1.2e4
