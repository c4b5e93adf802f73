"""Reptile: the initialisation moves towards the adapted parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm, as_function
from metarl.adaptation.objectives import ReptileDistance
from metarl.adaptation.parameter_names import adapted_params
from metarl.adaptation.update_rules import Adam
from metarl.models.base import Adaptable


@dataclass(frozen=True)
class ReptileAlgorithm(GradientAlgorithm):
    """Reptile (Nichol et al. 2018, arXiv:1803.02999) with its inner Adam, beta1 = 0.

    The outer gradient is theta - phi: train it with plain SGD, whose rate is the paper's epsilon.
    """

    inner_lr: float = 1e-3
    """Rate of the inner Adam, above 0."""
    steps: int = 5
    """Adaptation steps in training; evaluation may take more."""
    batch_size: int | None = 10
    """Support examples per step. None: all."""

    def adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        del generator
        return Adaptation(
            network,
            Adam(adapted_params(network, self.frozen), self.inner_lr),
            ReptileDistance(),
            steps=self.steps,
            batch_size=self.batch_size,
            frozen=self.frozen,
        )


Reptile = as_function(ReptileAlgorithm)
