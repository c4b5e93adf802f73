"""An embedding whose features are maps: where a stroke is stays visible."""

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
class MapEmbedding(Embedding):
    """Five blocks of 3x3 convolutions, of which the first two end with max-pooling; no head.

    The first block has `filters` filters, all others twice as many. The features are the maps of
    the last block: 64 channels of 7x7 for a 28x28 image with 32 filters.

    Args:
        images: Shape of the images.
        generator: Source of the initial weights.
        filters: Number of filters of the first block.
        bfloat16: See `PyramidEmbedding`.

    Raises:
        SettingsError: A number is not positive, or the images are too small.
    """

    BLOCKS = 5
    HALVINGS = 2
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
        widths = [filters] + [2 * filters] * (self.BLOCKS - 1)
        self.images = images
        self.train_in_bfloat16 = bfloat16
        self.blocks = conv_blocks(images, widths, self.HALVINGS, generator)

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """Returns feature maps [T, N, 2 * filters, H / 4, W / 4], float32."""
        check_shape(images, self.images)
        with self.precision(images, moments):
            return run_blocks(self.blocks, images, moments)
