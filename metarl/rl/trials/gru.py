"""A gated recurrent unit over whole sequences, with a derivative written by hand."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.rl.trials.gru_loops import EPS, gru_states


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
        if self.gain_hh is None:
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
        return gru_states(products, self.weight_hh_l0, self.bias_hh_l0, self.gain_hh)[0]

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


def _products(values: Tensor, weight: Tensor, gain: Tensor | None, bias: Tensor) -> Tensor:
    """Returns the products of values [*, K] with weights [3H, K], normalised, plus the bias."""
    # torch differentiates columns in rows faster than `F.linear` where K is small
    rows, columns = values.flatten(0, -2), weight.t().contiguous()
    if gain is None:
        products = torch.addmm(bias, rows, columns)
    else:
        products = F.layer_norm(rows @ columns, gain.shape, gain, bias, EPS)
    return products.unflatten(0, values.shape[:-1])


def _tanh(values: Tensor) -> Tensor:
    """Returns tanh; torch's own takes five times as long on CPUs with AVX-512."""
    return torch.sigmoid(2 * values).mul(2).sub(1)
