"""MAML++: learned rates per layer and step, and the multi-step loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import nn

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithm import GradientAlgorithm, as_function
from metarl.adaptation.objectives import MultiStepLoss, QueryLoss
from metarl.adaptation.parameter_names import adapted_params
from metarl.adaptation.update_rules import PerStepRates
from metarl.models.base import Adaptable
from metarl.ranges import COUNT, NOT_NEGATIVE, POSITIVE, Range

NORMALISATION = "*.norm.*"
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class MAMLPlusPlusAlgorithm(GradientAlgorithm):
    """MAML++'s rates per layer and step and its multi-step loss (Antoniou et al. 2019).

    Batch statistics are those of the batch. (arXiv:1810.09502, section 4.)
    """

    only_at_start: ClassVar[tuple[str, ...]] = ("inner_lr", "later_rates")
    ranges: ClassVar[Mapping[str, Range]] = {
        **GradientAlgorithm.ranges, "steps": COUNT, "multi_step_iterations": NOT_NEGATIVE,
        "later_rates": POSITIVE,
    }  # fmt: skip

    inner_lr: float = 0.1
    """Initial rate of all layers and steps, above 0."""
    steps: int = 5
    """Adaptation steps in training, at least 1, each with separate rates."""
    multi_step_iterations: int = 0
    """Meta-iterations in which the loss after every step counts; 0 for the last step's loss."""
    later_rates: float = 1.0
    """Factor on the initial rates of the steps after the first, above 0."""
    learned_rates: bool = True
    """Whether the rates are learned; if not, only the multi-step loss is left of MAML++."""
    frozen: tuple[str, ...] | None = field(default=None, kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    """Name patterns of parameters that the inner loop does not change. None: those of
    normalisation layers."""

    def adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        del generator
        frozen = normalisation(network) if self.frozen is None else self.frozen
        iterations = self.multi_step_iterations
        params = adapted_params(network, frozen)
        rates = PerStepRates(params, self.inner_lr, self.steps, self.later_rates)
        return Adaptation(
            network,
            rates.requires_grad_(self.learned_rates),
            MultiStepLoss(iterations) if iterations else QueryLoss(),
            steps=self.steps,
            frozen=frozen,
        )


def normalisation(network: nn.Module) -> list[str]:
    """Returns the names of the parameters of normalisations: torch's layers, or `*.norm.*`."""
    layers = {
        id(p)
        for layer in network.modules() if isinstance(layer, NORMS)
        for p in layer.parameters()
    }  # fmt: skip
    return [
        name
        for name, p in network.named_parameters()
        if id(p) in layers or fnmatchcase(name, NORMALISATION)
    ]


MAMLPlusPlus = as_function(MAMLPlusPlusAlgorithm)
