"""Every learner is trained by a graph of whole iterations as by its operations."""

import pytest
import torch

from metarl.cuda_graphs import CudaDriver
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from tests.devices import on_cuda
from tests.graph_recorder import Recorder
from tests.test_all_algorithms import ALGORITHMS, COMPARING, SGD, build, tasks_of

UNTRACED = {"matching-context"}  # torch's tracer does not take its LSTM on a CPU


def trained(name, driver=None, device="cpu", iterations=4):
    """Returns the outer update and the learner's state after some iterations."""
    problem = "glyphs" if name in COMPARING else "sine"
    learner = build(name, problem)[0].to(device)
    kind = {"optimizer": "sgd", "outer_lr": 0.5} if name in SGD else {"outer_lr": 2.0**-10}
    step = MetaStep(learner, TrainingSettings(**kind), driver=driver)
    generator, tasks = torch.Generator(device).manual_seed(1), tasks_of(problem)
    for i in range(iterations):
        inputs = learner.collect(tasks.sample(3, generator), generator, i)
        result = step(inputs, i)
        assert result.finite
        learner.after_update(result.carry)
    return step.captured, learner.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in (*ALGORITHMS, *COMPARING) if n not in UNTRACED])
def test_a_trace_trains_to_the_bit(name):
    captured, state = trained(name, Recorder())
    assert captured is not None and captured.refused is None
    expected = trained(name)[1]
    assert all(torch.equal(state[n], p) for n, p in expected.items())


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*ALGORITHMS, *COMPARING])
def test_cuda_captures_it(name):
    captured, _ = trained(name, CudaDriver(), on_cuda())
    assert captured is not None and captured.refused is None
