"""Functions captured as graphs: the same results, new values by the inputs, and what is refused."""

import gc
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from metarl.cuda_graphs import (
    MOST_GRAPHS,
    CudaDriver,
    Graphed,
    capturing,
    is_capturing,
    may_hold,
    uncollected,
)
from tests.devices import on_cuda
from tests.graph_recorder import Recorder, Refusing


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_a_replay_reads_new_inputs_and_new_parameters(module):
    recorder = Recorder()
    graphed = Graphed("sums", module, [], lambda _, x: {"y": module(x["x"]).sum(1)}, recorder)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = torch.randn(5, 3, generator=generator)
        torch.testing.assert_close(graphed({"x": x})["y"], module(x).sum(1).detach())
        with torch.no_grad():
            module.weight.add_(1.0)
    assert recorder.captures == 1
    assert recorder.replays == 4  # one of them to compare with the function


def test_gradients_of_parameters_are_captured(module):
    params = list(module.parameters())

    def gradient(leaves, x):
        return torch.autograd.grad(module(x).square().mean(), leaves)

    graphed = Graphed("gradients", module, params, gradient, Recorder())
    for scale in (1.0, 2.0):
        x = scale * torch.arange(6.0).view(2, 3)
        expected = torch.autograd.grad(module(x).square().mean(), params)
        torch.testing.assert_close(list(graphed(x)), list(expected))


def test_results_are_in_memory_that_later_replays_leave(module):
    graphed = Graphed("sums", module, [], lambda _, x: x + 1, Recorder())
    graphed(torch.zeros(2))
    one = graphed(torch.ones(2))
    graphed(torch.full((2,), 5.0))
    assert one.tolist() == [2, 2]


def test_each_structure_has_its_graph_up_to_a_number(module):
    recorder = Recorder()
    graphed = Graphed("sums", module, [], lambda _, x: x * 2, recorder)
    for size in [*range(1, MOST_GRAPHS + 4)] * 2:
        assert graphed(torch.ones(size)).tolist() == [2] * size
    assert recorder.captures == MOST_GRAPHS


def test_what_reads_a_value_runs_without_a_graph_and_says_so(module, capsys):
    def decides(_, x):
        return x + 1 if x.sum().item() > 0 else x - 1

    graphed = Graphed("decisions", module, [], decides, Recorder())
    for value in (1.0, -1.0, 1.0):
        assert graphed(torch.tensor([value])).item() == 2 * value
    assert graphed.refused is not None
    assert "The decisions run without a CUDA graph" in capsys.readouterr().err


def test_a_driver_that_refuses_leaves_the_function(module, capsys):
    graphed = Graphed("sums", module, [], lambda _, x: x + 1, Refusing())
    assert [graphed(torch.tensor(float(n))).item() for n in range(3)] == [1, 2, 3]
    assert "not permitted" in capsys.readouterr().err


def test_a_replay_that_differs_is_not_used(module, capsys):
    calls = []

    def counts(_, x):
        calls.append(None)  # the second call, which is captured, gives another result
        return x + len(calls)

    graphed = Graphed("counts", module, [], counts, Recorder())
    assert [graphed(torch.zeros(1)).item() for _ in range(3)] == [1, 3, 4]
    assert "differs" in capsys.readouterr().err


def test_the_host_decides_only_while_nothing_is_captured():
    flags = torch.tensor([False, False])
    assert not may_hold(flags)
    with capturing():
        assert is_capturing()
        assert may_hold(flags)
    assert not is_capturing()
    assert may_hold(torch.tensor([False, True]))


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_during_a_capture(enabled):
    try:
        if not enabled:
            gc.disable()
        with pytest.raises(ZeroDivisionError), uncollected():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_a_capture_has_a_stream_of_its_device_and_forbids_nothing_to_other_threads(monkeypatch):
    captures = []

    def graph(captured, **settings):
        captures.append(settings)
        return nullcontext()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {
        "Stream": lambda device: stream,
        "current_stream": lambda device: stream,
        "stream": nullcontext,
        "device": nullcontext,
        "CUDAGraph": lambda: SimpleNamespace(replay=None),
        "graph": graph,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    collecting = []

    def body():
        collecting.append(gc.isenabled())
        return []

    CudaDriver().capture(body, [torch.zeros(1)])
    assert captures == [{"stream": stream, "capture_error_mode": "thread_local"}]
    assert collecting == [True, True, False]  # two warm-ups, then the capture


@pytest.mark.gpu
def test_a_thread_that_copies_to_the_gpu_does_not_break_captures():
    device, stopped, errors = on_cuda(), threading.Event(), []

    def copies():
        try:
            while not stopped.is_set():
                torch.ones(1000).pin_memory().to(device)
                torch.cuda.current_stream(device).synchronize()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=copies)
    thread.start()
    try:
        for size in range(1, 6):
            graphed = Graphed("sums", nn.Linear(1, 1).to(device), [], lambda _, x: x + 1)
            for _ in range(3):
                assert graphed(torch.ones(size, device=device)).tolist() == [2] * size
            assert graphed.refused is None
    finally:
        stopped.set()
        thread.join()
    assert not errors


HOST = {
    "a list": lambda x: x + torch.tensor([1.0, 2.0], device=x.device),
    "an array": lambda x: x + torch.as_tensor(np.ones(2, np.float32)),
    "a mask": lambda x: x[x > 0],
    "a list of indices": lambda x: x[[1, 0]],
    "places": lambda x: (x > 0).nonzero(),
    "counts": lambda x: x.repeat_interleave(torch.tensor([1, 2])),
}


@pytest.mark.parametrize("case", HOST)
def test_the_recorder_refuses_what_a_gpu_would(module, case):
    graphed = Graphed("sums", module, [], lambda _, x: HOST[case](x), Recorder())
    graphed(torch.ones(2))
    assert "not permitted" in str(graphed.refused)


def test_the_recorder_takes_numbers_that_fill_memory(module):
    def function(_, x):
        x = x + torch.tensor(1.0)
        x[0, 0] = 0
        return x[0, ..., 1:].repeat_interleave(2, 0)

    graphed = Graphed("sums", module, [], function, Recorder())
    assert graphed(torch.ones(1, 2)).tolist() == [2, 2]
    assert graphed.refused is None
