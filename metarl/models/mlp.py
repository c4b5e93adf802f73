"""Task-batched multi-layer perceptron."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from metarl.errors import SettingsError, ShapeError
from metarl.models.base import Fitting, Model, Params, Statistics, task_shape, weights_of
from metarl.models.described import described
from metarl.models.functional import affine
from metarl.ranges import check_widths
from metarl.registry import check_choice

Activation = Literal["relu", "tanh"]
Init = Literal["lecun", "truncated"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}
IN_PLACE = {"relu": torch.relu_, "tanh": torch.tanh_}


@described
class MLP(Model):
    """Fully connected network; MAML's sine regression uses the sizes (1, 40, 40, 1).

    Args:
        sizes: Widths of input, hidden layers and output; each input is flattened to the first.
        generator: Source of the initial weights.
        activation: Non-linearity after every layer except the last.
        init: "lecun": normal weights of variance 1 / fan_in, zero biases. "truncated": normal
            weights of standard deviation 0.01, truncated at two standard deviations, zero biases
            (the sine network of Finn et al. 2017).
        output_scale: Factor on the initial weights of the last layer; policies use a small one,
            so that the initial mean actions are near zero for all observations.

    Raises:
        SettingsError: If a size is not positive, there are fewer than two, or the activation or
            initialisation is unknown.
    """

    normalises_batches = False

    def __init__(
        self,
        sizes: Sequence[int],
        generator: torch.Generator,
        activation: Activation = "relu",
        init: Init = "lecun",
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.sizes = check_widths("sizes", sizes)
        if len(sizes) < 2:
            raise SettingsError(f"Expected at least two sizes, got {self.sizes}.")
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("initialisation", init, get_args(Init))
        self.activation = activation
        self.init = init
        self.output_scale = output_scale
        self._names = [(f"layers.{i}.weight", f"layers.{i}.bias") for i in range(len(sizes) - 1)]
        initial = self.initial(generator)
        self.layers = nn.ModuleList(
            weights_of(initial, f"layers.{i}") for i in range(len(sizes) - 1)
        )

    def forward(
        self, params: Params, inputs: Tensor, statistics: Statistics | None = None
    ) -> Tensor:
        """Maps inputs [T, N, *] to outputs [T, N, sizes[-1]].

        Raises:
            ShapeError: If the inputs do not match the first size or the parameters.
        """
        hidden = self._flat(inputs)
        with Fitting(params, inputs):
            return self.fixed(params)(hidden)

    def fixed(self, params: Params) -> Callable[[Tensor], Tensor]:
        """Returns `forward` with fixed parameters, to be called repeatedly with [T, N, sizes[0]].

        The returned function does not check its inputs.
        """
        # In-place activations without gradients: allocating memory costs more than the activation.
        activations = ACTIVATIONS if torch.is_grad_enabled() else IN_PLACE
        activate = activations[self.activation]
        *inner, last = [affine(params[weight], params[bias]) for weight, bias in self._names]

        def run(hidden: Tensor) -> Tensor:
            for layer in inner:
                hidden = activate(layer(hidden))
            return last(hidden)

        return run

    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        params = {}
        tasks = task_shape(num_tasks)
        for (m, n), (weight, bias) in zip(itertools.pairwise(self.sizes), self._names, strict=True):
            empty = torch.empty(*tasks, n, m, device=generator.device)
            params[weight] = self._draw(empty, generator)
            params[bias] = torch.zeros(*tasks, n, device=generator.device)
        params[self._names[-1][0]] *= self.output_scale
        return params

    def _flat(self, inputs: Tensor) -> Tensor:
        """Checks inputs [T, N, *] and flattens them to [T, N, sizes[0]]."""
        width = math.prod(inputs.shape[2:])
        if inputs.dim() < 3 or width != self.sizes[0]:
            remedy = (
                "add a dimension for the examples"
                if inputs.dim() < 3
                else f"set the first of `sizes` to {width}"
            )
            raise ShapeError(
                f"Expected inputs [T, N, *] of {self.sizes[0]} numbers each, got "
                f"{tuple(inputs.shape)}; {remedy}."
            )
        return inputs.flatten(2)

    def _draw(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        if self.init == "truncated":
            return nn.init.trunc_normal_(weight, std=0.01, a=-0.02, b=0.02, generator=generator)
        # W ~ N(0, 1 / fan_in)  (LeCun et al. 1998)
        return nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[-1]), generator=generator)
