"""Convolutional siamese networks (Koch et al. 2015): the paper's, and a small one for 28x28 images.

The network is trained to classify pairs of images as the same class or different classes. In
evaluation, a query gets the class with the largest mean logit over its pairs.
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
from metarl.learners.metric.comparisons import Comparison, Reference, check_vectors
from metarl.models.base import Weights
from metarl.models.described import described
from metarl.models.functional import max_pool2d
from metarl.tasks.losses import weighted_mean


@described
class Layer(NamedTuple):
    """A convolution with biases and ReLU.

    Attributes:
        times: Number of filters, as a multiple of the first layer's.
        size: Height and width of the filters, in pixels.
        padding: Zero padding on each side, in pixels.
        pool: Whether 2x2 max-pooling follows the convolution.
    """

    times: int
    size: int
    padding: int = 0
    pool: bool = True


SMALL = (Layer(1, 5), Layer(2, 3), Layer(2, 3, padding=1, pool=False))
KOCH = (Layer(1, 10), Layer(2, 7), Layer(2, 4), Layer(4, 4, pool=False))
"""The network of Koch et al. 2015, figure 4, for 105x105 images with 64 filters and 4096 units."""


@described
class SiameseEmbedding(Embedding):
    """Convolutions with biases, ReLU and optional max-pooling, then a layer of sigmoid units.

    As in the paper, there is no normalisation.

    Args:
        images: Shape of the images.
        generator: Source of the initial weights, Xavier uniform.
        filters: Number of filters of the first convolution.
        units: Number of sigmoid units.
        layers: The convolutions: `SMALL`, `KOCH` or others.

    Raises:
        SettingsError: A number is not positive, or the images are too small.
    """

    respects_weights = True

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
        """Returns features [T, N, units] in (0, 1)."""
        del moments
        check_shape(images, self.images)
        hidden = images.flatten(0, 1)
        for layer, weights in zip(self.layers, self.convolutions, strict=True):
            assert isinstance(weights, Weights)
            hidden = F.conv2d(hidden, weights.weight, weights.bias, padding=layer.padding)
            hidden = torch.relu(max_pool2d(hidden) if layer.pool else hidden)
        return torch.sigmoid(self.dense(hidden.flatten(1))).unflatten(0, images.shape[:2])


@described
class WeightedDifference(Comparison):
    """The weighted L1 distance of Koch et al. 2015: p = sigmoid(sum_j alpha_j |h_1j - h_2j| + b).

    The score of a class is the mean logit over the pairs of a query and the support examples of
    that class. The loss is the binary cross-entropy of "same class". As in the balanced training
    sets of the paper, same-class pairs have half of the total weight.

    Args:
        features: Width of the embedding.
        generator: Source of the initial weights.
    """

    def __init__(self, features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.output = dense(features, 1, generator)

    def condense(self, support: Reference, order: Tensor | None = None) -> Reference:
        """Returns the support set unchanged."""
        del order
        check_vectors(self, support.features, self.output.weight.shape[1])
        return support

    def forward(self, reference: Reference, queries: Tensor, moments: Moments | None) -> Tensor:
        """Returns the mean logit of "same class" of each query and class, [T, N, way]."""
        del moments
        # logit p = sum_j alpha_j |h_1j - h_2j| + b
        differences = (queries.unsqueeze(2) - reference.features.unsqueeze(1)).abs()
        logits = self.output(differences).squeeze(3)  # [T, N, M]
        return torch.bmm(logits, reference.members / reference.members.sum(1, keepdim=True))

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Returns the balanced binary cross-entropy of each task, [T]."""
        way = outputs.shape[2]
        same = one_hot(targets, way, outputs.dtype)
        # -y log p - (1 - y) log(1 - p), weighted: 1/2 for the same class, 1/2 for all the others
        losses = F.binary_cross_entropy_with_logits(outputs, same, reduction="none")
        shares = same + (1 - same) / max(way - 1, 1)
        return weighted_mean((losses * shares).sum(2), weights) / 2


def _smallest(layers: Sequence[Layer]) -> int:
    """Returns the smallest image size, in pixels, for which the layers output at least 1 pixel."""
    size = 1
    for layer in reversed(layers):
        size = size * (1 + layer.pool) + layer.size - 1 - 2 * layer.padding
    return size
