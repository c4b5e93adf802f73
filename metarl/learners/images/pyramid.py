"""A wider embedding than Conv4's at about its cost, and the mean over several views of an image."""

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
from metarl.tasks.distortions import Distortion, resample


class PyramidEmbedding(Embedding):
    """Four blocks of 3x3 convolutions, each with twice the filters of the one before, no head.

    All but the last halve the image; its maps are kept whole, as where a stroke is tells one
    character from another: 2304 numbers for an image of 28x28 with 32 filters.

    Args:
        images: What it embeds.
        generator: Source of the initial weights.
        filters: Filters of the first block.
        bfloat16: Whether training convolves in bfloat16: more than twice as quick on CPUs that
            have it (AVX-512 BF16). Weights, moments and evaluation stay float32.

    Raises:
        SettingsError: A number is not positive or the images are too small.
    """

    BLOCKS = 4

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
        self.reduced = bfloat16
        channels = [images.channels] + [filters * 2**i for i in range(self.BLOCKS)]
        self.blocks = nn.ModuleList(
            ConvBlock(channels[i], channels[i + 1], generator, pool=i < halvings)
            for i in range(self.BLOCKS)
        )
        self.features = channels[-1] * (images.size // 2**halvings) ** 2

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """See `Embedding.forward`; features [T, N, D], float32."""
        check_shape(images, self.images)
        reduced = self.reduced and moments is not None
        with torch.autocast(images.device.type, torch.bfloat16, enabled=reduced):
            maps = run_blocks(self.blocks, images, moments)
        return maps.flatten(2)


class AveragedViews(Embedding):
    """The mean of an embedding over views of an image, each a slightly distorted copy.

    In evaluation only, where it stands for the mean over what the embedding was trained to
    overlook. The views, the undistorted one among them, are drawn once and the same for every
    image, support or query: no query sees another one.

    Args:
        embedding: Any that gives features [T, N, D]; they are normalised to length 1.
        views: Number of views, at least 1.
        distortion: How they are distorted; strokes are left as they are.
        images: What it embeds.
        generator: Source of the views.

    Raises:
        SettingsError: There are no views.
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
        self.register_buffer("grids", distortion.grids(views - 1, images.size, generator))

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """See `Embedding.forward`."""
        if moments is not None:
            return self.embedding(images, moments)
        flat = images.flatten(0, 1)
        total = F.normalize(self.embedding(images, None), dim=2)
        for grid in self.grids:
            view = resample(flat, grid.expand(len(flat), -1, -1, -1))
            total = total + F.normalize(self.embedding(view.view_as(images), None), dim=2)
        return total
