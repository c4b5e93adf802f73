"""The learned optimiser of Andrychowicz et al. 2016: its update rule and its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm, as_seeded_function
from metarl.adaptation.coordinates import (
    LSTMCell,
    check_units,
    in_type_of,
    log_sign,
    pack,
    uniform,
    unpack,
)
from metarl.adaptation.objectives import EveryStepLoss
from metarl.adaptation.update_rules import State, UpdateRule
from metarl.models.base import Adaptable, Params
from metarl.ranges import COUNT, Range

LAYERS = ("lower", "upper")


@dataclass(frozen=True)
class LearnedOptimizerAlgorithm(GradientAlgorithm):
    """Learned optimiser (Andrychowicz et al. 2016, arXiv:1606.04474), by truncated unrolls."""

    ranges: ClassVar[Mapping[str, Range]] = {**GradientAlgorithm.ranges, "unroll": COUNT}

    steps: int = 100
    """Adaptation steps in training."""
    unroll: int = 20
    """Steps per meta-iteration, a divisor of `steps`; the next continues from where they end."""
    units: int = 20
    """Width of each of the two LSTM layers."""
    batch_size: int | None = None
    """Support examples per step. None: all."""
    fresh_start: bool = False
    """Starts each task from random parameters, as the paper does. Otherwise the first unroll of
    each optimisation trains the initialisation too."""

    def adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        return Adaptation(
            network,
            in_type_of(network, LearnedOptimizerRule(generator, self.units)),
            EveryStepLoss(),
            steps=self.steps,
            unroll=self.unroll,
            batch_size=self.batch_size,
            fresh_start=self.fresh_start,
            frozen=self.frozen,
        )


LearnedOptimizer = as_seeded_function(LearnedOptimizerAlgorithm)


class LearnedOptimizerRule(UpdateRule):
    """theta <- theta + scale * linear(LSTM(pre(grad), h)), two layers (section 2.1, figure 3).

    All coordinates share the weights; each has a hidden state. Gradients are constants,
    as in the paper: second derivatives are dropped.

    Args:
        generator: Source of the initial weights, U(-1/sqrt(units), 1/sqrt(units)); the bias of the
            output layer, which moves all coordinates alike, starts at 0.
        units: Width of each of the two layers, at least 1.
        scale: Factor of the output.
        p: Magnitude below which the preprocessing counts a gradient as small (exponent).
    """

    differentiates_gradient = False
    reads_logarithms = True

    def __init__(
        self, generator: torch.Generator, units: int = 20, scale: float = 0.01, p: float = 10.0
    ) -> None:
        super().__init__()
        bound = check_units(units) ** -0.5
        draw = uniform(generator, -bound, bound)
        self.scale = scale
        self.p = p
        self.lower = LSTMCell(2, units, draw)
        self.upper = LSTMCell(units, units, draw)
        self.output = nn.Parameter(draw((units, 1)))
        self.output_bias = nn.Parameter(torch.zeros(1, device=generator.device))

    def init(self, params: Params) -> State:
        """Returns zero hidden states, [T, P, units] each."""
        row = pack(params, self.output.dtype)
        zero = row.new_zeros(*row.shape, self.lower.units)
        return {layer: {"hidden": zero, "cell": zero} for layer in LAYERS}

    def update(
        self, grads: Params, state: State, params: Params, loss: Tensor
    ) -> tuple[Params, State]:
        del loss
        theta, gradient = (pack(values, self.output.dtype) for values in (params, grads))
        gradient = gradient.detach()
        x = log_sign(gradient, self.p).flatten(0, 1)
        new_state: State = {}
        for layer in LAYERS:
            old = state[layer]
            shape = old["hidden"].shape
            cell = getattr(self, layer)
            x, memory = cell(x, old["hidden"].flatten(0, 1), old["cell"].flatten(0, 1))
            new_state[layer] = {"hidden": x.view(shape), "cell": memory.view(shape)}
        # theta_{t+1} = theta_t + g_t,  [g_t, h_{t+1}] = m(grad_t, h_t)  (equation 3)
        step = torch.addmm(self.output_bias, x, self.output).view_as(theta)
        return unpack(theta + self.scale * step, params), new_state
