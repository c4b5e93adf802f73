"""Meta-SGD: MAML with a learned rate per parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm, as_seeded_function
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.parameter_names import adapted_params
from metarl.adaptation.update_rules import PerParameterRates, check_ends
from metarl.models.base import Adaptable


@dataclass(frozen=True)
class MetaSGDAlgorithm(GradientAlgorithm):
    """Meta-SGD (Li et al. 2017, arXiv:1707.09835): a learned rate per parameter."""

    only_at_start: ClassVar[tuple[str, ...]] = ("low", "high")

    steps: int = 1
    """Adaptation steps in training; the paper takes one."""
    low: float = 0.005
    """Lower end of the initial rates, which are drawn uniformly."""
    high: float = 0.1
    """Upper end of the initial rates, at least `low`."""

    def __post_init__(self) -> None:
        """Checks the options."""
        super().__post_init__()
        check_ends(self.low, self.high)

    def adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        params = adapted_params(network, self.frozen)
        rule = PerParameterRates(params, generator, self.low, self.high)
        return Adaptation(network, rule, QueryLoss(), steps=self.steps, frozen=self.frozen)


MetaSGD = as_seeded_function(MetaSGDAlgorithm)
