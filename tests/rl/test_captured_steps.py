"""Steps captured between those of a physics engine equal those that are run one by one."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from metarl.errors import SimulationError
from metarl.rl.captured_steps import CapturedSteps, can_capture_steps
from metarl.rl.policies import policy_for
from metarl.rl.rollouts import collect
from metarl.sim import TorchVectorEnv, make_family, make_vec
from metarl.sim.physics_env import PhysicsVectorEnv
from metarl.trees import map_tensors
from tests.devices import on_cuda
from tests.graph_recorder import Recorder, Refusing
from tests.rl.test_captured_rollouts import N, T, drawn
from tests.sim.families import Drift
from tests.sim.test_disturbances import LateDrift
from tests.sim.warp.devices import prepare_warp


@dataclass(frozen=True)
class NoisyDrift(Drift):
    """Sensors are noisy."""

    noisy_sensors = True
    reset_noise = 3
    step_noise = 4

    def sensor_deviation(self, tasks):
        return tasks["speed"].unsqueeze(1).expand(-1, 2)


class Pushed(PhysicsVectorEnv):
    """Worlds of `Drift` whose places an engine adds up in separate memory."""

    def __init__(self, family, num_envs, **settings):
        super().__init__(family, num_envs, **settings)
        self.engine = {
            "push": torch.zeros(num_envs, device=self.device),
            "place": torch.zeros(num_envs, device=self.device),
        }
        self.runs = 0

    def start(self, noise, mask):
        fresh = self.family.reset(self._tasks, noise)
        assert mask is None
        self.engine["place"].copy_(fresh["place"])
        return fresh

    def send(self, actions):
        push = 0.5 * actions[:, 0].clamp(-1, 1) + self._tasks["speed"]
        self.engine["push"].copy_(push)

    def run(self):
        self.runs += 1
        self.engine["place"].add_(self.engine["push"])

    def receive(self, before):
        return {"place": self.engine["place"].clone(), "steps": before["steps"] + 1}


def both(family, driver, seeds=3, device="cpu", normalize=False):
    """Yields what is captured and what is expected, for episodes with new tasks and policies."""
    policy = policy_for(
        family, torch.Generator().manual_seed(0), (8,), normalize_observations=normalize
    ).to(device)
    plain, env = (Pushed(family, T * N, device=device, autoreset="disabled") for _ in range(2))
    captured = CapturedSteps(env, policy, driver)
    for seed in range(seeds):
        _, params, tasks, noise = drawn(family, seed, policy, device)
        expected = collect(plain, policy, params, tasks, noise)
        yield captured, captured(params, tasks, noise), expected
        assert env.runs == (seed + 1) * family.horizon
        map_tensors(torch.testing.assert_close, env.carried(), plain.carried())
        if expected.moments is not None:
            policy.units.update(expected.moments)


FAMILIES = {
    "ends": (Drift(), False),
    "late": (LateDrift(), False),
    "noisy": (NoisyDrift(), False),
    "normalised": (Drift(horizon=9), True),
}


@pytest.mark.parametrize("case", FAMILIES)
def test_captured_steps_are_those_of_collect(case):
    family, normalize = FAMILIES[case]
    recorder = Recorder()
    earlier = []
    for captured, actual, expected in both(family, recorder, normalize=normalize):
        map_tensors(torch.testing.assert_close, actual, expected)
        earlier.append((map_tensors(torch.clone, actual), actual))
        assert captured.refused is None
    assert recorder.captures == 1
    assert recorder.replays == 1 + 3 * (family.horizon - 1)
    for copy, rollouts in earlier:  # a later episode writes into other memory
        map_tensors(torch.testing.assert_close, rollouts, copy)


def test_steps_that_cannot_be_captured_run_without_a_graph(capsys):
    for captured, actual, expected in both(Drift(), Refusing()):
        map_tensors(torch.testing.assert_close, actual, expected)
        assert "not permitted" in str(captured.refused)
    assert capsys.readouterr().err.count("without a CUDA graph") == 1


def test_an_invalid_value_is_the_error_of_collect():
    family = Drift()
    policy, params, tasks, noise = drawn(family, 0)
    captured = CapturedSteps(Pushed(family, T * N, autoreset="disabled"), policy, Recorder())
    captured(params, tasks, noise)
    broken = {n: torch.full_like(p, torch.nan) for n, p in params.items()}
    with pytest.raises(SimulationError, match="World 0 has the action"):
        captured(broken, tasks, noise)


def test_only_unobserved_engines_on_a_gpu_are_captured(monkeypatch):
    assert not can_capture_steps(TorchVectorEnv(Drift(), 2))
    env = Pushed(Drift(), 2)
    assert not can_capture_steps(env)
    device = torch.device("cuda", 0)
    env.device = device
    assert not can_capture_steps(env)  # the engine's memory is on the CPU
    env.engine = {}
    assert can_capture_steps(env)
    env.observer = lambda env, reward: None
    assert not can_capture_steps(env)
    env = Pushed(Drift(horizon=3), 2)
    env.device, env.engine = device, {}
    assert not can_capture_steps(env)


@pytest.mark.gpu
def test_cuda_graphs_are_not_refused():
    for captured, actual, expected in both(Drift(), None, device=on_cuda()):
        map_tensors(torch.testing.assert_close, actual, expected)
        assert captured.refused is None


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["HalfCheetahVelocity-v1", "AntDirection-v1"])
def test_robots_on_warp_are_captured(name):
    prepare_warp("cuda")
    device, family = on_cuda(), make_family(name, horizon=5)
    policy = policy_for(family, torch.Generator().manual_seed(0), (8,)).to(device)
    plain, env = (make_vec(family, T * N, device, autoreset="disabled") for _ in range(2))
    assert can_capture_steps(env)
    captured = CapturedSteps(env, policy)
    for seed in range(3):
        _, params, tasks, noise = drawn(family, seed, policy, device)
        expected = collect(plain, policy, params, tasks, noise)
        close = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-3)
        map_tensors(close, captured(params, tasks, noise), expected)
    assert captured.refused is None
