"""How queries are compared with a support set: the interface, and plain ways without a network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.learners.images.layers import Moments
from metarl.registry import check_choice
from metarl.tasks.losses import cross_entropy

Distance = Literal["cosine", "euclidean"]


class Reference(NamedTuple):
    """What queries are compared with: M embedded examples, or classes, of each of T tasks.

    Attributes:
        features: Shape [T, M, *feature].
        members: 1 where a row belongs to a class, 0 elsewhere, [T, M, way], float32.
    """

    features: Tensor
    members: Tensor


class Comparison(nn.Module, ABC):
    """Interface of the part of a metric learner that comes after the embedding.

    Attributes:
        ordered: Whether it reads the support set as a sequence, whose random order `condense`
            is then given.
    """

    ordered: bool = False

    @abstractmethod
    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """Returns what queries are compared with.

        Args:
            support: The embedded support set.
            order: A permutation of the support of each task, [T, M], int64, where `ordered`.
        """

    @abstractmethod
    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """Compares embedded queries [T, N, *feature] with the reference.

        Args:
            reference: What `condense` returned.
            queries: The queries.
            moments: See `Embedding.forward`.

        Returns:
            A score per class, the higher the likelier: [T, N, way].
        """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of each task, [T], from scores [T, N, way] and labels [T, N].

        By default the cross-entropy, with the scores as logits.
        """
        return cross_entropy(outputs, targets)


class Prototypes(Comparison):
    """Prototypical networks (Snell et al. 2017, equations 1 and 2).

    A class is the mean of its embedded examples, c_k = mean f(x); the logit of a query is
    -||f(x) - c_k||^2, the squared Euclidean distance.
    """

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """See `Comparison.condense`: one row per class, its prototype."""
        del order
        members = support.members
        shares = members / members.sum(1, keepdim=True)
        return _one_row_per_class(torch.bmm(shares.mT, support.features), members)

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """See `Comparison.forward`."""
        del moments
        return -squared_distances(queries, reference.features)


class Attention(Comparison):
    """Matching networks without full context embeddings (Vinyals et al. 2016, equation 1).

    p(y | x) = sum_i a(x, x_i) y_i, where a is a softmax over the support set. The scores are
    log p, so cross-entropy is the negative logarithm of the mixed probability.

    Args:
        distance: "cosine": a = softmax of s cos(f(x), f(x_i)); with s = 1, as printed, p could
            not exceed e / (e + (N - 1) / e), .65 for 5 ways and .28 for 20, so s is learned.
            "euclidean": a = softmax of -||f(x) - f(x_i)||^2, which has no such bound.
        scale: Where s starts, above 0.

    Raises:
        SettingsError: The distance is unknown or the scale not above 0.
    """

    def __init__(self, distance: Distance = "cosine", scale: float = 10.0) -> None:
        super().__init__()
        check_choice("distance", distance, get_args(Distance))
        self.log_scale = _log_scale(scale) if distance == "cosine" else None

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """See `Comparison.condense`: the support set itself."""
        del order
        return support

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """See `Comparison.forward`: logarithms of probabilities."""
        del moments
        attention = self.similarities(queries, reference.features).log_softmax(2)
        absent = reference.members.unsqueeze(1) == 0  # [T, 1, M, way]
        return attention.unsqueeze(3).masked_fill(absent, -math.inf).logsumexp(2)

    def similarities(self, queries: Tensor, features: Tensor) -> Tensor:
        """Returns the logits of the attention, [T, N, M]."""
        if self.log_scale is None:
            return -squared_distances(queries, features)
        return self.log_scale.exp() * cosines(queries, features)


class NearestNeighbour(Comparison):
    """The class of the support example with the largest cosine.

    A logit is s max_i cos(f(x), f(x_i)) over the examples of a class. The scale s is all that is
    trained: it makes probabilities of the cosines and changes no decision.

    Args:
        scale: Where s starts, above 0.

    Raises:
        SettingsError: The scale is not above 0.
    """

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        self.log_scale = _log_scale(scale)

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """See `Comparison.condense`: the support set itself."""
        del order
        return support

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """See `Comparison.forward`."""
        del moments
        absent = reference.members.unsqueeze(1) == 0  # [T, 1, M, way]
        similar = cosines(queries, reference.features).unsqueeze(3)
        return self.log_scale.exp() * similar.masked_fill(absent, -math.inf).amax(2)


def class_sums(support: Reference) -> Reference:
    """Adds up the features [T, M, *feature] of each class: [T, way, *feature]."""
    sums = torch.bmm(support.members.mT, support.features.flatten(2))
    shape = (*sums.shape[:2], *support.features.shape[2:])
    return _one_row_per_class(sums.view(shape), support.members)


def squared_distances(queries: Tensor, features: Tensor) -> Tensor:
    """Returns ||q - f||^2 for queries [T, N, D] and features [T, M, D]: [T, N, M]."""
    lengths = queries.square().sum(2, keepdim=True) + features.square().sum(2).unsqueeze(1)
    return torch.baddbmm(lengths, queries, features.mT, alpha=-2)


def cosines(queries: Tensor, features: Tensor) -> Tensor:
    """Returns the cosines of queries [T, N, D] and features [T, M, D]: [T, N, M]."""
    return torch.bmm(F.normalize(queries, dim=2), F.normalize(features, dim=2).mT)


def _one_row_per_class(features: Tensor, members: Tensor) -> Reference:
    tasks, _, way = members.shape
    return Reference(features, torch.eye(way, device=members.device).expand(tasks, way, way))


def _log_scale(scale: float) -> nn.Parameter:
    if not 0 < scale < math.inf:
        raise SettingsError(f"Expected a finite `scale` above 0, got {scale}.")
    return nn.Parameter(torch.tensor(math.log(scale)))
