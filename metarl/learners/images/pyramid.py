"""A wider embedding at about the cost of Conv4."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.learners.images.embeddings import (
    Embedding,
    ImageShape,
    check_shape,
    conv_blocks,
    run_blocks,
)
from metarl.learners.images.layers import Moments
from metarl.models.described import described


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
        widths = [filters * 2**i for i in range(self.BLOCKS)]
        self.images = images
        self.train_in_bfloat16 = bfloat16
        self.blocks = conv_blocks(images, widths, halvings, generator)
        self.features = widths[-1] * (images.size // 2**halvings) ** 2

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """Returns features [T, N, D], float32."""
        check_shape(images, self.images)
        with self.precision(images, moments):
            return run_blocks(self.blocks, images, moments).flatten(2)
