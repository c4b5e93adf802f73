"""Runs on one GPU: the same seed gives the same run, which resumes to the bit."""

import pytest
import torch
from metarl_envs.half_cheetah import HalfCheetahVelocity
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import MAML
from metarl.models import MLP
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.tasks import Sine
from metarl.training import OuterLoop, TrainingSettings
from metarl.training.trust_region import TrustRegionSettings
from tests.devices import deterministic_algorithms, on_cuda
from tests.sim.warp.devices import prepare_warp

FAMILIES = {"navigation": Navigation2D(horizon=6), "robot": HalfCheetahVelocity(horizon=10)}


def loop(name, folder, iterations, device, resume=None):
    generator = torch.Generator().manual_seed(0)
    settings = TrainingSettings(
        iterations=iterations, meta_batch_size=3, log_every=2, eval_every=0, checkpoint_every=3,
        device=str(device), deterministic=True,
    )  # fmt: skip
    if name == "sine":
        learner = MAML(MLP((1, 8, 1), generator), 0.01, 2)
        return OuterLoop(learner, Sine(), settings, folder, resume=resume)
    family = FAMILIES[name]
    policy = policy_for(family, generator, hidden=(8,))
    learner = PolicyLearner(MAML(policy, 0.3), family, PolicyGradientSettings(trajectories=4))
    # The update keeps the learner's parameters, which the loop moves in place.
    update = TrustRegionSettings(fisher_trajectories=2)
    return OuterLoop(learner, family, settings, folder, update=update, resume=resume)


@pytest.fixture
def restored():
    """Torch's algorithms, as they were, after the test."""
    with deterministic_algorithms():
        yield


@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", ["sine", *FAMILIES])
def test_a_deterministic_run_resumes_to_the_bit(name, device, tmp_path, restored):
    if device == "cuda":
        device = on_cuda()
        if name == "robot":
            prepare_warp("cuda")
    whole = loop(name, tmp_path / "whole", 5, device)
    whole.run()
    first = loop(name, tmp_path / "cut", 3, device)
    first.run()
    second = loop(name, tmp_path / "cut", 5, device, first.checkpoints.latest())
    assert second.iteration == 3
    second.run()
    expected, got = whole.learner.state_dict(), second.learner.state_dict()
    assert all(torch.equal(got[n], p) for n, p in expected.items())
    assert torch.equal(whole.generator.get_state(), second.generator.get_state())
