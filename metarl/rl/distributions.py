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


class Bernoulli(NamedTuple):
    """Independent switches: k actions of 0 or 1.

    Attributes:
        logits: Log-odds of 1, log(p / (1 - p)), shape [*, k], float.
    """

    logits: Tensor

    def log_prob(self, actions: Tensor) -> Tensor:
        """Returns the log-probability [*] of actions [*, k], 0 or 1 of any type."""
        # log p(a) = sum_i a_i log p_i + (1 - a_i) log(1 - p_i), with p = sigmoid(logits)
        signs = 2 * actions.to(self.logits.dtype) - 1
        return F.logsigmoid(signs * self.logits).sum(-1)

    def kl(self, other: Bernoulli) -> Tensor:
        """Returns KL(self || other) [*], in nats."""
        # KL(p || q) = sum_i p_i log(p_i / q_i) + (1 - p_i) log((1 - p_i) / (1 - q_i))
        p = self.logits.sigmoid()
        ones = F.logsigmoid(self.logits) - F.logsigmoid(other.logits)
        zeros = F.logsigmoid(-self.logits) - F.logsigmoid(-other.logits)
        return (p * ones + (1 - p) * zeros).sum(-1)

    def entropy(self) -> Tensor:
        """Returns the entropy [*], in nats."""
        # H = -sum_i p_i log p_i + (1 - p_i) log(1 - p_i)
        p = self.logits.sigmoid()
        return -(p * F.logsigmoid(self.logits) + (1 - p) * F.logsigmoid(-self.logits)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Returns actions [*, k], 0 or 1 as float; the noise [*, k] is uniform in [0, 1)."""
        return (noise < self.logits.sigmoid()).to(self.logits.dtype)

    def mode(self) -> Tensor:
        """Returns the more likely values [*, k], as float."""
        return (self.logits > 0).to(self.logits.dtype)


class Joint(NamedTuple):
    """Several independent distributions, whose actions are the entries of one vector.

    Attributes:
        parts: Distributions of the same batch shape, in the order of the entries. A `Gaussian` or
            `Bernoulli` of k dimensions takes k entries, a `Categorical` takes one.
    """

    parts: tuple[Gaussian | Categorical | Bernoulli, ...]

    def log_prob(self, actions: Tensor) -> Tensor:
        """Returns the log-probability [*] of actions [*, A] float: the sum over the parts."""
        # log p(a) = sum_k log p_k(a_k)
        total, start = 0.0, 0
        for part in self.parts:
            stop = start + part_width(part)
            total = total + part.log_prob(_own_actions(part, actions[..., start:stop]))
            start = stop
        assert isinstance(total, Tensor)
        return total

    def kl(self, other: Joint) -> Tensor:
        """Returns KL(self || other) [*], in nats: the sum over the parts."""
        pairs = zip(self.parts, other.parts, strict=True)
        return torch.stack([p.kl(q) for p, q in pairs]).sum(0)  # pyright: ignore[reportArgumentType]

    def entropy(self) -> Tensor:
        """Returns the entropy [*], in nats: the sum over the parts."""
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def sample(self, noise: Tensor) -> Tensor:
        """Returns actions [*, A] float.

        The noise [*, A] is standard normal where a Gaussian has its entries, and uniform in [0, 1)
        elsewhere.
        """
        actions, start = [], 0
        for part in self.parts:
            stop = start + part_width(part)
            own = noise[..., start:stop]
            own = own.squeeze(-1) if isinstance(part, Categorical) else own
            actions.append(_entries(part, part.sample(own)))
            start = stop
        return torch.cat(actions, -1)

    def mode(self) -> Tensor:
        """Returns the most likely actions [*, A] float."""
        return torch.cat([_entries(part, part.mode()) for part in self.parts], -1)


def part_width(part: Gaussian | Categorical | Bernoulli) -> int:
    """Returns how many entries of an action a part of a `Joint` takes."""
    if isinstance(part, Categorical):
        return 1
    return (part.mean if isinstance(part, Gaussian) else part.logits).shape[-1]


def _own_actions(part: Gaussian | Categorical | Bernoulli, entries: Tensor) -> Tensor:
    """Returns entries [*, width] of an action as the part's own actions."""
    return entries.squeeze(-1).long() if isinstance(part, Categorical) else entries


def _entries(part: Gaussian | Categorical | Bernoulli, actions: Tensor) -> Tensor:
    """Returns the part's own actions as entries [*, width] float."""
    if isinstance(part, Categorical):
        return actions.unsqueeze(-1).to(part.logits.dtype)
    return actions
