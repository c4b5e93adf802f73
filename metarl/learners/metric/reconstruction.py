"""Feature map reconstruction (Wertheimer et al. 2021): a class explains the parts of a query."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metarl.errors import ShapeError
from metarl.learners.images.layers import Moments
from metarl.learners.images.views import normalised
from metarl.learners.metric.comparisons import Comparison, Reference, class_sums
from metarl.models.described import described

START_RIDGE = 0.5
START_SCALE = 20.0


@described
class Reconstruction(Comparison):
    """Scores a class by how well its feature maps reconstruct those of a query, and the reverse.

    Each image has features at r positions, the rows of X [r, C], scaled to a norm of 1 in all. The
    best combination of the rows S of a class, by ridge regression, reconstructs those of a query
    (section 3 of the paper):

        W = argmin_W ||Q - W S||^2 + lambda ||W||^2
        Q' = W S = Q (S^T S + lambda I)^-1 S^T S
        logit = -scale ||Q - Q'||^2

    Lambda and the scale are learned; lambda is a multiple of the mean eigenvalue of S^T S. Because
    a row may be reconstructed from any position, moved and bent strokes cost little. The paper
    reconstructs the queries alone, which leaves parts of a class that a query lacks without a
    cost; here the error of the class, reconstructed from the query, is added.

    For all pairs of query and class together, the error is an inner product of two matrices:

        Q - Q' = Q R,   R = lambda (S^T S + lambda I)^-1,   ||Q R||^2 = <Q^T Q, R^2>
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_ridge = nn.Parameter(torch.tensor(math.log(START_RIDGE)))
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """Returns the second moments S^T S of each class, divided by its number of images.

        Args:
            support: Feature maps [T, M, C, H, W].
            order: Not used.
        """
        del order
        classes = class_sums(support._replace(features=second_moments(support.features)))
        sizes = support.members.sum(1)[:, :, None, None]
        return classes._replace(features=classes.features / sizes)

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """Returns logits [T, N, way] of queries with feature maps [T, N, C, H, W]."""
        del moments
        classes, queries = reference.features, second_moments(queries)
        errors = self.errors(queries, classes) + self.errors(classes, queries).mT
        return -self.log_scale.exp() * errors

    def errors(self, reconstructed: Tensor, given: Tensor) -> Tensor:
        """Returns the share of the first images' features that the second ones do not explain.

        Args:
            reconstructed: Second moments [T, N, C, C].
            given: Second moments [T, M, C, C], each of trace 1.

        Returns:
            Shape [T, N, M], in [0, 1].
        """
        channels, dtype = given.shape[-1], given.dtype
        given = given.to(torch.promote_types(dtype, torch.float32))  # no inverse of 16 bits
        identity = torch.eye(channels, dtype=given.dtype, device=given.device)
        ridge = self.log_ridge.exp() / channels
        # R = lambda (S^T S + lambda I)^-1 = (I + S^T S / lambda)^-1
        missing = torch.linalg.inv_ex(identity + given / ridge).inverse
        # ||Q - Q'||^2 = <Q^T Q, R^2>
        return reconstructed.flatten(2) @ (missing @ missing).to(dtype).flatten(2).mT


def second_moments(maps: Tensor) -> Tensor:
    """Returns X^T X of the feature maps, over the positions, divided by its trace.

    Args:
        maps: Shape [T, N, C, H, W].

    Returns:
        Shape [T, N, C, C].

    Raises:
        ShapeError: The features are no maps.
    """
    if maps.dim() != 5:
        raise ShapeError(
            "Reconstruction compares the features at each position of a map: expected an embedding "
            f"with feature maps [T, N, C, H, W], got {tuple(maps.shape)}. Leave out the layers "
            "that flatten or average them."
        )
    rows = normalised(maps.flatten(3))
    return rows @ rows.mT
