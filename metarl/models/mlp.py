"""Multi-layer perceptron, task-batched."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from metarl.errors import SettingsError, ShapeError
from metarl.models.base import Model, Params, Statistics, Weights
from metarl.models.functional import linear

Activation = Literal["relu", "tanh"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}


class MLP(Model):
    """Fully connected network: sizes (1, 40, 40, 1) is that of MAML's sine regression.

    Args:
        sizes: Widths of input, hidden layers and output; inputs are flattened to the first.
        generator: Source of the initial weights.
        activation: Non-linearity after every layer but the last.
        init: "lecun" (normal of variance 1 / fan-in, zero bias) or "truncated" (normal of standard
            deviation 0.01 cut at two of them, zero bias: Finn et al. 2017's sine network).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        generator: torch.Generator,
        activation: Activation = "relu",
        init: Literal["lecun", "truncated"] = "lecun",
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise SettingsError(f"Expected at least two positive sizes, got {tuple(sizes)}.")
        if activation not in ACTIVATIONS or init not in ("lecun", "truncated"):
            raise SettingsError(f"Unknown activation {activation!r} or initialisation {init!r}.")
        self.sizes = tuple(sizes)
        self.activation = activation
        self.init = init
        self.layers = nn.ModuleList(
            Weights(self._draw(m, n, generator), torch.zeros(n))
            for m, n in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def forward(
        self, params: Params, inputs: Tensor, statistics: Statistics | None = None
    ) -> Tensor:
        """See `Model.forward`; inputs [T, N, *], outputs [T, N, sizes[-1]]."""
        hidden = inputs.flatten(2)
        if hidden.shape[-1] != self.sizes[0]:
            raise ShapeError(
                f"Expected inputs [T, N, *] of {self.sizes[0]} numbers each, got "
                f"{tuple(inputs.shape)}; set the first of `sizes` to {hidden.shape[-1]}."
            )
        activate = ACTIVATIONS[self.activation]
        last = len(self.layers) - 1
        for i in range(last + 1):
            hidden = linear(hidden, params[f"layers.{i}.weight"], params[f"layers.{i}.bias"])
            if i < last:
                hidden = activate(hidden)
        return hidden

    def initial(self, generator: torch.Generator) -> Params:
        """See `Model.initial`."""
        params = {}
        for i, (m, n) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            params[f"layers.{i}.weight"] = self._draw(m, n, generator)
            params[f"layers.{i}.bias"] = torch.zeros(n, device=generator.device)
        return params

    def _draw(self, fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
        weight = torch.empty(fan_out, fan_in, device=generator.device)
        if self.init == "truncated":
            return nn.init.trunc_normal_(weight, std=0.01, a=-0.02, b=0.02, generator=generator)
        return nn.init.normal_(weight, std=1 / math.sqrt(fan_in), generator=generator)
