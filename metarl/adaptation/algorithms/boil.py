"""Body only in the inner loop: MAML whose head does not adapt."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm, as_function
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.parameter_names import last_layer, matching_names
from metarl.adaptation.update_rules import GradientDescent
from metarl.models.base import Adaptable


@dataclass(frozen=True)
class BOILAlgorithm(GradientAlgorithm):
    """BOIL: the inner loop adapts all but the head (Oh et al. 2021, arXiv:2008.08882)."""

    inner_lr: float = 0.01
    """Rate of the inner gradient descent, above 0."""
    steps: int = 1
    """Adaptation steps in training; evaluation may take more."""
    first_order: bool = False
    """Drops second derivatives."""

    def adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        del generator
        head = matching_names(network, last_layer(network))
        return Adaptation(
            network, GradientDescent(self.inner_lr), QueryLoss(), steps=self.steps,
            first_order=self.first_order, frozen=(*head, *self.frozen),
        )  # fmt: skip


BOIL = as_function(BOILAlgorithm)
