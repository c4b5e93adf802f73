"""Almost no inner loop: MAML that adapts one part of the network."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metarl.adaptation.adaptation import Adaptation, all_but
from metarl.adaptation.algorithm import GradientAlgorithm, as_function
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.update_rules import GradientDescent
from metarl.errors import SettingsError
from metarl.models.base import Adaptable


@dataclass(frozen=True)
class ANILAlgorithm(GradientAlgorithm):
    """ANIL: the inner loop adapts the head alone (Raghu et al. 2020, arXiv:1909.09157)."""

    inner_lr: float = 0.01
    """Rate of the inner gradient descent, above 0."""
    steps: int = 1
    """Adaptation steps in training; evaluation may take more."""
    adapts: tuple[str, ...] = ()
    """Name patterns of the parameters that adapt; none: the last layer."""
    first_order: bool = False
    """Drops second derivatives."""

    def adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        del generator
        frozen = all_but(network, self.adapts or last_layer(network))
        return Adaptation(
            network, GradientDescent(self.inner_lr), QueryLoss(), steps=self.steps,
            first_order=self.first_order, frozen=(*frozen, *self.frozen),
        )  # fmt: skip


def last_layer(network: Adaptable) -> tuple[str, ...]:
    """Returns the name pattern of the layer that holds the network's last weight.

    Raises:
        SettingsError: No parameter is called a weight.
    """
    layers = [_layer_of(name) for name, _ in network.named_parameters()]
    with_weight = [layer for layer in layers if layer is not None]
    if not with_weight:
        raise SettingsError(
            "Expected a network with a last layer that has a weight; name the part that adapts by "
            "`adapts=`."
        )
    return (with_weight[-1] + "*",)


def _layer_of(name: str) -> str | None:
    """Returns the start of the names of the layer of a weight; None for other parameters."""
    owner, parametrised, _ = name.partition("parametrizations.weight")
    if parametrised:
        return owner
    owner, dot, leaf = name.rpartition(".")
    if leaf.endswith("weight"):
        return name.removesuffix("weight")
    return owner + dot if leaf.startswith("weight") else None  # weight_ih_l0 of an LSTM


ANIL = as_function(ANILAlgorithm)
