"""Calls of a network with the weights and masks of padded examples, where it has use for them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from metarl.adaptation.learner import Adapted
from metarl.adaptation.loss_function import Outputs
from metarl.errors import ShapeError
from metarl.models.base import Adaptable, Model, Params, Statistics, task_params
from metarl.tasks.base import Examples
from metarl.tasks.batches import join_inputs
from metarl.trees import map_tensors


class NetworkCall:
    """A network, called with what its `forward` takes of padded examples.

    A network whose batch normalisation would count padding rows must take their weights; one that
    reads padded sequences must take their mask. Others are refused.

    Args:
        network: The network.
    """

    def __init__(self, network: Adaptable) -> None:
        self.network = network
        parameters = inspect.signature(network.forward).parameters
        self._takes_weights = "weights" in parameters
        self._takes_mask = "mask" in parameters

    def __call__(
        self,
        params: Params,
        inputs: Tensor,
        statistics: Statistics | None,
        weights: Tensor | None,
        mask: Tensor | None,
        **noise: Tensor,
    ) -> Outputs:
        """Returns the outputs [T, N, *] for inputs [T, N, *input].

        Args:
            params: The parameters, [T, *shape] per name.
            inputs: The inputs.
            statistics: See `Model.forward`.
            weights: Weights of the inputs, [T, N], or None.
            mask: Mask of the inputs, [T, N, L], or None.
            **noise: What the dropout of this pass draws, as `noise`, if the network has dropout.

        Raises:
            ShapeError: The network takes no mask, or its batch normalisation no weights.
        """
        if weights is None and mask is None:
            return self.network(params, inputs, statistics, **noise)
        options: dict[str, Any] = {**noise}
        if mask is not None:
            options["mask"] = self._checked_mask(mask)
        if weights is not None and isinstance(self.network, Model):
            self.network.prepare(inputs, mask)  # shows whether it normalises batches
        if weights is not None and self._needs_weights(statistics):
            options["weights"] = weights
        return self.network(params, inputs, statistics, **options)

    def examples(
        self,
        params: Params,
        examples: Examples,
        statistics: Statistics | None,
        **noise: Tensor,
    ) -> Outputs:
        """Returns the outputs for examples; see `__call__`."""
        if examples.weights is None and examples.mask is None:
            return self.network(params, examples.inputs, statistics, **noise)
        return self(params, examples.inputs, statistics, examples.weights, examples.mask, **noise)

    @torch.no_grad()
    def first_outputs(self, examples: Examples) -> Outputs:
        """Returns the outputs for the examples of the first task, with the parameters theta."""
        first = map_tensors(lambda t: t[:1], examples)
        return self.examples(task_params(self.network, 1), first, None)

    def one_by_one(self, adapted: Adapted, inputs: Tensor, mask: Tensor | None) -> Outputs:
        """Returns the outputs for queries that share batch statistics with the support set only.

        Each pass has the support set and one query (Nichol et al. 2018, section 6.1).
        """
        outputs: list[Outputs] = []
        for j in range(inputs.shape[1]):
            query = Examples(inputs[:, j : j + 1], inputs, None, _column(mask, j))
            both = _joined(adapted, query)
            found = self.examples(adapted.params, both, None)
            outputs.append(map_tensors(lambda t: t[:, -1:], found))
        return map_tensors(lambda *parts: torch.cat(parts, dim=1), *outputs)

    def _checked_mask(self, mask: Tensor) -> Tensor:
        if not self._takes_mask:
            raise ShapeError(
                f"The inputs are padded sequences with a mask, and {type(self.network).__name__} "
                "does not take one: it would read the padding. Give its `forward` a keyword "
                "`mask` [T, N, L] (bool, True for real elements); a network that treats each "
                "element alone may ignore it."
            )
        return mask

    def _needs_weights(self, statistics: Statistics | None) -> bool:
        """Returns whether the network must receive weights; raises if it does not take them."""
        normalises = getattr(self.network, "normalises_batches", True)
        fixed = statistics is not None and not statistics.recording
        if self._takes_weights:
            return True
        if normalises and not fixed:
            name = type(getattr(self.network, "net", self.network)).__name__
            raise ShapeError(
                f"The examples have weights, and the batch normalisation of "
                f"{name} would count examples of weight 0. Use "
                "another normalisation (and `normalises_batches = False` in a network of MetaRL), "
                "running statistics (`.eval()` of these layers), a `forward` with a keyword "
                "`weights` [T, N], or tasks with as many examples each."
            )
        return False


def _column(mask: Tensor | None, j: int) -> Tensor | None:
    return None if mask is None else mask[:, j : j + 1]


def _joined(adapted: Adapted, query: Examples) -> Examples:
    """Returns the support inputs followed by one query, with weight 1; targets are not read."""
    inputs = join_inputs(adapted.support, query.inputs)
    weights, mask = adapted.weights, adapted.mask
    if weights is not None:
        weights = torch.cat((weights, weights.new_ones(len(weights), 1)), dim=1)
    if mask is not None or query.mask is not None:
        mask = _joined_masks(mask, query.mask)
    return Examples(inputs, inputs, weights, mask)


def _joined_masks(support: Tensor | None, query: Tensor | None) -> Tensor:
    if support is None or query is None:
        raise ShapeError(
            "Expected a mask for both the support set and the queries, or for neither."
        )
    return torch.cat((support, query), dim=1)
