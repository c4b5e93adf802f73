"""Surrogate losses of policy gradients, to be differentiated once or, in an inner loop, twice.

All have the policy gradient as their gradient where the rollouts were made. They differ in their
second derivative, and so in the meta-gradient: see docs/meta_gradients.md.

Each takes

- log_prob: log-probability of each action under the parameters at hand, [T, N, H], float;
- advantages: advantage of each action, or any return of it, [T, N, H]; taken as constants;
- weights: weight of each step, [T, N, H], 0 after the end of an episode: those of a mean sum to 1
  per task. Weighted by their discount as well, gamma^t, the steps give the discounted return's
  exact derivatives, which practice leaves out;
- settings: see each;
- old_log_prob: log-probability under the parameters that made the rollouts, where those are not
  the ones at hand: the steps then count by their likelihood ratio;

and returns a loss to minimise per task, [T].
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from metarl.registry import Registry
from metarl.rl.returns import sums_to_end
from metarl.rl.settings import PolicyGradientSettings

DEFAULTS = PolicyGradientSettings()


class Surrogate(Protocol):
    """A surrogate loss; the module says what it takes and returns."""

    def __call__(
        self,
        log_prob: Tensor,
        advantages: Tensor,
        weights: Tensor,
        settings: PolicyGradientSettings = ...,
        old_log_prob: Tensor | None = None,
    ) -> Tensor:
        """Returns the loss of each task, [T]."""
        ...


SURROGATES: Registry[Surrogate] = Registry("surrogate")


def ratio(
    log_prob: Tensor,
    advantages: Tensor,
    weights: Tensor,
    settings: PolicyGradientSettings = DEFAULTS,
    old_log_prob: Tensor | None = None,
) -> Tensor:
    """Likelihood ratio of each step times its advantage (Rothfuss et al. 2019, equation 9: LVC).

    Its Hessian leaves out how earlier actions change the states in which later ones are taken: a
    small bias for a low variance.
    """
    del settings
    gains = _change(log_prob, old_log_prob).exp() * advantages.detach()
    return _loss(gains, weights)


def dice(
    log_prob: Tensor,
    advantages: Tensor,
    weights: Tensor,
    settings: PolicyGradientSettings = DEFAULTS,
    old_log_prob: Tensor | None = None,
) -> Tensor:
    """Loaded DiCE (Farquhar et al. 2019, algorithm 1), with `settings.dice_lambda`.

    With lambda = 1 derivatives of every order are those of the expected return, at a high
    variance; lambda = 0 is `ratio`. The value of the loss is 0 where the rollouts were made.
    """
    change = _change(log_prob, old_log_prob)
    deeds = sums_to_end(change.flip(-1), settings.dice_lambda).flip(-1)
    gains = (deeds.exp() - (deeds - change).exp()) * advantages.detach()
    return _loss(gains, weights)


def logprob(
    log_prob: Tensor,
    advantages: Tensor,
    weights: Tensor,
    settings: PolicyGradientSettings = DEFAULTS,
    old_log_prob: Tensor | None = None,
) -> Tensor:
    """Log-probability times advantage, as in the code of Finn et al. 2017.

    Its gradient is right and its Hessian is not: a biased meta-gradient, no better than that of
    first order. It is here to repeat older results, and for E-MAML (`exploration_term`).
    """
    del settings, old_log_prob
    return _loss(log_prob * advantages.detach(), weights)


SURROGATES.register("ratio", ratio)
SURROGATES.register("dice", dice)
SURROGATES.register("logprob", logprob)


def proximal(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip: float | None = None,
) -> Tensor:
    """The (clipped) likelihood ratio of an outer loss (Schulman et al. 2017, equations 6 and 7).

    Args:
        log_prob: Log-probabilities under the parameters at hand, [T, N, H].
        old_log_prob: Those under the parameters that made the rollouts.
        advantages: Advantage of each action, [T, N, H].
        weights: Weight of each step, [T, N, H].
        clip: Gains count only while the ratio is within 1 +- this; None: all do.

    Returns:
        A loss to minimise per task, [T].
    """
    ratio = (log_prob - old_log_prob).exp()
    gains = ratio * advantages
    if clip is not None:
        gains = torch.minimum(gains, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return _loss(gains, weights)


def exploration_term(log_prob: Tensor, credit: Tensor, mask: Tensor) -> Tensor:
    """E-MAML's credit to the rollouts for what adapting on them gave (Stadie et al. 2018, sec. 3).

    The expected return after an adaptation on N sampled rollouts depends on the parameters also
    through which rollouts are sampled; this term holds that dependence. Added for every adaptation
    step to the loss after adaptation, it makes an unbiased gradient of that expectation (Objective
    II) when the inner surrogate is `logprob`; `ratio` and `dice` hold part of it already.

    Args:
        log_prob: Log-probabilities under the parameters that made the rollouts, [T, N, H].
        credit: Return after adaptation, less a baseline that does not depend on these rollouts;
            [T], taken as constant.
        mask: 1 for the steps of episodes, 0 after their end; [T, N, H], any type.

    Returns:
        A loss to minimise per task, [T]; only its gradient has a meaning.
    """
    return -credit.detach() * torch.where(mask > 0, log_prob, 0).sum((1, 2))


def _change(log_prob: Tensor, old_log_prob: Tensor | None) -> Tensor:
    """Returns the log of the likelihood ratio of each step."""
    return log_prob - (log_prob if old_log_prob is None else old_log_prob).detach()


def _loss(gains: Tensor, weights: Tensor) -> Tensor:
    return -(weights * gains).sum((1, 2))
