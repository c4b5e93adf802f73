"""Almost no inner loop: MAML that adapts one part of the network."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm, as_function
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.parameter_names import all_but, last_layer
from metarl.adaptation.update_rules import GradientDescent
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


ANIL = as_function(ANILAlgorithm)
