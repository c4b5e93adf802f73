"""Surrogate losses of policy gradients.

At the parameters that collected the rollouts, the gradient of every surrogate is the policy
gradient. The second derivatives differ, and with them the meta-gradient: see
docs/meta_gradients.md.

All surrogates in `SURROGATES` have the same arguments:

- log_prob: Log-probability of each action under the current parameters, [T, N, H], float.
- advantages: Advantage (or return) of each action, [T, N, H]; treated as a constant.
- weights: Weight c_t of each step, [T, N, H]; 0 after the end of an episode. The weights of a mean
  sum to 1 for each task. Weights that also contain the discount gamma^t yield the exact derivatives
  of the discounted return; in practice this factor is omitted.
- settings: Hyperparameters; each function lists those that it uses.
- old_log_prob: Log-probability under the parameters pi_old that collected the rollouts, if these
  are not the current ones; `ratio` and `dice` then weight the steps by their likelihood ratio. None
  means the current parameters.

They return a loss to minimise for each task, [T].
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
    """Interface of a surrogate loss. See the module for the arguments and the result."""

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
    """Likelihood ratio times advantage (LVC; Rothfuss et al. 2019, equation 9).

    Its Hessian omits the effect of earlier actions on the states of later ones: a small bias, and a
    low variance. Uses no settings.
    """
    del settings
    # loss = -sum_t c_t pi(a_t | s_t) / stop_gradient(pi_old(a_t | s_t)) A_t
    gains = _log_ratio(log_prob, old_log_prob).exp() * advantages.detach()
    return _weighted_loss(gains, weights)


def dice(
    log_prob: Tensor,
    advantages: Tensor,
    weights: Tensor,
    settings: PolicyGradientSettings = DEFAULTS,
    old_log_prob: Tensor | None = None,
) -> Tensor:
    """Loaded DiCE (Farquhar et al. 2019, algorithm 1), with lambda = `settings.dice_lambda`.

    With lambda = 1 its derivatives of every order are those of the expected return, at a high
    variance (DiCE; Foerster et al. 2018); lambda = 0 is `ratio`. The value of the loss is 0 at the
    parameters that collected the rollouts.
    """
    # l_t = log pi(a_t | s_t) - stop_gradient(log pi_old(a_t | s_t));  w_t = l_t + lambda w_{t-1}
    # loss = -sum_t c_t [exp(w_t) - exp(w_t - l_t)] A_t  (Farquhar et al. 2019, algorithm 1)
    log_ratio = _log_ratio(log_prob, old_log_prob)
    dependencies = sums_to_end(log_ratio.flip(-1), settings.dice_lambda).flip(-1)
    gains = (dependencies.exp() - (dependencies - log_ratio).exp()) * advantages.detach()
    return _weighted_loss(gains, weights)


def logprob(
    log_prob: Tensor,
    advantages: Tensor,
    weights: Tensor,
    settings: PolicyGradientSettings = DEFAULTS,
    old_log_prob: Tensor | None = None,
) -> Tensor:
    """Log-probability times advantage, as in the code of Finn et al. 2017.

    Its gradient is correct but its Hessian is not: the meta-gradient is biased and no better than
    the first-order one. Use it to reproduce older results and for E-MAML (`exploration_term`). Uses
    neither settings nor `old_log_prob`.
    """
    del settings, old_log_prob
    # loss = -sum_t c_t log pi(a_t | s_t) A_t
    return _weighted_loss(log_prob * advantages.detach(), weights)


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
    """The outer loss of PPO and ProMP: the (clipped) likelihood ratio times the advantage.

    Schulman et al. 2017, equation 6 without clipping and equation 7 with it. ProMP's objective
    J^CLIP - eta KL (Rothfuss et al. 2019, equation 14) adds a penalty to it, which the policy
    learner computes.

    Args:
        log_prob: Log-probabilities under the current parameters, [T, N, H].
        old_log_prob: Log-probabilities under the parameters that collected the rollouts, [T, N, H].
        advantages: Advantage of each action, [T, N, H].
        weights: Weight of each step, [T, N, H].
        clip: Clips the ratio to 1 +- clip (epsilon of the paper). None: no clipping.

    Returns:
        A loss to minimise for each task, [T].
    """
    # r_t = pi(a_t | s_t) / pi_old(a_t | s_t)
    ratio = (log_prob - old_log_prob).exp()
    gains = ratio * advantages  # L^CPI = E[r_t A_t]  (Schulman et al. 2017, eq. 6)
    if clip is not None:
        # L^CLIP = E[min(r_t A_t, clip(r_t, 1 - epsilon, 1 + epsilon) A_t)]  (eq. 7)
        gains = torch.minimum(gains, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return _weighted_loss(gains, weights)


def exploration_credit(returns: Tensor, steps: Tensor, normalize: bool) -> Tensor:
    """Returns the return of each task less the mean of the other tasks, [T].

    It is divided by the number of steps, as the outer surrogate is a mean over steps, and by the
    deviation over tasks if advantages are normalised.

    Args:
        returns: Mean return of each task after adaptation, [T].
        steps: Mean number of steps of an episode, [T].
        normalize: Whether advantages are normalised.
    """
    count = returns.shape[0]
    if count == 1:
        return returns / steps
    # R_i - mean of R_j over j != i  =  (R_i - mean of all) * T / (T - 1)
    advantages = (returns - returns.mean()) * (count / (count - 1))
    return advantages / (steps * (returns.std() + 1e-8) if normalize else steps)


def exploration_term(log_prob: Tensor, credit: Tensor, mask: Tensor) -> Tensor:
    """E-MAML's term for the choice of the rollouts to adapt on (Stadie et al. 2018, section 3).

    The expected return after an adaptation on N sampled rollouts depends on the parameters also
    through the distribution of these rollouts. The gradient of this term is that dependence (see
    also Al-Shedivat et al. 2018). Adding the term for every adaptation step to the loss after
    adaptation makes the gradient of the expectation (Objective II) unbiased if the inner surrogate
    is `logprob`; `ratio` and `dice` already contain part of it.

    Args:
        log_prob: Log-probabilities under the parameters that collected the rollouts, [T, N, H].
        credit: Return after adaptation minus a baseline that is independent of these rollouts, [T];
            treated as a constant.
        mask: 1 for the steps of episodes, 0 after their end; shape [T, N, H], any type.

    Returns:
        A loss to minimise for each task, [T]; only its gradient is meaningful.
    """
    # gradient: -sum_i grad log pi(tau_i) (J(theta') - b), over the N rollouts tau_i
    return -credit.detach() * torch.where(mask > 0, log_prob, 0).sum((1, 2))


def _log_ratio(log_prob: Tensor, old_log_prob: Tensor | None) -> Tensor:
    """Returns the logarithm of the likelihood ratio of each step, [T, N, H]."""
    return log_prob - (log_prob if old_log_prob is None else old_log_prob).detach()


def _weighted_loss(gains: Tensor, weights: Tensor) -> Tensor:
    """Returns -sum_t c_t gain_t of each task, [T], over all steps of its N episodes."""
    return -(weights * gains).sum((1, 2))
