"""LSTM, GRU and Elman layers from matrix products: they run under `vmap` to any derivative.

torch's fused recurrent kernels have no batching rule, and on a GPU no second derivative. These
classes replace theirs in a copy of a module: they have the same parameters, arguments and results.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models import functional
from metarl.models.modules.attention import functional_dropout

Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
"""W_ih, W_hh, b_ih, b_hh and W_hr (the projection of an LSTM with `proj_size`)."""


def lstm_step(gates: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, ...]:
    """Returns (h, c) after one step; `gates` [N, 4 H] is W_ih x + b_ih + b_hh."""
    hidden, cell = state
    hidden, cell = functional.lstm_step(gates + hidden @ w[1].mT, cell)
    return (hidden if w[4] is None else hidden @ w[4].mT), cell


def gru_step(gates: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, ...]:
    """Returns (h,) after one step; `gates` [N, 3 H] is W_ih x + b_ih."""
    (hidden,) = state
    # r, z = sigmoid;  n = tanh(W_in x + b_in + r (W_hn h + b_hn));  h' = (1 - z) n + z h
    reset, update, new = gates.chunk(3, -1)
    hidden_reset, hidden_update, hidden_new = F.linear(hidden, w[1], w[3]).chunk(3, -1)
    update = (update + hidden_update).sigmoid()
    candidate = (new + (reset + hidden_reset).sigmoid() * hidden_new).tanh()
    return (candidate + update * (hidden - candidate),)


def elman_step(gates: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, ...]:
    """Returns (h,) after one step of tanh units; `gates` [N, H] is W_ih x + b_ih + b_hh."""
    return ((gates + state[0] @ w[1].mT).tanh(),)


def relu_step(gates: Tensor, state: tuple[Tensor, ...], w: Weights) -> tuple[Tensor, ...]:
    """Returns (h,) after one step of ReLU units; see `elman_step`."""
    return ((gates + state[0] @ w[1].mT).relu(),)


StepFunction = Callable[[Tensor, tuple[Tensor, ...], Weights], tuple[Tensor, ...]]


def _run(layer: nn.RNNBase, inputs: Tensor, given: tuple[Tensor, ...] | None, count: int):  # noqa: ANN202
    """Runs a layer on [L, N, in], [N, L, in] or [L, in].

    Args:
        layer: The layer.
        inputs: The sequence.
        given: `count` initial states, each [layers * directions, N, *] or without N; None: 0.
        count: 2 for an LSTM (hidden and cell state), 1 for the others.

    Returns:
        The outputs, and the last states like `given`.
    """
    if not isinstance(inputs, Tensor):
        raise SettingsError(
            f"Expected a tensor as input of {type(layer).__bases__[0].__name__}, got "
            f"{type(inputs).__name__}. Pass the padded sequences, and read its outputs at the last "
            "real elements, or their mean by the mask."
        )
    single = inputs.dim() == 2
    if single:
        inputs = inputs.unsqueeze(1)
        given = None if given is None else tuple(s.unsqueeze(1) for s in given)
    elif layer.batch_first:
        inputs = inputs.transpose(0, 1)
    lasts: list[tuple[Tensor, ...]] = []
    hidden = inputs
    for number in range(layer.num_layers):
        outputs = []
        for backwards in range(2 if layer.bidirectional else 1):
            start = None if given is None else tuple(s[len(lasts)] for s in given)
            ys, last = _direction(layer, hidden, number, bool(backwards), start, count)
            outputs.append(ys)
            lasts.append(last)
        hidden = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
        if number < layer.num_layers - 1:
            hidden = functional_dropout(hidden, layer.dropout, layer.training)
    states = tuple(torch.stack(parts) for parts in zip(*lasts, strict=True))
    if single:
        return hidden.squeeze(1), tuple(s.squeeze(1) for s in states)
    return (hidden.transpose(0, 1) if layer.batch_first else hidden), states


def _direction(
    layer: nn.RNNBase,
    inputs: Tensor,
    number: int,
    backwards: bool,
    state: tuple[Tensor, ...] | None,
    count: int,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one layer in one direction on [L, N, in]; returns [L, N, out] and the last states."""
    step = _STEPS[layer.mode]
    suffix = f"_l{number}" + ("_reverse" if backwards else "")
    w: Weights = tuple(  # pyright: ignore[reportAssignmentType]
        getattr(layer, name + suffix, None)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    )
    bias = w[2]
    if bias is not None and w[3] is not None and layer.mode != "GRU":
        bias = bias + w[3]
    gates = F.linear(inputs, w[0], bias)
    if state is None:
        sizes = (layer.proj_size or layer.hidden_size, layer.hidden_size)
        state = tuple(gates.new_zeros(inputs.shape[1], size) for size in sizes[:count])
    outputs: list[Tensor] = []
    rows = gates.unbind(0)
    for row in reversed(rows) if backwards else rows:
        state = step(row, state, w)
        outputs.append(state[0])
    if backwards:
        outputs.reverse()
    return torch.stack(outputs), state


class TaskLSTM(nn.LSTM):
    """`nn.LSTM` from matrix products."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        outputs, (hidden, cell) = _run(self, input, hx, 2)
        return outputs, (hidden, cell)


class TaskGRU(nn.GRU):
    """`nn.GRU` from matrix products."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        outputs, (hidden,) = _run(self, input, None if hx is None else (hx,), 1)
        return outputs, hidden


class TaskRNN(nn.RNN):
    """`nn.RNN` from matrix products."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        outputs, (hidden,) = _run(self, input, None if hx is None else (hx,), 1)
        return outputs, hidden


class TaskLSTMCell(nn.LSTMCell):
    """`nn.LSTMCell` from matrix products."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        hidden, cell = _cell(self, input, hx, 2)
        return hidden, cell


class TaskGRUCell(nn.GRUCell):
    """`nn.GRUCell` from matrix products."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _cell(self, input, None if hx is None else (hx,), 1)[0]


def _cell(
    layer: nn.RNNCellBase, inputs: Tensor, state: tuple[Tensor, ...] | None, count: int
) -> tuple[Tensor, ...]:
    w: Weights = (layer.weight_ih, layer.weight_hh, layer.bias_ih, layer.bias_hh, None)
    is_gru = isinstance(layer, nn.GRUCell)
    bias = w[2] if is_gru or w[2] is None or w[3] is None else w[2] + w[3]
    gates = F.linear(inputs, w[0], bias)
    if state is None:
        zeros = gates.new_zeros(*inputs.shape[:-1], layer.hidden_size)
        state = (zeros,) * count
    return (gru_step if is_gru else lstm_step)(gates, state, w)


_STEPS: dict[str, StepFunction] = {
    "LSTM": lstm_step, "GRU": gru_step, "RNN_TANH": elman_step, "RNN_RELU": relu_step,
}  # fmt: skip
