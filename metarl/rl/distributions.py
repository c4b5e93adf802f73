"""Distributions over actions: densities, divergences, entropies and samples."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Distribution(Protocol):
    """Interface of a batch of distributions over actions.

    The batch shape [*] is usually [T, B]: tasks, then worlds or samples. All distributions are
    named tuples of tensors, so `map_tensors(Tensor.detach, distribution)` detaches one and
    `take_tasks` selects tasks of one.
    """

    def log_prob(self, actions: Tensor) -> Tensor:
        """Returns the log-density or log-probability [*] of actions [*, *action], in nats."""
        ...

    def kl(self, other: Any) -> Tensor:
        """Returns KL(self || other) [*], in nats; `other` must be of the same class."""
        ...

    def entropy(self) -> Tensor:
        """Returns the (differential) entropy [*], in nats."""
        ...

    def sample(self, noise: Tensor) -> Tensor:
        """Transforms noise from `Policy.noise` of batch shape [*] into actions [*, *action]."""
        ...

    def mode(self) -> Tensor:
        """Returns the most likely actions [*, *action]."""
        ...


class Gaussian(NamedTuple):
    """Normal distributions over A independent action dimensions.

    Attributes:
        mean: Shape [*, A], float.
        log_std: Natural logarithm of the standard deviations, shape [*, A] or broadcastable to it;
            the last dimension must be A.
    """

    mean: Tensor
    log_std: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Returns the log-density [*] of actions [*, A], summed over the dimensions."""
        # log N(a; mu, sigma^2) = -1/2 sum_i ((a_i - mu_i) / sigma_i)^2
        #                         - sum_i log sigma_i - A/2 log(2 pi)
        z = (actions - self.mean) * torch.exp(-self.log_std)
        constant = 0.5 * math.log(2 * math.pi) * self.mean.shape[-1]
        return -0.5 * z.square().sum(-1) - (self.log_std.sum(-1) + constant)

    def kl(self, other: Gaussian) -> Tensor:
        """Returns KL(self || other) [*], in nats."""
        # KL(p || q) = sum_i 1/2 (sigma_p^2 / sigma_q^2 + (mu_p - mu_q)^2 / sigma_q^2 - 1)
        #                    - log(sigma_p / sigma_q)
        log_ratio = self.log_std - other.log_std
        shift = (self.mean - other.mean) * torch.exp(-other.log_std)
        return (0.5 * (torch.exp(2 * log_ratio) + shift.square() - 1) - log_ratio).sum(-1)

    def entropy(self) -> Tensor:
        """Returns the differential entropy [*], in nats."""
        # H = sum_i log sigma_i + 1/2 log(2 pi e)
        constant = 0.5 * math.log(2 * math.pi * math.e)
        return (self.log_std + constant).expand_as(self.mean).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Returns mean + std * noise; the noise [*, A] is standard normal."""
        return torch.addcmul(self.mean, torch.exp(self.log_std), noise)

    def mode(self) -> Tensor:
        """Returns the means [*, A]."""
        return self.mean


class Categorical(NamedTuple):
    """Categorical distributions over k actions, numbered from 0.

    Attributes:
        logits: Unnormalised log-probabilities, shape [*, k], float.
    """

    logits: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Returns the log-probability [*] of actions [*], int64."""
        # log p(a) = logits_a - log sum_j exp(logits_j)
        return self._log_probs().gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def kl(self, other: Categorical) -> Tensor:
        """Returns KL(self || other) [*], in nats."""
        # KL(p || q) = sum_a p(a) (log p(a) - log q(a))
        log_p = self._log_probs()
        return (log_p.exp() * (log_p - other._log_probs())).sum(-1)

    def entropy(self) -> Tensor:
        """Returns the entropy [*], in nats."""
        # H = -sum_a p(a) log p(a)
        log_p = self._log_probs()
        return -(log_p.exp() * log_p).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Returns actions [*], int64, by inverse transform sampling.

        The noise [*] is uniform in [0, 1).
        """
        cumulative = self.logits.softmax(-1).cumsum(-1)
        # Rounding may make the total differ from 1. Scaling the noise by the total ensures that
        # no action of probability 0 and no action beyond the last is sampled.
        level = noise.unsqueeze(-1) * cumulative[..., -1:]
        return (level >= cumulative[..., :-1]).sum(-1)

    def mode(self) -> Tensor:
        """Returns the most likely actions [*], int64."""
        return self.logits.argmax(-1)

    def _log_probs(self) -> Tensor:
        return F.log_softmax(self.logits, -1)
