"""Rollouts captured as a graph equal those that are run step by step."""

import pytest
import torch
from metarl_envs import Bandit, TabularMDP
from metarl_envs.navigation import Navigation2D

from metarl.errors import SimulationError
from metarl.models.base import task_params
from metarl.rl import captured_rollouts
from metarl.rl.captured_rollouts import CapturedRollouts, can_capture
from metarl.rl.policies import policy_for
from metarl.rl.rollouts import collect, draw_noise
from metarl.sim import TorchVectorEnv
from metarl.trees import map_tensors
from tests.devices import on_cuda
from tests.graph_recorder import Recorder
from tests.sim.families import Drift
from tests.sim.test_disturbances import LateDrift
from tests.sim.test_episode_ends import Framed

T, N = 2, 3


def drawn(family, seed, policy=None, device="cpu"):
    generator = torch.Generator(device).manual_seed(seed)
    policy = policy or policy_for(family, generator, hidden=(8,))
    params = {
        n: p.detach() + 0.3 * torch.randn(p.shape, generator=generator, device=device)
        for n, p in task_params(policy, T).items()
    }
    noise = draw_noise(policy, family, T, N, generator)
    return policy, params, family.sample(T, generator).values, noise


@pytest.mark.parametrize(
    "family",
    [
        Navigation2D(horizon=12),
        TabularMDP(horizon=6),
        Bandit(horizon=5),
        Drift(),
        LateDrift(),
        Framed(),
    ],
    ids=lambda family: family.name,
)
def test_captured_rollouts_are_those_of_the_steps(family):
    recorder, policy = Recorder(), None
    env = TorchVectorEnv(family, T * N, autoreset="disabled")
    for seed in range(3):
        policy, params, tasks, noise = drawn(family, seed, policy)
        if seed == 0:
            captured = CapturedRollouts(env, policy, recorder)
        expected = collect(env, policy, params, tasks, noise)
        actual = captured(params, tasks, noise)
        map_tensors(torch.testing.assert_close, actual, expected)
    assert recorder.captures == 1
    assert recorder.replays == 3


def test_running_statistics_are_read_at_each_replay():
    family = Drift()
    policy = policy_for(family, torch.Generator().manual_seed(0), (8,), normalize_observations=True)
    env = TorchVectorEnv(family, T * N, autoreset="disabled")
    captured = CapturedRollouts(env, policy, Recorder())
    for seed in range(3):
        _, params, tasks, noise = drawn(family, seed, policy)
        expected = collect(env, policy, params, tasks, noise)
        map_tensors(torch.testing.assert_close, captured(params, tasks, noise), expected)
        assert expected.moments is not None
        policy.units.update(expected.moments)


def test_an_invalid_value_is_the_error_of_the_steps():
    family = Navigation2D(horizon=5)
    policy, params, tasks, noise = drawn(family, 0)
    env = TorchVectorEnv(family, T * N, autoreset="disabled")
    captured = CapturedRollouts(env, policy, Recorder())
    captured(params, tasks, noise)
    broken = {n: torch.full_like(p, torch.nan) for n, p in params.items()}
    with pytest.raises(SimulationError, match="World 0 has the action"):
        captured(broken, tasks, noise)


def test_only_unobserved_worlds_of_tensors_on_a_gpu_are_captured(monkeypatch):
    env = TorchVectorEnv(Navigation2D(), 2)
    assert not can_capture(env)
    env.device = torch.device("cuda", 0)
    assert can_capture(env)
    monkeypatch.setattr(captured_rollouts, "graphs_allowed", lambda: False)
    assert not can_capture(env)
    monkeypatch.undo()
    env.observer = lambda env, reward: None
    assert not can_capture(env)


@pytest.mark.gpu
def test_cuda_graphs_are_not_refused():
    family, device = Navigation2D(horizon=12), on_cuda()
    env = TorchVectorEnv(family, T * N, device=device, autoreset="disabled")
    policy = drawn(family, 0)[0].to(device)
    captured = CapturedRollouts(env, policy)
    for seed in range(3):
        _, *rest = drawn(family, seed, policy, device)
        map_tensors(torch.testing.assert_close, captured(*rest), collect(env, policy, *rest))
    assert captured.refused is None
