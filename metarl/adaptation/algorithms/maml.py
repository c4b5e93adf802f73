"""Model-agnostic meta-learning and its first-order approximation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm, as_function
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.update_rules import GradientDescent
from metarl.models.base import Adaptable


@dataclass(frozen=True)
class MAMLAlgorithm(GradientAlgorithm):
    """MAML and FOMAML (Finn et al. 2017, arXiv:1703.03400, algorithm 1)."""

    inner_lr: float = 0.01
    """Rate of the inner gradient descent (alpha), above 0."""
    steps: int = 1
    """Adaptation steps in training; evaluation may take more."""
    first_order: bool = False
    """Drops second derivatives (FOMAML, section 5.2)."""

    def adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        del generator
        # min_theta sum_i L_i(theta'_i),  theta'_i = theta - alpha grad L_i(theta)  (equation 1)
        return Adaptation(
            network, GradientDescent(self.inner_lr), QueryLoss(), steps=self.steps,
            first_order=self.first_order, frozen=self.frozen,
        )  # fmt: skip


MAML = as_function(MAMLAlgorithm)
FOMAML = partial(MAML, first_order=True)
"""`MAML` without second derivatives (section 5.2)."""
