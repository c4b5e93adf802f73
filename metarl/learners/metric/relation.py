"""Relation networks (Sung et al. 2018): the comparison itself is a learned network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class RelationEmbedding(Embedding):
    """Four blocks of convolutions that leave maps: two unpadded that halve, two that do not.

    Maps of 5x5 for an image of 28x28.

    Args:
        images: What it embeds.
        generator: Source of the initial weights.
        filters: Filters of every block.

    Raises:
        SettingsError: A number is not positive or the images are too small to compare.
    """

    SMALLEST = 22  # leaves maps of 4x4, which the relation module halves twice

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
        """See `Embedding.forward`; maps [T, N, filters, size, size]."""
        check_shape(images, self.images)
        return run_blocks(self.blocks, images, moments)


class Relation(Comparison):
    """The relation module: a score in (0, 1) for every query and class (equation 1).

    r = g(concat(sum_i f(x_i), f(x))) with the sum over the examples of a class; trained by the
    squared error to 1 for the right class and 0 for the others (equation 2).

    Args:
        filters: Channels of the maps.
        size: Height and width of the maps, at least 4.
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
        """See `Comparison.condense`: the sum of the maps of each class."""
        del order
        return class_sums(support)

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """See `Comparison.forward`: scores in (0, 1)."""
        tasks, way = reference.features.shape[:2]
        pairs = self._first_convolution(reference.features, queries).flatten(0, 2)
        maps = self.second(self.first.normalise(pairs, tasks, moments), tasks, moments)
        scores = self.output(torch.relu(self.hidden(maps.flatten(1)))).sigmoid()
        return scores.view(tasks, queries.shape[1], way)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Comparison.loss`: the mean squared error over all pairs of query and class."""
        right = one_hot(targets, outputs.shape[2], outputs.dtype)
        return (outputs - right).square().mean((1, 2))

    def _first_convolution(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Convolves all pairs of class and query beside each other, [T, N, way, filters, H, W].

        It is linear: each class and query is convolved once, not once per pair.
        """
        block = self.first
        halves = (block.weight * block.sign[:, None, None, None]).chunk(2, dim=1)
        of_class, of_query = (
            F.conv2d(maps.flatten(0, 1), half, padding=block.padding).unflatten(0, maps.shape[:2])
            for maps, half in zip((classes, queries), halves, strict=True)
        )
        return of_class.unsqueeze(1) + of_query.unsqueeze(2)
