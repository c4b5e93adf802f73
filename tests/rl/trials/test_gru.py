"""The GRU over sequences, against torch's and against its own steps, in float64."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from metarl.errors import SettingsError
from metarl.rl.trials.gru import GRU
from metarl.rl.trials.gru_loops import gru_states
from tests.devices import on_cuda

L, B, WIDTH, H = 6, 3, 5, 4


def make(layer_norm, generator):
    gru = GRU(WIDTH, H, generator, layer_norm).double()
    with torch.no_grad():
        for p in gru.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.double))
    inputs = torch.randn(L, B, WIDTH, generator=generator, dtype=torch.double).requires_grad_()
    return gru, inputs, torch.randn(L, B, H, generator=generator, dtype=torch.double)


def steps(gru, inputs):
    state, rows = gru.begin(B), []
    for row in inputs:
        features, state = gru.step(row, state)
        rows.append(features)
    return torch.stack(rows)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_sequences_and_their_derivatives_are_those_of_the_steps(layer_norm, generator):
    gru, inputs, weights = make(layer_norm, generator)
    variables = [inputs, *gru.parameters()]
    candidates = [gru.unroll(inputs), steps(gru, inputs)]
    if not layer_norm:
        candidates.append(gru.forward(inputs)[0])  # torch's
    first, *others = candidates
    expected = torch.autograd.grad((first * weights).sum(), variables)
    for other in others:
        torch.testing.assert_close(first, other, rtol=1e-12, atol=1e-14)
        grads = torch.autograd.grad((other * weights).sum(), variables)
        for ours, theirs in zip(expected, grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_derivative_that_is_not_needed_is_left_out(layer_norm, generator):
    gru, inputs, weights = make(layer_norm, generator)
    (alone,) = torch.autograd.grad((gru.unroll(inputs) * weights).sum(), [inputs])
    gru.requires_grad_(False)
    (frozen,) = torch.autograd.grad((gru.unroll(inputs) * weights).sum(), [inputs])
    torch.testing.assert_close(alone, frozen)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_compiler_sees_one_operation_for_the_whole_loop(layer_norm, generator):
    gru, inputs, weights = make(layer_norm, generator)

    def gradients(values):
        out = gru.unroll(values)
        return torch.autograd.grad((out * weights).sum(), [values, *gru.parameters()])

    graph = make_fx(gradients)(inputs)
    names = [str(node.target) for node in graph.graph.nodes if "metarl" in str(node.target)]
    assert names == ["metarl.gru_states.default", "metarl.gru_gradients.default"]
    for ours, theirs in zip(graph(inputs), gradients(inputs), strict=True):
        torch.testing.assert_close(ours, theirs)
    of_loop = (gru.weight_hh_l0, gru.bias_hh_l0, gru.gain_hh)
    arguments = (torch.randn(L, B, 3 * H, generator=generator).double(), *of_loop)
    torch.library.opcheck(gru_states, arguments, test_utils=("test_schema", "test_faketensor"))


def test_a_second_derivative_is_refused(generator):
    gru, inputs, _ = make(False, generator)
    with pytest.raises(SettingsError, match="first derivatives only"):
        torch.autograd.grad(gru.unroll(inputs).sum(), [inputs], create_graph=True)


def test_layer_normalisation_makes_the_size_of_the_weights_irrelevant(generator):
    gru, inputs, _ = make(True, generator)
    before = gru.unroll(inputs)
    with torch.no_grad():
        gru.weight_ih_l0.mul_(1000)
        gru.weight_hh_l0.mul_(1000)
    torch.testing.assert_close(gru.unroll(inputs)[:1], before[:1], rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_gpu_computes_the_same(layer_norm, generator):
    gru, inputs, weights = make(layer_norm, generator)
    results = []
    for device in ("cpu", on_cuda()):
        gru, values = gru.to(device), inputs.detach().to(device).requires_grad_()
        out = gru.unroll(values)
        grads = torch.autograd.grad((out * weights.to(device)).sum(), [values, *gru.parameters()])
        results.append([t.detach().cpu() for t in (out, *grads)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
