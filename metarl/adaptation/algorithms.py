"""The algorithms by their names in the literature: thin compositions of the parts beside this.

Each takes a model, whose parameters are the initialisation, and gives a `GradientLearner`.
Arguments that several share:

- `inner_lr`: rate of the inner loop (alpha), above 0;
- `steps`: adaptation steps in training; evaluation may take more;
- `frozen`: name patterns of parameters that the inner loop leaves alone (`*.norm.*`);
- `batch_size`: support examples per adaptation step, None for all;
- `generator`: source of the initial values of what the rule itself learns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from metarl.adaptation.gradient_learner import GradientLearner, is_frozen
from metarl.adaptation.learned_optimizer import LearnedOptimizerRule
from metarl.adaptation.lstm_meta_learner import LSTMMetaLearnerRule
from metarl.adaptation.objectives import (
    EveryStepLoss,
    MultiStepLoss,
    QueryLoss,
    ReptileDistance,
)
from metarl.adaptation.update_rules import Adam, GradientDescent, PerParameterRates, PerStepRates
from metarl.models.base import Adaptable, Params

NORMALISATION = "*.norm.*"


def MAML(
    model: Adaptable,
    inner_lr: float = 0.01,
    steps: int = 1,
    *,
    first_order: bool = False,
    frozen: Sequence[str] = (),
) -> GradientLearner:
    """Model-agnostic meta-learning (Finn et al. 2017, arXiv:1703.03400, algorithm 1).

    `first_order` drops the second derivatives of the inner loop.
    """
    rule = GradientDescent(inner_lr)
    return GradientLearner(
        model, rule, QueryLoss(), steps=steps, first_order=first_order, frozen=frozen
    )


def FOMAML(
    model: Adaptable, inner_lr: float = 0.01, steps: int = 1, *, frozen: Sequence[str] = ()
) -> GradientLearner:
    """First-order MAML (Finn et al. 2017, section 5.2): `MAML` without second derivatives."""
    return MAML(model, inner_lr, steps, first_order=True, frozen=frozen)


def MetaSGD(
    model: Adaptable,
    generator: torch.Generator,
    steps: int = 1,
    *,
    low: float = 0.005,
    high: float = 0.1,
    frozen: Sequence[str] = (),
) -> GradientLearner:
    """Meta-SGD (Li et al. 2017, arXiv:1707.09835): MAML with a learned rate per parameter.

    The rates start from U[low, high]; the paper takes one step.
    """
    rule = PerParameterRates(_adapted_params(model, frozen), generator, low, high)
    return GradientLearner(model, rule, QueryLoss(), steps=steps, frozen=frozen)


def MAMLPlusPlus(
    model: Adaptable,
    inner_lr: float = 0.1,
    steps: int = 5,
    *,
    multi_step_iterations: int = 0,
    frozen: Sequence[str] | None = None,
) -> GradientLearner:
    """MAML++'s learned rates and multi-step loss (Antoniou et al. 2019, arXiv:1810.09502).

    A learned rate per parameter tensor and step, starting at `inner_lr`; normalisation parameters
    (`*.norm.*`) stay out of the inner loop unless `frozen` says otherwise. For the first
    `multi_step_iterations` meta-iterations the query loss counts after every step; 0 leaves that
    out. Batch statistics are those of the batch.
    """
    if frozen is None:
        frozen = [n for n, _ in model.named_parameters() if is_frozen(n, [NORMALISATION])]
    rule = PerStepRates(_adapted_params(model, frozen), inner_lr, steps)
    iterations = multi_step_iterations
    objective = MultiStepLoss(iterations) if iterations else QueryLoss()
    return GradientLearner(model, rule, objective, steps=steps, frozen=frozen)


def Reptile(
    model: Adaptable, inner_lr: float = 1e-3, steps: int = 5, *, batch_size: int | None = 10
) -> GradientLearner:
    """Reptile (Nichol et al. 2018, arXiv:1803.02999) with its inner Adam, beta1 = 0.

    The outer gradient is theta - phi: train it with plain SGD, whose rate is the paper's epsilon.
    """
    rule = Adam(_adapted_params(model, ()), inner_lr)
    return GradientLearner(model, rule, ReptileDistance(), steps=steps, batch_size=batch_size)


def LSTMMetaLearner(
    model: Adaptable,
    generator: torch.Generator,
    steps: int = 12,
    *,
    units: int = 20,
    batch_size: int | None = None,
    statistics_momentum: float = 0.9,
) -> GradientLearner:
    """The LSTM meta-learner (Ravi & Larochelle 2017, "Optimization as a model for few-shot ...").

    `statistics_momentum` is the weight of the newest support batch in the episode's batch-norm
    statistics, with which non-transductive predictions are made (0.9 for one shot, 0.95 for five).
    """
    rule = LSTMMetaLearnerRule(generator, units)
    return GradientLearner(
        model,
        rule,
        QueryLoss(),
        steps=steps,
        batch_size=batch_size,
        statistics_momentum=statistics_momentum,
    )


def LearnedOptimizer(
    model: Adaptable,
    generator: torch.Generator,
    steps: int = 100,
    unroll: int = 20,
    *,
    units: int = 20,
    batch_size: int | None = None,
    fresh_start: bool = False,
) -> GradientLearner:
    """The learned optimiser of Andrychowicz et al. 2016 (arXiv:1606.04474).

    Truncated unrolls: each meta-iteration runs `unroll` of the `steps` and carries parameters and
    hidden states to the next. The paper starts each optimisation from fresh random parameters
    (`fresh_start`); without it the initialisation is learned too, by the first unroll of each.
    """
    rule = LearnedOptimizerRule(generator, units)
    return GradientLearner(
        model,
        rule,
        EveryStepLoss(),
        steps=steps,
        unroll=unroll,
        batch_size=batch_size,
        fresh_start=fresh_start,
    )


def Pretrained(model: Adaptable, inner_lr: float = 0.01) -> GradientLearner:
    """The baseline: one model trained on all tasks at once, then fine-tuned by gradient descent.

    ("Pretrained" in Finn et al. 2017, section 5.1.)
    """
    return GradientLearner(model, GradientDescent(inner_lr), QueryLoss(), steps=0)


def Scratch(model: Adaptable, inner_lr: float = 0.01) -> GradientLearner:
    """The baseline: each task learned alone, by Adam from random parameters; nothing to train."""
    rule = Adam(_adapted_params(model, ()), inner_lr)
    return GradientLearner(model, rule, QueryLoss(), steps=0, fresh_start=True)


def _adapted_params(model: Adaptable, frozen: Sequence[str]) -> Params:
    named = model.named_parameters()
    return {n: p.detach() for n, p in named if not is_frozen(n, frozen)}
