"""Networks that read sequences: against torch's LSTM, step by step, and what they refuse."""

import pytest
import torch

from metarl.errors import SettingsError, TaskError
from metarl.learners.memory import external_memory as external
from metarl.learners.memory.networks import (
    FeedforwardOptions,
    MemoryAugmentedOptions,
    RecurrentOptions,
)
from metarl.learners.memory.sequences import Feedforward, MemoryAugmented, Recurrent
from metarl.trees import map_tensors

SETTINGS = {
    "mann": MemoryAugmentedOptions(units=6, slots=9, width=3, reads=2),
    "mann-plain": MemoryAugmentedOptions(units=6, slots=9, width=3, reads=2, strength=None),
    "lstm": RecurrentOptions(units=6),
    "feedforward": FeedforwardOptions(units=6),
}


@pytest.fixture(params=SETTINGS)
def network(request, generator):
    return SETTINGS[request.param].make(4, 3, generator)


@pytest.fixture
def inputs(generator):
    return torch.randn(2, 5, 4, generator=generator)


def test_the_lstm_is_torchs(generator, inputs):
    network = Recurrent(4, 3, generator, units=6)
    cell = torch.nn.LSTMCell(4, 6)
    with torch.no_grad():
        cell.weight_ih.copy_(network.input.weight)
        cell.weight_hh.copy_(network.recurrent)
        cell.bias_ih.copy_(network.input.bias)
        cell.bias_hh.zero_()
    state = None
    outputs, end = network.run(inputs)
    for t in range(5):
        state = cell(inputs[:, t], state)
        torch.testing.assert_close(outputs[:, t], network.output(state[0]))
    torch.testing.assert_close(end.cell, state[1])


def test_the_controller_sees_what_was_read_and_steers_the_memory(generator, inputs):
    network = MemoryAugmented(4, 3, generator, units=6, slots=9, width=3, reads=2, strength=5.0)
    cell = torch.nn.LSTMCell(4 + 6, 6)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat((network.input.weight, network.recurrent[:, 6:]), 1))
        cell.weight_hh.copy_(network.recurrent[:, :6])
        cell.bias_ih.copy_(network.input.bias)
        cell.bias_hh.zero_()
    outputs, _ = network.run(inputs)
    state, memory, reads = None, external.blank(2, 9, 3, 2, inputs), torch.zeros(2, 6)
    for t in range(5):
        state = cell(torch.cat((inputs[:, t], reads), 1), state)
        heads = network.heads(state[0])
        keys, gates = heads[:, :6].tanh().view(2, 2, 3), heads[:, 6:8].sigmoid()
        strengths = 1 + torch.nn.functional.softplus(heads[:, 8:])
        memory, vectors = external.read(external.write(memory, keys, gates, 0.99), keys, strengths)
        reads = vectors.flatten(1)
        expected = network.output(torch.cat((state[0], reads), 1))
        torch.testing.assert_close(outputs[:, t], expected)


def test_reads_start_as_sharp_as_is_wished(generator):
    for strength in (1.5, 10.0):
        network = MemoryAugmented(4, 3, generator, strength=strength)
        _, _, strengths = network._head_parameters(torch.zeros(2, 200))
        torch.testing.assert_close(strengths, torch.full((2, 4), strength))


def test_going_on_from_a_state_is_reading_in_one_go(network, inputs):
    whole, _ = network.run(inputs)
    _, state = network.run(inputs[:, :2])
    kept = map_tensors(torch.clone, state)
    rest, _ = network.run(inputs[:, 2:], state)
    torch.testing.assert_close(rest, whole[:, 2:])
    again, _ = network.run(inputs[:, 2:], kept)
    assert torch.equal(again, rest), "reading changed the state it started from"


def test_a_network_without_memory_forgets(generator, inputs):
    network = Feedforward(4, 3, generator)
    other = inputs.clone()
    other[:, :4] = 0
    assert torch.equal(network.run(inputs)[0][:, 4], network.run(other)[0][:, 4])


@pytest.mark.parametrize("name", ["mann", "mann-plain", "lstm"])
def test_the_others_remember(name, generator, inputs):
    network = SETTINGS[name].make(4, 3, generator)
    other = inputs.clone()
    other[:, 0] = 0
    assert not torch.allclose(network.run(inputs)[0][:, 4], network.run(other)[0][:, 4])


def test_gradients_are_those_of_finite_differences(network, inputs):
    network.double()
    names, params = zip(*network.named_parameters(), strict=True)

    def outputs(*values):
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(_Run(network), {f"n.{k}": v for k, v in state.items()},
                                          (inputs.double(),))  # fmt: skip

    assert torch.autograd.gradcheck(outputs, params, eps=1e-6, atol=1e-5, fast_mode=True)


class _Run(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.n = network

    def forward(self, inputs):
        return self.n.run(inputs)[0].square().sum()


def test_a_sequence_longer_than_the_memory_is_refused(generator):
    network = SETTINGS["mann"].make(4, 3, generator)
    network.run(torch.zeros(1, 9, 4))
    with pytest.raises(TaskError, match="at most 9 steps, a row of the memory for each, got 10"):
        network.run(torch.zeros(1, 10, 4))
    SETTINGS["lstm"].make(4, 3, generator).run(torch.zeros(1, 10, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slots": 3}, "at least 4 slots"),
        ({"decay": 1.1}, "decay in \\[0, 1\\]"),
        ({"width": 0}, "`width` to be at least 1, got 0"),
        ({"strength": 1.0}, "`strength` above 1, or None for 1 always, got 1.0"),
        ({"units": 0}, "`units` to be at least 1, got 0"),
    ],
)
def test_sizes_that_cannot_work_are_refused(changes, message, generator):
    with pytest.raises(SettingsError, match=message):
        MemoryAugmented(4, 3, generator, **changes)
