"""Embeddings of several views of an image (test-time augmentation)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.errors import SettingsError
from metarl.learners.images.embeddings import Embedding, ImageShape
from metarl.learners.images.layers import Moments
from metarl.models.described import described
from metarl.tasks.distortions import Distortion, resample


@described
class AveragedViews(Embedding):
    """The sum of normalised embeddings of several views of an image, in evaluation only.

    The first view is the image itself; the others are slightly distorted copies (test-time
    augmentation). The distortions are drawn once and are the same for all images of support and
    query sets, so queries do not affect each other. In training, the embedding is used unchanged.

    Args:
        embedding: An embedding with features [T, N, *feature]; those of each view are scaled to
            norm 1.
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

    def prepare(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        self.embedding.prepare(inputs, mask)

    def draw_noise(self, generator: torch.Generator, num_tasks: int) -> Tensor | None:
        return self.embedding.draw_noise(generator, num_tasks)

    def notes(self) -> list[str]:
        return self.embedding.notes()

    def forward(self, images: Tensor, moments: Moments | None, **noise: Tensor) -> Tensor:
        if moments is not None:
            return self.embedding(images, moments, **noise)
        flat = images.flatten(0, 1)
        total = normalised(self.embedding(images, None))
        for grid in self.grids:
            view = resample(flat, grid.expand(flat.shape[0], -1, -1, -1))
            total = total + normalised(self.embedding(view.view_as(images), None))
        return total


def normalised(features: Tensor) -> Tensor:
    """Returns features [T, N, *feature], those of each image scaled to norm 1."""
    return F.normalize(features.flatten(2), dim=2).view_as(features)
