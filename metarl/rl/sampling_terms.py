"""Terms of the outer loss for the choice of the rollouts that policies adapt on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from metarl import ranks
from metarl.rl.distributions import Distribution
from metarl.rl.experience import Experience
from metarl.rl.rollouts import Rollouts
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.surrogates import exploration_credit, exploration_term


def credit_of(last: Rollouts, total: int, settings: PolicyGradientSettings) -> Tensor:
    """Returns the credit of this rank's tasks, [T]; see `exploration_term`.

    Zeros without `exploration`: no other term uses it, and the ranks need not wait for each other.

    Args:
        last: The rollouts of the adapted policies.
        total: Number of tasks of all ranks.
        settings: With `exploration`.
    """
    returns = last.returns()
    if not settings.exploration:
        return torch.zeros_like(returns)
    of_all = ranks.gather((returns, last.mask.sum(2).mean(1)), total)
    return ranks.own(exploration_credit(*of_all, settings.normalize_advantages), total)


def sampling_terms(
    distribution: Distribution,
    log_probs: Tensor,
    batch: Experience,
    credit: Tensor,
    steps: int,
    settings: PolicyGradientSettings,
) -> Iterator[Tensor]:
    """Yields the terms of E-MAML and ProMP that the settings ask for, [T] each.

    Args:
        distribution: The distributions of the current policy at the rollouts' observations.
        log_probs: Log-probabilities of the actions under it, [T, N, H].
        batch: The rollouts before an adaptation step.
        credit: See `exploration_term`.
        steps: Adaptation steps, K.
        settings: With `exploration` and `inner_kl`.
    """
    if settings.exploration:
        yield exploration_term(log_probs, credit, batch.rollouts.mask)
    if settings.inner_kl:
        # eta / K * KL(pi_old, pi_theta), summed over the K steps  (Rothfuss et al. 2019,
        # equation 14, for K = 1; the mean is that of the authors' code)
        yield settings.inner_kl / steps * batch.divergence(distribution)
