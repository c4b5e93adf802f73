"""A gated recurrent unit over whole sequences, with a derivative written by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import SettingsError

EPS = 1e-5
"""Added to the variance in the layer normalisation."""


class GRU(nn.GRU):
    """torch's GRU of one layer with faster sequences on the CPU and optional layer normalisation.

    With layer normalisation, the products of the inputs and of the state with their weights are
    each normalised over all 3H entries, before their biases (Ba et al. 2016, arXiv:1607.06450):

        r, z = sigmoid of the first 2H entries of LN(W x) + LN(U h)
        n = tanh(LN(W x)_n + r * LN(U h)_n);  h' = (1 - z) * n + z * h,  LN(a) = gain * a_hat + bias

    Sequences have first derivatives only.

    Args:
        inputs: Width of the inputs, I.
        units: Width of the state, H.
        generator: Random generator of the initial weights: normal ones of the inputs, orthogonal
            ones of the state for each gate. Biases are 0, gains 1.
        layer_norm: Normalises both products.

    Attributes:
        gain_ih: Gains of the inputs' products, [3H]; None without layer normalisation.
        gain_hh: Gains of the state's products, [3H]; None without layer normalisation.
    """

    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter
    gain_ih: nn.Parameter | None
    gain_hh: nn.Parameter | None

    def __init__(
        self, inputs: int, units: int, generator: torch.Generator, layer_norm: bool = False
    ) -> None:
        # Created on the meta device: nn.GRU draws initial weights from the global generator.
        super().__init__(inputs, units, device="meta")
        self.to_empty(device=generator.device)
        self.gain_ih = self.gain_hh = None
        if layer_norm:
            self.gain_ih = nn.Parameter(torch.ones(3 * units, device=generator.device))
            self.gain_hh = nn.Parameter(torch.ones(3 * units, device=generator.device))
        self._draw(generator)

    @property
    def width(self) -> int:
        """Width of the features, H."""
        return self.hidden_size

    def begin(self, worlds: int) -> Tensor:
        """Returns the zero state, [W, H]."""
        return self.weight_hh_l0.new_zeros(worlds, self.hidden_size)

    def step(self, inputs: Tensor, state: Tensor, reuse: bool = False) -> tuple[Tensor, Tensor]:
        """Advances by one step.

        Args:
            inputs: Shape [W, I].
            state: Shape [W, H].
            reuse: Has no effect.

        Returns:
            The features and the next state, which are the same tensor [W, H].
        """
        del reuse
        if inputs.is_cuda and self.gain_hh is None:
            new = torch.gru_cell(inputs, state, *self._weights())
            return new, new
        own = _products(inputs, self.weight_ih_l0, self.gain_ih, self.bias_ih_l0)
        recurrent = _products(state, self.weight_hh_l0, self.gain_hh, self.bias_hh_l0)
        (own_gates, own_new), (gates, new) = (
            p.split((2 * self.hidden_size, self.hidden_size), 1) for p in (own, recurrent)
        )
        r, z = torch.sigmoid(own_gates + gates).chunk(2, 1)
        state = torch.lerp(_tanh(torch.addcmul(own_new, r, new)), state, z)
        return state, state

    def unroll(self, sequences: Tensor) -> Tensor:
        """Returns the features of every step, [L, B, H], from the zero state.

        Args:
            sequences: Shape [L, B, I].
        """
        if sequences.is_cuda and self.gain_hh is None:
            return self.forward(sequences)[0]  # cuDNN
        products = _products(sequences, self.weight_ih_l0, self.gain_ih, self.bias_ih_l0)
        states = _Unroll.apply(products, self.weight_hh_l0, self.bias_hh_l0, self.gain_hh)
        assert isinstance(states, Tensor)
        return states

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0

    def _draw(self, generator: torch.Generator) -> None:
        """Draws orthogonal recurrent weights for each gate and normal input weights."""
        from_inputs, from_state, *biases = self._weights()
        nn.init.normal_(from_inputs, std=1 / math.sqrt(self.input_size), generator=generator)
        with torch.no_grad():
            for gate in from_state.chunk(3):
                nn.init.orthogonal_(gate, generator=generator)
            for bias in biases:
                bias.zero_()


class _Unroll(torch.autograd.Function):
    """The states of a GRU for the products of its inputs: one loop forwards, one backwards.

    The loops contain only what depends on the state before. The derivatives of the weights are
    single matrix products over all steps. States h and candidates n are halved in the loops,
    because tanh(a) / 2 = sigmoid(2 a) - 1 / 2 takes few operations.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None
    ) -> Tensor:
        """Returns the states [L, B, H] for the products of the inputs [L, B, 3H]."""
        steps, batch, width = inputs.shape
        units = width // 3
        own = 2 * inputs[..., 2 * units :]
        # To these sums are added the products of the state, of which the candidate's is doubled.
        gates = torch.cat((inputs[..., : 2 * units], torch.zeros_like(own)), 2)
        doubled = torch.ones_like(bias)
        doubled[2 * units :] = 2
        columns, bias_ = 2 * weight.t(), bias * doubled
        gain_ = None if gain is None else gain * doubled
        if gain is None:
            columns *= doubled
            gates += bias_
        states, new = inputs.new_zeros(steps + 1, batch, units), torch.empty_like(own)
        moments: list[tuple[Tensor, Tensor, Tensor]] = []
        state = states[0]
        parts = (gates, gates[..., : 2 * units], *gates.split(units, 2), own, new, states[1:])
        for gate, both, r, z, product, own_new, candidate, after in zip(
            *(p.unbind(0) for p in parts), strict=True
        ):
            if gain_ is None:
                gate.addmm_(state, columns)
            else:
                raw = torch.mm(state, columns)
                normal, mean, scale = torch.native_layer_norm(raw, (width,), gain_, bias_, EPS)
                gate.add_(normal)
                moments.append((raw, mean, scale))
            both.sigmoid_()
            torch.addcmul(own_new, r, product, out=candidate).sigmoid_().sub_(0.5)
            state = torch.lerp(candidate, state, z, out=after)
        kept = [torch.stack(m) for m in zip(*moments, strict=True)]
        ctx.save_for_backward(weight, bias, gain, states, gates, new, *kept)
        return 2 * states[1:]

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the derivatives of the inputs' products, the weight, the bias and the gain.

        Raises:
            SettingsError: A graph of the derivative is asked for.
        """
        if torch.is_grad_enabled():  # with create_graph
            raise SettingsError(
                "The GRU of recurrent policies has first derivatives only, and a second one was "
                "asked for (`create_graph=True`). torch's own, `GRU.forward`, has all of them."
            )
        weight, bias, gain, states, gates, new, *kept = ctx.saved_tensors
        before, (steps, batch, units) = states[:-1], new.shape
        r, z, product = gates.split(units, 2)
        # h' = n + z (h - n), n = tanh(a_n + r b_n): by the arguments of r and z, and by b_n
        by_new = (1 - z).mul_(new.square().mul_(-4).add_(1))  # by a_n
        products = gates.new_empty(steps, batch, 3, units)
        by_r, by_z, by_product = products.unbind(2)
        torch.mul(by_new, r, out=by_product)
        torch.mul(by_product, 1 - r, out=by_r).mul_(product).mul_(0.5)
        torch.sub(before, new, out=by_z).mul_(z).mul_(1 - z).mul_(2)
        grads = outputs[0].clone()
        raws = products if gain is None else torch.empty_like(products)
        for t in range(steps - 1, -1, -1):
            grad = grads[t]
            products[t].mul_(grad.unsqueeze(1))
            if gain is not None:
                raw, mean, scale = (k[t] for k in kept)
                raws[t] = torch.ops.aten.native_layer_norm_backward(
                    products[t].view_as(raw), raw, gain.shape, mean, scale, gain, bias,
                    [True, False, False],
                )[0].view_as(raws[t])  # fmt: skip
            if t:
                grads[t - 1].addcmul_(grad, z[t]).addmm_(raws[t].view(batch, -1), weight)
        products, raws = products.flatten(2), raws.flatten(2)
        inputs = torch.cat((products[..., : 2 * units], by_new.mul_(grads)), 2)
        by_weight = raws.flatten(0, 1).t() @ before.flatten(0, 1).mul(2)
        by_gain = None
        if gain is not None:
            raw, mean, scale = kept
            by_gain = (products * (raw - mean) * scale).sum((0, 1))
        return inputs, by_weight, products.sum((0, 1)), by_gain


def _products(values: Tensor, weight: Tensor, gain: Tensor | None, bias: Tensor) -> Tensor:
    """Returns the products of values [*, K] with weights [3H, K], normalised, plus the bias."""
    if gain is None:
        return F.linear(values, weight, bias)
    return F.layer_norm(F.linear(values, weight), gain.shape, gain, bias, EPS)


def _tanh(values: Tensor) -> Tensor:
    """Returns tanh; torch's own takes five times as long on CPUs with AVX-512."""
    return torch.sigmoid(2 * values).mul(2).sub(1)
