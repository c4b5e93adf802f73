"""Trials whose steps are captured between those of a physics engine: as without a graph."""

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import pytest
import torch

from metarl.errors import SimulationError
from metarl.rl.settings import PolicySettings
from metarl.rl.trials.captured_trial_steps import CapturedTrialSteps
from metarl.rl.trials.history import MemorySettings
from metarl.rl.trials.play import draw_trial_noise, play
from metarl.rl.trials.recurrent_policy import RecurrentPolicy
from metarl.sim import make_family, make_vec
from metarl.trees import map_tensors
from tests.devices import on_cuda
from tests.graph_recorder import Recorder, Refusing
from tests.rl.test_captured_steps import NoisyDrift, Pushed
from tests.sim.families import Drift
from tests.sim.test_disturbances import LateDrift
from tests.sim.warp.devices import prepare_warp

T, N, E = 3, 2, 3


@dataclass(frozen=True)
class EndlessDrift(Drift):
    """No episode ends early."""

    @property
    def may_terminate(self):
        return False

    def terminated(self, state, tasks):
        return torch.zeros_like(state["place"], dtype=torch.bool)


@dataclass(frozen=True)
class CutDrift(EndlessDrift):
    """Episodes are cut off, and measured."""

    metrics = MappingProxyType({"distance": "last"})

    def truncated(self, state, tasks):
        return state["place"].abs() > 0.6

    def measure(self, before, actions, after, tasks):
        return {"distance": after["place"].abs()}


def g(seed):
    return torch.Generator().manual_seed(seed)


def policy_of(family, memory="gru", own=False):
    options = PolicySettings(scale_actions=own, normalize_observations=own)
    settings = MemorySettings(memory, heads=1, blocks=1, steps=E * family.horizon)
    spaces = (family.observation_space, family.action_space)
    return RecurrentPolicy(*spaces, g(0), 4, options=options, memory=settings)


def changed(policy, seed):
    """Moves the weights, as an optimiser does, and the statistics of the units if it has any."""
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=g(seed)))
    if policy.units is not None:
        values = 3 * torch.randn(T, 2, 4, policy.observation_size, generator=g(seed))
        policy.units.update(policy.units.moments(values, values[..., 0], values[..., 0] > 0))


def both(family, driver, seeds=3, **settings):
    """Yields what is captured and what is expected, for trials with new tasks and weights."""
    policy = policy_of(family, **settings)
    plain, env = (Pushed(family, T * N, autoreset="disabled") for _ in range(2))
    captured = CapturedTrialSteps(env, policy, True, driver)
    for seed in range(seeds):
        changed(policy, seed)
        tasks = family.sample(T, g(seed)).values
        noise = draw_trial_noise(policy, family, T, N, E, g(seed))
        expected = play(plain, policy, tasks, noise, policy.units, True)
        yield captured, captured(tasks, noise), expected
        assert env.runs == (seed + 1) * E * family.horizon


CASES = {
    "ends": (Drift(), {}),
    "cut off": (CutDrift(), {}),
    "endless": (EndlessDrift(), {}),
    "late": (LateDrift(), {}),
    "noisy": (NoisyDrift(), {}),
    "attention": (Drift(), {"memory": "attention"}),
    "own units": (Drift(horizon=9), {"own": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_captured_steps_are_those_of_play(case):
    family, settings = CASES[case]
    recorder, earlier = Recorder(), []
    for captured, actual, expected in both(family, recorder, **settings):
        assert captured.refused is None
        assert (expected.mask == 0).any() == (case != "endless")
        map_tensors(torch.testing.assert_close, actual, expected)
        earlier.append((map_tensors(torch.clone, actual), actual))
    assert recorder.captures == 1
    assert recorder.replays == 1 + 3 * E * (family.horizon - 1)
    for copy, trials in earlier:  # a later episode writes into other memory
        map_tensors(torch.testing.assert_close, trials, copy)


def test_steps_that_cannot_be_captured_run_without_a_graph(capsys):
    for captured, actual, expected in both(Drift(), Refusing()):
        map_tensors(torch.testing.assert_close, actual, expected)
        assert "not permitted" in str(captured.refused)
    assert capsys.readouterr().err.count("without a CUDA graph") == 1


def test_weights_in_other_memory_are_captured_again():
    family, recorder = Drift(), Recorder()
    policy, env = policy_of(family), Pushed(family, T * N, autoreset="disabled")
    captured = CapturedTrialSteps(env, policy, False, recorder)
    tasks = family.sample(T, g(0)).values
    noise = draw_trial_noise(policy, family, T, N, E, g(0))
    captured(tasks, noise)
    for p in policy.parameters():
        p.data = p.data + 0.5
    plain = Pushed(family, T * N, autoreset="disabled")
    map_tensors(
        torch.testing.assert_close, captured(tasks, noise), play(plain, policy, tasks, noise)
    )
    assert recorder.captures == 2


def test_an_invalid_value_is_the_error_of_play():
    family, policy = Drift(), policy_of(Drift())
    captured = CapturedTrialSteps(
        Pushed(family, T * N, autoreset="disabled"), policy, False, Recorder()
    )
    tasks = family.sample(T, g(0)).values
    noise = draw_trial_noise(policy, family, T, N, E, g(0))
    captured(tasks, noise)
    tasks["speed"][1] = torch.nan
    with pytest.raises(SimulationError, match="nan"):
        captured(tasks, noise)
    assert captured.refused is None


@pytest.mark.gpu
@pytest.mark.parametrize("memory", ["gru", "attention"])
@pytest.mark.parametrize("name", ["HalfCheetahVelocity-v1", "HopperRandomParameters-v1"])
def test_robots_on_warp_are_captured(name, memory):
    prepare_warp("cuda")
    device, family = on_cuda(), make_family(name, horizon=5)
    policy = policy_of(family, memory).to(device)
    plain, env = (make_vec(family, T * N, device, autoreset="disabled") for _ in range(2))
    captured = CapturedTrialSteps(env, policy, False)
    for seed in range(3):
        generator = torch.Generator(device).manual_seed(seed)
        tasks = family.sample(T, generator).values
        noise = draw_trial_noise(policy, family, T, N, E, generator)
        close = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-3)
        map_tensors(close, captured(tasks, noise), play(plain, policy, tasks, noise))
    assert captured.refused is None
