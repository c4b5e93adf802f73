"""Distributions over actions: tuples of tensors that know densities, divergences and samples."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Distribution(Protocol):
    """What a policy gives for a batch of observations.

    The batch [*] is usually [T, B]: tasks, then worlds or samples. All distributions are tuples of
    tensors, so `map_tensors(Tensor.detach, distribution)` freezes one and `take_tasks` cuts one.
    """

    def log_prob(self, actions: Tensor) -> Tensor:
        """Returns the log-density or log-probability [*] of actions [*, *action], in nats."""
        ...

    def kl(self, other: Any) -> Tensor:
        """Returns KL(self || other) [*], in nats; `other` is of the same kind."""
        ...

    def entropy(self) -> Tensor:
        """Returns the (differential) entropy [*], in nats."""
        ...

    def sample(self, noise: Tensor) -> Tensor:
        """Returns the actions [*, *action] that `Policy.noise` of this shape stands for."""
        ...

    def mode(self) -> Tensor:
        """Returns the likeliest actions [*, *action]."""
        ...


class Gaussian(NamedTuple):
    """Independent normal distributions of A action dimensions.

    Attributes:
        mean: Shape [*, A], float.
        log_std: Natural logarithm of the standard deviations, shape [*, A] or broadcastable to it;
            the last dimension is A.
    """

    mean: Tensor
    log_std: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """See `Distribution.log_prob`; the sum over the dimensions of actions [*, A]."""
        distance = (actions - self.mean) * torch.exp(-self.log_std)
        constant = 0.5 * math.log(2 * math.pi) * self.mean.shape[-1]
        return -0.5 * distance.square().sum(-1) - (self.log_std.sum(-1) + constant)

    def kl(self, other: Gaussian) -> Tensor:
        """See `Distribution.kl`."""
        gap = self.log_std - other.log_std
        shift = (self.mean - other.mean) * torch.exp(-other.log_std)
        return (0.5 * (torch.exp(2 * gap) + shift.square() - 1) - gap).sum(-1)

    def entropy(self) -> Tensor:
        """See `Distribution.entropy`."""
        constant = 0.5 * math.log(2 * math.pi * math.e)
        return (self.log_std + constant).expand_as(self.mean).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """See `Distribution.sample`; noise [*, A] is standard normal."""
        return torch.addcmul(self.mean, torch.exp(self.log_std), noise)

    def mode(self) -> Tensor:
        """See `Distribution.mode`."""
        return self.mean


class Categorical(NamedTuple):
    """One of k actions, numbered from 0.

    Attributes:
        logits: Unnormalised log-probabilities, shape [*, k], float.
    """

    logits: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """See `Distribution.log_prob`; actions [*], int64."""
        return self._log_probs().gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def kl(self, other: Categorical) -> Tensor:
        """See `Distribution.kl`."""
        own = self._log_probs()
        return (own.exp() * (own - other._log_probs())).sum(-1)

    def entropy(self) -> Tensor:
        """See `Distribution.entropy`."""
        own = self._log_probs()
        return -(own.exp() * own).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """See `Distribution.sample`; noise [*] is uniform in [0, 1), actions int64."""
        cumulative = self.logits.softmax(-1).cumsum(-1)
        # Rounding may end the sum below or above 1: measured against it, no action of
        # probability 0 is drawn and none beyond the last.
        level = noise.unsqueeze(-1) * cumulative[..., -1:]
        return (level >= cumulative[..., :-1]).sum(-1)

    def mode(self) -> Tensor:
        """See `Distribution.mode`."""
        return self.logits.argmax(-1)

    def _log_probs(self) -> Tensor:
        return F.log_softmax(self.logits, -1)
