"""Convolutional siamese networks (Koch et al. 2015): a small one for images of 28x28, and theirs.

Trained to tell pairs of one class from pairs of two; at test the most alike class wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.learners.class_labels import one_hot
from metarl.learners.images.embeddings import Embedding, ImageShape, check_images, check_shape
from metarl.learners.images.layers import Moments, dense, shared_filters
from metarl.learners.metric.comparisons import Comparison, Reference
from metarl.models.base import Weights
from metarl.models.functional import max_pool2d


class Layer(NamedTuple):
    """A convolution with biases and ReLU.

    Attributes:
        times: Its filters, as a multiple of the first layer's.
        size: Height and width of its filters, in pixels.
        padding: Rows and columns of zeros on each side, in pixels.
        pool: Whether it halves the images.
    """

    times: int
    size: int
    padding: int = 0
    pool: bool = True


SMALL = (Layer(1, 5), Layer(2, 3), Layer(2, 3, padding=1, pool=False))
KOCH = (Layer(1, 10), Layer(2, 7), Layer(2, 4), Layer(4, 4, pool=False))
"""Koch et al.'s, figure 4: for images of 105x105 with 64 filters and 4096 units."""


class SiameseEmbedding(Embedding):
    """Convolutions with biases and ReLU, most of them halved, then a layer of sigmoids.

    No normalisation, as theirs.

    Args:
        images: What it embeds.
        generator: Source of the initial weights, Xavier uniform.
        filters: Filters of the first convolution.
        units: Sigmoids.
        layers: The convolutions, `SMALL` or `KOCH` or others.

    Raises:
        SettingsError: A number is not positive or the images are too small.
    """

    def __init__(
        self,
        images: ImageShape,
        generator: torch.Generator,
        filters: int = 64,
        units: int = 512,
        layers: Sequence[Layer] = SMALL,
    ) -> None:
        super().__init__()
        check_images(images, filters, _smallest(layers))
        if units < 1:
            raise SettingsError(f"Expected at least 1 unit, got {units}.")
        self.images = images
        self.layers = tuple(layers)
        channels = (images.channels, *(layer.times * filters for layer in layers))
        self.convolutions = nn.ModuleList(
            Weights(
                shared_filters(outputs, inputs, layer.size, generator),
                torch.zeros(outputs, device=generator.device),
            )
            for inputs, outputs, layer in zip(channels, channels[1:], layers, strict=False)
        )
        self.size = images.size
        for layer in layers:
            self.size = (self.size + 2 * layer.padding - layer.size + 1) // (1 + layer.pool)
        self.dense = dense(channels[-1] * self.size**2, units, generator)

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """See `Embedding.forward`; features in (0, 1), [T, N, units]."""
        del moments
        check_shape(images, self.images)
        hidden = images.flatten(0, 1)
        for layer, weights in zip(self.layers, self.convolutions, strict=True):
            assert isinstance(weights, Weights)
            hidden = F.conv2d(hidden, weights.weight, weights.bias, padding=layer.padding)
            hidden = torch.relu(max_pool2d(hidden) if layer.pool else hidden)
        return torch.sigmoid(self.dense(hidden.flatten(1))).unflatten(0, images.shape[:2])


class WeightedDifference(Comparison):
    """The logit of a pair: a learned weighted sum of |h_1 - h_2|, plus a bias.

    A class scores the mean logit of its pairs with a query. The loss is the binary cross-entropy
    of "same class", for which pairs of one class count half, as in Koch et al.'s balanced sets.

    Args:
        features: Width of the embedding.
        generator: Source of the initial weights.
    """

    def __init__(self, features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.output = dense(features, 1, generator)

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """See `Comparison.condense`: the support set itself."""
        del order
        return support

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """See `Comparison.forward`: logits of being of the class."""
        del moments
        differences = (queries.unsqueeze(2) - reference.features.unsqueeze(1)).abs()
        logits = self.output(differences).squeeze(3)  # [T, N, M]
        return torch.bmm(logits, reference.members / reference.members.sum(1, keepdim=True))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Comparison.loss`."""
        way = outputs.shape[2]
        same = one_hot(targets, way, outputs.dtype)
        losses = F.binary_cross_entropy_with_logits(outputs, same, reduction="none")
        shares = same + (1 - same) / max(way - 1, 1)
        return (losses * shares).sum(2).mean(1) / 2


def _smallest(layers: Sequence[Layer]) -> int:
    """Returns the smallest image of which a pixel is left."""
    size = 1
    for layer in reversed(layers):
        size = size * (1 + layer.pool) + layer.size - 1 - 2 * layer.padding
    return size
