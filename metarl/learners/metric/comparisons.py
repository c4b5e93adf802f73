"""Comparisons of queries with a support set: the interface, and those without a network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import SettingsError, ShapeError
from metarl.learners.images.layers import Moments
from metarl.models.described import described
from metarl.registry import check_choice
from metarl.tasks.losses import cross_entropy

Distance = Literal["cosine", "euclidean"]


class Reference(NamedTuple):
    """What queries are compared with: M embedded examples or classes of each of T tasks.

    Attributes:
        features: Shape [T, M, *feature], float32.
        members: The row's weight, 1 by default, where it belongs to a class, 0 elsewhere,
            [T, M, way], float32.
        weights: Weight of each row, [T, M], float32, 0 for padding; None: all 1.
    """

    features: Tensor
    members: Tensor
    weights: Tensor | None = None


class Comparison(nn.Module, ABC):
    """Interface of the comparison of a metric learner, which follows the embedding.

    Attributes:
        ordered: Whether the comparison reads the support set as a sequence. If so, `condense`
            receives a random order.
    """

    ordered: bool = False

    @abstractmethod
    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """Computes what queries are compared with, such as class prototypes.

        Args:
            support: The embedded support set.
            order: A permutation of the support set of each task, [T, M], int64, if `ordered`.

        Returns:
            The reference that `forward` takes.
        """

    @abstractmethod
    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """Compares embedded queries with the reference.

        Args:
            reference: The reference that `condense` returned.
            queries: Embedded queries, [T, N, *feature], float32.
            moments: Records the batch-norm moments of each task in training; None in evaluation.

        Returns:
            A score per class, [T, N, way]; a higher score means a more likely class.
        """

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Computes the loss of each task. The default is the cross-entropy of the scores as logits.

        Args:
            outputs: Scores, [T, N, way], float32.
            targets: Labels, [T, N], int64.
            weights: Weight of each query, [T, N]; None: all 1.

        Returns:
            Shape [T].
        """
        return cross_entropy(outputs, targets, weights)


@described
class Prototypes(Comparison):
    """Prototypical networks (Snell et al. 2017, equations 1 and 2).

    The prototype of a class is the mean of its embedded support examples. The logit of a query is
    the negative squared Euclidean distance to the prototype.

        c_k = 1 / |S_k| sum_{x_i in S_k} f(x_i)                                   equation 1
        p(y = k | x) = softmax_k(-||f(x) - c_k||^2)                               equation 2
    """

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """Returns the prototype of each class, one row per class."""
        del order
        check_vectors(self, support.features)
        members = support.members
        # c_k = 1 / |S_k| sum_{x_i in S_k} f(x_i)  (Snell et al. 2017, eq. 1)
        shares = members / members.sum(1, keepdim=True)
        return _one_row_per_class(torch.bmm(shares.mT, support.features), members)

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        del moments
        # logits -d(f(x), c_k) = -||f(x) - c_k||^2  (Snell et al. 2017, eq. 2)
        return -squared_distances(queries, reference.features)


@described
class Attention(Comparison):
    """Matching networks without full context embeddings (Vinyals et al. 2016, equation 1).

    p(y | x) = sum_i a(x, x_i) y_i, where the attention a is a softmax over the support set. The
    scores are log p, so the cross-entropy is the negative log-likelihood.

    Args:
        distance: "cosine": a = softmax_i(s cos(f(x), f(x_i))). The paper has s = 1, which bounds p
            by e / (e + (N - 1) / e): 0.65 for N = 5 ways and 0.28 for 20. Here s is learned.
            "euclidean": a = softmax_i(-||f(x) - f(x_i)||^2), which has no such bound.
        scale: Initial value of s, above 0.

    Raises:
        SettingsError: The distance is unknown, or the scale is not finite and above 0.
    """

    def __init__(self, distance: Distance = "cosine", scale: float = 10.0) -> None:
        super().__init__()
        check_choice("distance", distance, get_args(Distance))
        self.log_scale = _log_scale(scale) if distance == "cosine" else None

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """Returns the support set unchanged."""
        del order
        check_vectors(self, support.features)
        return support

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """Returns log-probabilities, [T, N, way]."""
        del moments
        # log a(x, x_i) = log softmax_i(similarity of x and x_i)
        similarities = self.similarities(queries, reference.features)
        attention = weighted_logits(similarities, reference).log_softmax(2)
        absent = reference.members.unsqueeze(1) == 0  # [T, 1, M, way]
        # log p(y | x) = log sum_i a(x, x_i) y_i  (Vinyals et al. 2016, eq. 1)
        return attention.unsqueeze(3).masked_fill(absent, -math.inf).logsumexp(2)

    def similarities(self, queries: Tensor, features: Tensor) -> Tensor:
        """Computes the logits of the attention.

        Args:
            queries: Embedded queries, [T, N, D].
            features: Embedded support set, [T, M, D].

        Returns:
            Shape [T, N, M].
        """
        if self.log_scale is None:
            return -squared_distances(queries, features)
        return self.log_scale.exp() * cosines(queries, features)


@described
class NearestNeighbour(Comparison):
    """Nearest neighbour: the class of the support example with the largest cosine similarity.

    The logit of a class is s max_i cos(f(x), f(x_i)) over its support examples. The scale s is
    the only parameter. It calibrates the probabilities and does not change the predicted class.

    Args:
        scale: Initial value of s, above 0.

    Raises:
        SettingsError: The scale is not finite and above 0.
    """

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        self.log_scale = _log_scale(scale)

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """Returns the support set unchanged."""
        del order
        check_vectors(self, support.features)
        return support

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        del moments
        absent = reference.members.unsqueeze(1) == 0  # [T, 1, M, way]
        similarities = cosines(queries, reference.features).unsqueeze(3)
        return self.log_scale.exp() * similarities.masked_fill(absent, -math.inf).amax(2)


def check_vectors(comparison: Comparison, features: Tensor, width: int | None = None) -> None:
    """Checks the features of a support set.

    Args:
        comparison: The comparison, for the message.
        features: The features.
        width: The number of features of an example that it was built for; None: any.

    Raises:
        ShapeError: They are not vectors [T, M, D], or D is another number.
    """
    if features.dim() == 3 and width in (None, features.shape[2]):
        return
    name, shape = type(comparison).__name__, tuple(features.shape)
    if features.dim() != 3:
        raise ShapeError(
            f"{name} compares vectors: expected an embedding with features [T, N, D], got {shape}. "
            "Let the network end with nn.Flatten(), or a mean over the positions."
        )
    raise ShapeError(
        f"{name} was built for {width} features of an example, and the embedding returns "
        f"{features.shape[2]}: give it `features={features.shape[2]}`, or change the network."
    )


def weighted_logits(logits: Tensor, reference: Reference) -> Tensor:
    """Returns logits of attention, with a row of weight w counting as w rows; 0 leaves it out.

    Args:
        logits: Shape [T, N, M].
        reference: Its weights are [T, M], or None.
    """
    if reference.weights is None:
        return logits
    # softmax_i(s_i + log w_i) = w_i exp(s_i) / sum_j w_j exp(s_j)
    return logits + reference.weights.log().unsqueeze(1)


def class_sums(support: Reference) -> Reference:
    """Returns a reference of the summed features of each class, [T, way, *feature].

    Args:
        support: The embedded support set, features [T, M, *feature].
    """
    sums = torch.bmm(support.members.mT, support.features.flatten(2))
    shape = (*sums.shape[:2], *support.features.shape[2:])
    return _one_row_per_class(sums.view(shape), support.members)


def squared_distances(queries: Tensor, features: Tensor) -> Tensor:
    """Returns ||q - f||^2, [T, N, M], for queries [T, N, D] and features [T, M, D]."""
    # Distances from the centre of f are the same, and lose fewer digits in the difference below.
    centre = features.mean(1, keepdim=True).detach()
    queries, features = queries - centre, features - centre
    # ||q - f||^2 = ||q||^2 + ||f||^2 - 2 q . f
    squared_norms = queries.square().sum(2, keepdim=True) + features.square().sum(2).unsqueeze(1)
    return torch.baddbmm(squared_norms, queries, features.mT, alpha=-2)


def cosines(queries: Tensor, features: Tensor) -> Tensor:
    """Returns the cosine similarities, [T, N, M], of queries [T, N, D] and features [T, M, D]."""
    return torch.bmm(F.normalize(queries, dim=2), F.normalize(features, dim=2).mT)


def _one_row_per_class(features: Tensor, members: Tensor) -> Reference:
    tasks, _, way = members.shape
    return Reference(features, torch.eye(way, device=members.device).expand(tasks, way, way))


def _log_scale(scale: float) -> nn.Parameter:
    if not 0 < scale < math.inf:
        raise SettingsError(f"Expected a finite `scale` above 0, got {scale}.")
    return nn.Parameter(torch.tensor(math.log(scale)))
