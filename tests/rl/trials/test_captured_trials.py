"""Trials and the updates of recurrent policies, captured as graphs: as without them."""

from functools import partial

import pytest
import torch
from metarl_envs import Navigation2D

from metarl.errors import SimulationError
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings, PolicySettings
from metarl.rl.trials import trial_learner
from metarl.rl.trials.captured_trials import CapturedTrials
from metarl.rl.trials.gru import GRU
from metarl.rl.trials.recurrent_learner import RL2Algorithm
from metarl.training import TrainingSettings
from metarl.training.meta_step import MetaStep
from metarl.training.proximal import ProximalSettings, ProximalUpdate
from tests.devices import on_cuda
from tests.graph_recorder import CountedReads, Recorder
from tests.rl.trials.test_recurrent_learner import (
    ATTENTION,
    FAMILIES,
    RECIPE,
    T,
    make,
    prepared,
)
from tests.sim.families import Drift


@pytest.fixture
def recorder(monkeypatch):
    """Trials of tensor families are captured by the recorder that this returns."""
    driver = Recorder()
    monkeypatch.setattr(trial_learner, "can_capture", lambda env: True)
    monkeypatch.setattr(trial_learner, "CapturedTrials", partial(CapturedTrials, driver=driver))
    return driver


def captured_of(learner):
    (captured,) = learner.worlds._captured.values()
    return captured


def moved(learner, seed):
    """Changes the parameters, and the statistics of the units if there are any."""
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g(seed)))
    if learner.units is not None:
        values = torch.randn(T, 2, 4, learner.policy.observation_size, generator=g(seed))
        learner.units.update(learner.units.moments(3 * values, values[..., 0], values[..., 0] > 0))


def in_own_units():
    """A policy that standardises observations and scales rewards by running statistics."""
    own = PolicySettings(normalize_observations=True)
    problem = ControlProblem(
        Drift(horizon=4), g(1), PolicyGradientSettings(2, clip=0.2), policy=own
    )
    return RL2Algorithm(episodes=3, units=5).build(problem)


CASES = {
    "own units": in_own_units,
    "early ends": lambda: make(Drift(horizon=4)),
    "layer-normed": lambda: make(Drift(horizon=4), **RECIPE),
    "navigation": lambda: make(Navigation2D(horizon=3), embedding=4),
}


@pytest.mark.parametrize("name", CASES)
def test_captured_trials_are_those_of_play(name, recorder, monkeypatch):
    learner, plain = CASES[name](), CASES[name]()
    for seed in range(4):
        found = [learner.play(learner.family.sample(T, g(seed)), 3, g(seed))]
        with monkeypatch.context() as patch:
            patch.setattr(trial_learner, "can_capture", lambda env: False)
            found.append(plain.play(plain.family.sample(T, g(seed)), 3, g(seed)))
        torch.testing.assert_close(*found, rtol=0, atol=0)
        moved(learner, seed)
        moved(plain, seed)
    *_, captured = learner.worlds._captured.values()
    assert captured.refused is None
    starts = name == "own units"  # statistics start from trials of one episode
    assert recorder.captures == 1 + starts
    assert recorder.replays == 4 + starts  # one of each graph to compare


def g(seed):
    return torch.Generator().manual_seed(seed)


def test_the_host_reads_once_for_all_trials(recorder):
    learner = CASES["early ends"]()
    for _ in range(2):
        tasks, generator = learner.family.sample(T, g(0)), g(0)
        with CountedReads() as reads:
            learner.play(tasks, 3, generator)
    assert reads.count == 1 and captured_of(learner).refused is None


def test_values_that_are_not_finite_raise_the_error_of_play(recorder):
    learner = CASES["navigation"]()
    tasks = learner.family.sample(T, g(0))
    learner.play(tasks, 3, g(0))
    tasks.values["goal"][1] = torch.nan
    with pytest.raises(SimulationError, match="nan"):
        learner.play(tasks, 3, g(0))
    assert captured_of(learner).refused is None
    tasks = learner.family.sample(T, g(0))
    assert learner.play(tasks, 3, g(0)).rewards.isfinite().all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("mdp", {}), ("early ends", RECIPE), ("mdp", ATTENTION), ("cudnn", {"embedding": 4})],
)
def test_the_recurrence_is_part_of_the_graph_of_an_update(name, settings, monkeypatch):
    if name == "cudnn":  # the form in which a GPU unrolls it
        monkeypatch.setattr(GRU, "unroll", lambda self, sequences: self.forward(sequences)[0])
    ends = []
    for driver in (Recorder(), None):
        learner = make(FAMILIES["mdp" if name == "cudnn" else name], **settings)
        training = TrainingSettings(outer_lr=2.0**-7, meta_batch_size=T, max_grad_norm=1.0)
        step = MetaStep(learner, training, driver=driver)
        update = ProximalUpdate(step, ProximalSettings(epochs=3))
        for seed in range(3):
            result = update(prepared(learner, seed), seed)
            learner.after_update(result.carry)
        if driver is not None:
            assert step.captured is not None and step.captured.refused is None
            assert driver.captures == 1
        ends.append(learner.state_dict())
    torch.testing.assert_close(*ends, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, RECIPE, ATTENTION])
def test_cuda_graphs_are_not_refused(settings):
    device, family = on_cuda(), Navigation2D(horizon=3)
    learner = make(family, **settings).to(device)
    training = TrainingSettings(meta_batch_size=T)
    step = MetaStep(learner, training)
    for seed in range(3):
        generator = torch.Generator(device).manual_seed(seed)
        inputs = learner.collect(family.sample(T, generator), generator, seed)
        assert step(inputs, seed).finite
    assert captured_of(learner).refused is None
    assert step.captured is not None and step.captured.refused is None
