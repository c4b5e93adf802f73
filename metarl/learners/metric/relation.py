"""Relation networks (Sung et al. 2018): a learned network compares queries with classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import ShapeError
from metarl.learners.class_labels import one_hot
from metarl.learners.images.embeddings import (
    Embedding,
    ImageShape,
    check_images,
    check_shape,
    run_blocks,
)
from metarl.learners.images.layers import ConvBlock, Moments, dense
from metarl.learners.metric.comparisons import Comparison, Reference, class_sums
from metarl.models.described import described
from metarl.tasks.losses import weighted_mean


@described
class RelationEmbedding(Embedding):
    """Four convolution blocks whose output is feature maps, 5x5 for a 28x28 image.

    The first two blocks have no padding and end with max-pooling; the last two are padded and do
    not pool.

    Args:
        images: Shape of the images.
        generator: Source of the initial weights.
        filters: Number of filters of every block.

    Raises:
        SettingsError: A number is not positive, or the images are too small.
    """

    respects_weights = True
    takes_bfloat16 = True
    SMALLEST = 22  # 22x22 images become maps of 4x4, which the relation module pools twice

    def __init__(self, images: ImageShape, generator: torch.Generator, filters: int = 64) -> None:
        super().__init__()
        check_images(images, filters, self.SMALLEST)
        self.images = images
        self.blocks = nn.ModuleList(
            [
                ConvBlock(images.channels, filters, generator, padding=0),
                ConvBlock(filters, filters, generator, padding=0),
                ConvBlock(filters, filters, generator, pool=False),
                ConvBlock(filters, filters, generator, pool=False),
            ]
        )
        self.size = ((images.size - 2) // 2 - 2) // 2

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """Returns feature maps [T, N, filters, size, size]."""
        check_shape(images, self.images)
        with self.precision(images, moments):
            return run_blocks(self.blocks, images, moments)


@described
class Relation(Comparison):
    """The relation module: computes a score in (0, 1) for every query and class.

        r_k = g(C(sum_i f(x_i), f(x)))                                            equation 1
        loss = mean_k (r_k - 1[y = k])^2                                          equation 2

    The sum is over the support examples of class k, and C concatenates the maps.

    Args:
        filters: Channels of the feature maps.
        size: Height and width of the feature maps, at least 4.
        generator: Source of the initial weights.
        units: Width of the hidden layer.
    """

    def __init__(self, filters: int, size: int, generator: torch.Generator, units: int = 8) -> None:
        super().__init__()
        self.first = ConvBlock(2 * filters, filters, generator)
        self.second = ConvBlock(filters, filters, generator)
        self.hidden = dense(filters * (size // 4) ** 2, units, generator)
        self.output = dense(units, 1, generator)

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """Returns the sum of the feature maps of each class."""
        del order
        self._check_maps(support.features)
        return class_sums(support)

    def _check_maps(self, maps: Tensor) -> None:
        """Raises ShapeError unless features [T, M, *] are maps as this module was built for."""
        filters = self.second.weight.shape[1]
        if maps.dim() == 5 and maps.shape[2] == filters:
            units = filters * (maps.shape[3] // 4) * (maps.shape[4] // 4)
            if units == self.hidden.weight.shape[1]:
                return
        size = 4 * round((self.hidden.weight.shape[1] / filters) ** 0.5)
        raise ShapeError(
            f"This relation module was built for feature maps [T, N, {filters}, H, W] of "
            f"{size} to {size + 3} pixels, got features {tuple(maps.shape)}. Give it the channels "
            "and the size of the network's maps; leave out layers that flatten or average them."
        )

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """Returns relation scores in (0, 1), [T, N, way]."""
        # r_k = g(C(sum_i f(x_i), f(x)))  (Sung et al. 2018, eq. 1)
        tasks, way = reference.features.shape[:2]
        whole = moments
        if moments is not None and moments.weights is not None:  # those of the queries come last
            weights = moments.weights[:, -queries.shape[1] :]
            moments = Moments(weights.repeat_interleave(way, dim=1))
        pairs = self._first_convolution(reference.features, queries).flatten(0, 2)
        maps = self.second(self.first.normalise(pairs, tasks, moments), tasks, moments)
        if whole is not None and moments is not None:
            whole.update(moments)
        scores = self.output(torch.relu(self.hidden(maps.flatten(1)))).sigmoid()
        return scores.view(tasks, queries.shape[1], way)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Returns the mean squared error over all pairs of query and class, [T]."""
        # (r_k - 1[y = k])^2  (Sung et al. 2018, eq. 2)
        labels = one_hot(targets, outputs.shape[2], outputs.dtype)
        squares = (outputs - labels).square()
        return squares.mean((1, 2)) if weights is None else weighted_mean(squares, weights)

    def _first_convolution(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Convolves the concatenated maps of all pairs of class and query.

        The convolution is linear, so each class and each query is convolved once, not once per
        pair.

        Args:
            classes: Maps of the classes, [T, way, filters, H, W].
            queries: Maps of the queries, [T, N, filters, H, W].

        Returns:
            Shape [T, N, way, filters, H, W].
        """
        block = self.first
        # W * C(a, b) = W_1 * a + W_2 * b, with W_1 and W_2 the halves of the input channels
        halves = (block.weight * block.sign[:, None, None, None]).chunk(2, dim=1)
        of_class, of_query = (
            F.conv2d(maps.flatten(0, 1), half, padding=block.padding).unflatten(0, maps.shape[:2])
            for maps, half in zip((classes, queries), halves, strict=True)
        )
        return of_class.unsqueeze(1) + of_query.unsqueeze(2)
