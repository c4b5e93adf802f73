"""A wider embedding at about the cost of Conv4, and embeddings of several views of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.learners.images.embeddings import (
    Embedding,
    ImageShape,
    check_images,
    check_shape,
    run_blocks,
)
from metarl.learners.images.layers import ConvBlock, Moments
from metarl.models.described import described
from metarl.tasks.distortions import Distortion, resample


@described
class PyramidEmbedding(Embedding):
    """Four blocks of 3x3 convolutions, each with twice the filters of the previous one, no head.

    All blocks but the last end with max-pooling. The features are the whole maps of the last block,
    because the position of a stroke distinguishes characters: 2304 features for a 28x28 image with
    32 filters.

    Args:
        images: Shape of the images.
        generator: Source of the initial weights.
        filters: Number of filters of the first block.
        bfloat16: Whether training convolves in bfloat16: more than twice as fast on CPUs that
            support it (AVX-512 BF16). Weights, moments and evaluation stay float32.

    Raises:
        SettingsError: A number is not positive, or the images are too small.
    """

    BLOCKS = 4
    respects_weights = True
    takes_bfloat16 = True

    def __init__(
        self,
        images: ImageShape,
        generator: torch.Generator,
        filters: int = 32,
        *,
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        halvings = self.BLOCKS - 1
        check_images(images, filters, 2**halvings)
        self.images = images
        self.train_in_bfloat16 = bfloat16
        channels = [images.channels] + [filters * 2**i for i in range(self.BLOCKS)]
        self.blocks = nn.ModuleList(
            ConvBlock(channels[i], channels[i + 1], generator, pool=i < halvings)
            for i in range(self.BLOCKS)
        )
        self.features = channels[-1] * (images.size // 2**halvings) ** 2

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """Returns features [T, N, D], float32."""
        check_shape(images, self.images)
        with self.precision(images, moments):
            return run_blocks(self.blocks, images, moments).flatten(2)


@described
class AveragedViews(Embedding):
    """The sum of normalised embeddings of several views of an image, in evaluation only.

    The first view is the image itself; the others are slightly distorted copies (test-time
    augmentation). The distortions are drawn once and are the same for all images of support and
    query sets, so queries do not affect each other. In training, the embedding is used unchanged.

    Args:
        embedding: An embedding with features [T, N, D]; those of each view are scaled to norm 1.
        views: Number of views, at least 1.
        distortion: Distribution of the distortions; its `stroke` is not used.
        images: Shape of the images.
        generator: Source of the distortions.

    Raises:
        SettingsError: `views` is below 1.
    """

    grids: Tensor

    def __init__(
        self,
        embedding: Embedding,
        views: int,
        distortion: Distortion,
        images: ImageShape,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if views < 1:
            raise SettingsError(f"Expected at least 1 view, got {views}.")
        self.embedding = embedding
        self.respects_weights = embedding.respects_weights
        self.register_buffer("grids", distortion.grids(views - 1, images.size, generator))

    def use_bfloat16(self) -> None:
        self.embedding.use_bfloat16()

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        if moments is not None:
            return self.embedding(images, moments)
        flat = images.flatten(0, 1)
        total = F.normalize(self.embedding(images, None), dim=2)
        for grid in self.grids:
            view = resample(flat, grid.expand(flat.shape[0], -1, -1, -1))
            total = total + F.normalize(self.embedding(view.view_as(images), None), dim=2)
        return total
