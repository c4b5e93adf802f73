"""Rollouts and inner steps captured as a graph equal those that are run one by one."""

import copy

import pytest
import torch
from metarl_envs import TabularMDP
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import MAML, MetaSGD
from metarl.errors import SimulationError
from metarl.rl import PolicyLearner
from metarl.rl.captured_path import CapturedPath
from metarl.rl.policies import policy_for
from metarl.rl.settings import PolicyGradientSettings
from metarl.trees import map_tensors
from tests.devices import on_cuda
from tests.graph_recorder import Recorder, Refusing
from tests.sim.families import Drift

T = 3


def maml(policy):
    return MAML(policy, 0.1, steps=2)


def meta_sgd(policy):
    return MetaSGD(policy, torch.Generator().manual_seed(1), steps=2)


def learners(family, algorithm=maml, driver=None, device="cpu", **options):
    """Returns a learner whose paths are captured, the plain one, and the captured path."""
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, hidden=(8,), **options)
    settings = PolicyGradientSettings(trajectories=4)
    plain = PolicyLearner(algorithm(policy), family, settings).to(device)
    learner = copy.deepcopy(plain)
    if driver is not None:
        learner._path_of = CapturedPath(learner, learner.worlds, learner._collect_path, driver)
        plain._path_of = CapturedPath(plain, plain.worlds, plain._collect_path)
    return learner, plain


def collected(learner, seed, device="cpu"):
    generator = torch.Generator(device).manual_seed(seed)
    return learner.collect(learner.family.sample(T, generator), generator, 0)


def moved(learner, seed):
    """Changes all parameters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in learner.parameters():
            p.add_((0.1 * torch.randn(p.shape, generator=generator)).to(p.device))


@pytest.mark.parametrize("algorithm", [maml, meta_sgd])
@pytest.mark.parametrize(
    "family", [Navigation2D(horizon=6), TabularMDP(horizon=5), Drift()], ids=lambda f: f.name
)
def test_captured_paths_are_those_of_the_steps(family, algorithm):
    recorder = Recorder()
    learner, plain = learners(family, algorithm, recorder)
    for seed in range(3):
        map_tensors(torch.testing.assert_close, collected(learner, seed), collected(plain, seed))
        moved(learner, seed)
        moved(plain, seed)
    assert (recorder.captures, recorder.replays) == (1, 3)


def test_running_statistics_are_read_at_each_replay():
    recorder = Recorder()
    learner, plain = learners(Drift(), driver=recorder, normalize_observations=True)
    for seed in range(3):
        inputs, expected = collected(learner, seed), collected(plain, seed)
        map_tensors(torch.testing.assert_close, inputs, expected)
        for one in (learner, plain):
            one.policy.units.update(expected.moments)
    assert recorder.captures == 1


def test_a_path_that_cannot_be_captured_is_run_step_by_step(capsys):
    learner, plain = learners(Drift(), driver=Refusing())
    for seed in range(2):
        map_tensors(torch.testing.assert_close, collected(learner, seed), collected(plain, seed))
    assert "not permitted" in str(learner._path_of.refused)
    assert capsys.readouterr().err.count("without a CUDA graph") == 1


def test_an_invalid_value_is_the_error_of_the_steps():
    learner, _ = learners(Navigation2D(horizon=4), driver=Recorder())
    collected(learner, 0)
    with torch.no_grad():
        next(iter(learner.parameters())).fill_(torch.nan)
    with pytest.raises(SimulationError, match="World 0 has the action"):
        collected(learner, 1)


def test_a_copy_captures_its_own():
    learner, _ = learners(Drift(), driver=Recorder())
    collected(learner, 0)
    assert copy.deepcopy(learner)._path_of._graphed is None


@pytest.mark.gpu
@pytest.mark.parametrize(
    "family", [Navigation2D(horizon=6), TabularMDP(horizon=5), Drift()], ids=lambda f: f.name
)
def test_cuda_graphs_are_not_refused(family):
    device = on_cuda()
    learner, plain = learners(family, device=device)
    plain._path_of = lambda *part: tuple(zip(*plain._collect_path(*part), strict=True))
    for seed in range(3):
        inputs, expected = collected(learner, seed, device), collected(plain, seed, device)
        map_tensors(torch.testing.assert_close, inputs, expected)
        moved(learner, seed)
        moved(plain, seed)
    assert learner._path_of._graphed is not None
    assert learner._path_of.refused is None
