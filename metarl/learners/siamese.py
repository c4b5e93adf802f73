"""Convolutional siamese networks (Koch et al. 2015), a small one for images of 28x28.

Trained to tell pairs of one class from pairs of two; at test the most alike class wins. Theirs
took images of 105x105, sizes 10, 7, 4, 4 of its filters and 4096 units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.learners.comparisons import Comparison, Reference
from metarl.learners.embeddings import Embedding, ImageShape, check_images, check_shape
from metarl.learners.layers import Moments, dense, shared_filters
from metarl.models.base import Weights
from metarl.models.functional import max_pool2d


class SiameseEmbedding(Embedding):
    """Three convolutions with biases and ReLU, the first two halved, then a layer of sigmoids.

    Filters of 5x5, 3x3 and 3x3, the last two twice as many; no normalisation, as theirs.

    Args:
        images: What it embeds.
        generator: Source of the initial weights, Xavier uniform.
        filters: Filters of the first convolution.
        units: Sigmoids.

    Raises:
        SettingsError: A number is not positive or the images are too small.
    """

    SIZES = (5, 3, 3)
    SMALLEST = 18  # 18 -> 14, halved 7 -> 5, halved 2: padded once more for the last filters

    def __init__(
        self,
        images: ImageShape,
        generator: torch.Generator,
        filters: int = 64,
        units: int = 512,
    ) -> None:
        super().__init__()
        check_images(images, filters, self.SMALLEST)
        if units < 1:
            raise SettingsError(f"Expected at least 1 unit, got {units}.")
        self.images = images
        channels = (images.channels, filters, 2 * filters, 2 * filters)
        self.convolutions = nn.ModuleList(
            Weights(
                shared_filters(outputs, inputs, size, generator),
                torch.zeros(outputs, device=generator.device),
            )
            for inputs, outputs, size in zip(channels, channels[1:], self.SIZES, strict=False)
        )
        self.size = ((images.size - 4) // 2 - 2) // 2
        self.dense = dense(2 * filters * self.size**2, units, generator)

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """See `Embedding.forward`; features in (0, 1), [T, N, units]."""
        del moments
        check_shape(images, self.images)
        hidden = images.flatten(0, 1)
        for i, layer in enumerate(self.convolutions):
            assert isinstance(layer, Weights)
            last = i == len(self.SIZES) - 1
            hidden = F.conv2d(hidden, layer.weight, layer.bias, padding=1 if last else 0)
            hidden = torch.relu(hidden if last else max_pool2d(hidden))
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
        same = F.one_hot(targets, way).to(outputs.dtype)
        losses = F.binary_cross_entropy_with_logits(outputs, same, reduction="none")
        shares = same + (1 - same) / max(way - 1, 1)
        return (losses * shares).sum(2).mean(1) / 2
