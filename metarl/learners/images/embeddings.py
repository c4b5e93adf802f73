"""Networks that embed images. All tasks share the weights, so all images form one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import SettingsError, ShapeError
from metarl.learners.images.layers import ConvBlock, Moments
from metarl.models.described import described


@described
class ImageShape(NamedTuple):
    """The shape of an image.

    Attributes:
        channels: Number of channels.
        size: Height and width, in pixels.
    """

    channels: int = 1
    size: int = 28


class Embedding(nn.Module, ABC):
    """Interface of a map from images to features.

    Attributes:
        respects_weights: Whether, in training, the features of an image do not depend on images of
            weight 0 in `moments.weights`: batch normalisation leaves them out, or there is none.
        takes_bfloat16: Whether its training can convolve in bfloat16.
        train_in_bfloat16: Whether it does. Weights, normalisations, features and evaluation are
            float32.
    """

    respects_weights: bool = False
    takes_bfloat16: bool = False
    train_in_bfloat16: bool = False

    @abstractmethod
    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """Embeds images.

        Args:
            images: Shape [T, N, C, H, W], float32.
            moments: Training: records the batch-norm moments of each task here. None: evaluation,
                where the images do not affect each other.

        Returns:
            Features [T, N, D], or feature maps [T, N, D, H', W'].

        Raises:
            ShapeError: The images have a different shape than the network takes.
        """

    def use_bfloat16(self) -> None:
        """Makes training convolve in bfloat16.

        Raises:
            SettingsError: The embedding has no convolutions, or they are not known to be safe.
        """
        if not self.takes_bfloat16:
            raise SettingsError(
                f"{type(self).__name__} does not train in bfloat16: expected an embedding of "
                "convolution blocks (conv4, pyramid), whose normalisation stays float32. Leave "
                "`--training.precision` out."
            )
        self.train_in_bfloat16 = True

    def precision(self, images: Tensor, moments: Moments | None) -> AbstractContextManager[Any]:
        """Returns the context in which to convolve; see `forward` for the arguments."""
        if not self.train_in_bfloat16 or moments is None:
            return nullcontext()
        return torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False)

    def prepare(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        """Sees the inputs [T, N, *input] of a meta-iteration, and their mask, before all else."""
        del inputs, mask

    def draw_noise(self, generator: torch.Generator, num_tasks: int) -> Tensor | None:
        """Draws what dropout needs in training, [T, *], the argument `noise` of `forward`.

        None for networks without dropout, whose `forward` has no such argument.
        """
        del generator, num_tasks
        return None

    def started(
        self, inputs: Tensor, generator: torch.Generator, mask: Tensor | None = None
    ) -> Tensor | None:
        """Starts a meta-iteration: returns what `draw_noise` draws after `prepare`."""
        self.prepare(inputs, mask)
        return self.draw_noise(generator, len(inputs))

    def notes(self) -> list[str]:
        """Returns lines that a training shows after its first iteration."""
        return []


@described
class Pixels(Embedding):
    """The pixels themselves: flattens the images.

    Args:
        images: Shape of the images.
    """

    respects_weights = True

    def __init__(self, images: ImageShape) -> None:
        super().__init__()
        self.images = images

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """Returns features [T, N, C * H * W]."""
        del moments
        check_shape(images, self.images)
        return images.flatten(2)


@described
class Thumbnail(Embedding):
    """The pixels of images downsampled by average pooling.

    Args:
        images: Shape of the images.
        size: Height and width of the downsampled images, in pixels, from 1 to the size of the
            images; 20 in Santoro et al. 2016.

    Raises:
        SettingsError: The size is out of range.
    """

    respects_weights = True

    def __init__(self, images: ImageShape, size: int = 20) -> None:
        super().__init__()
        if not 1 <= size <= images.size:
            raise SettingsError(f"Expected a size from 1 to {images.size} pixels, got {size}.")
        self.images = images
        self.size = size
        self.features = images.channels * size**2

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """Returns features [T, N, C * size * size]."""
        del moments
        check_shape(images, self.images)
        return F.adaptive_avg_pool2d(images.flatten(0, 1), self.size).reshape(*images.shape[:2], -1)


@described
class ConvEmbedding(Embedding):
    """Four blocks of 3x3 convolution, batch normalisation, ReLU and 2x2 max-pooling; no head.

    The embedding of matching and prototypical networks (Vinyals et al. 2016, Snell et al. 2017):
    64 features for a 28x28 image with 64 filters.

    Args:
        images: Shape of the images.
        generator: Source of the initial weights.
        filters: Number of filters of every block.
        bfloat16: See `PyramidEmbedding`.

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
        filters: int = 64,
        *,
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self.images = images
        self.train_in_bfloat16 = bfloat16
        self.blocks = conv_blocks(images, [filters] * self.BLOCKS, self.BLOCKS, generator)
        self.features = filters * (images.size // 2**self.BLOCKS) ** 2

    def forward(self, images: Tensor, moments: Moments | None) -> Tensor:
        """Returns features [T, N, D]."""
        check_shape(images, self.images)
        with self.precision(images, moments):
            return run_blocks(self.blocks, images, moments).flatten(2)


def conv_blocks(
    images: ImageShape, filters: list[int], halvings: int, generator: torch.Generator
) -> nn.ModuleList:
    """Builds convolution blocks for images.

    Args:
        images: Shape of the images.
        filters: Number of filters of each block.
        halvings: How many of the blocks, from the first on, end with max-pooling.
        generator: Source of the initial weights.

    Raises:
        SettingsError: A number is not positive, or the images are too small.
    """
    check_images(images, filters[0], 2**halvings)
    channels = [images.channels, *filters]
    return nn.ModuleList(
        ConvBlock(channels[i], channels[i + 1], generator, pool=i < halvings)
        for i in range(len(filters))
    )


def run_blocks(blocks: nn.ModuleList, images: Tensor, moments: Moments | None) -> Tensor:
    """Runs convolution blocks on the images of all tasks as one batch.

    Args:
        blocks: The blocks, instances of `ConvBlock`.
        images: Shape [T, N, C, H, W].
        moments: See the arguments of `Embedding.forward`.

    Returns:
        Feature maps, [T, N, C', H', W'].
    """
    hidden = images.flatten(0, 1)
    for block in blocks:
        hidden = block(hidden, images.shape[0], moments)
    return hidden.unflatten(0, images.shape[:2])


def check_images(images: ImageShape, filters: int, smallest: int) -> None:
    """Raises SettingsError unless `filters` and channels are positive and images large enough.

    Args:
        images: Shape of the images.
        filters: Number of filters.
        smallest: Smallest image size that the network takes, in pixels.
    """
    if min(images.channels, filters) < 1:
        raise SettingsError(
            f"Expected positive channels and filters, got {images.channels} and {filters}."
        )
    if images.size < smallest:
        raise SettingsError(
            f"Images of {images.size} pixels vanish in this network; use at least {smallest}."
        )


def check_shape(images: Tensor, expected: ImageShape) -> None:
    """Raises ShapeError unless the images are [T, N, *expected] of a floating-point type."""
    channels, size = expected
    if not images.is_floating_point():
        raise ShapeError(
            f"Expected images of a floating-point type, got {images.dtype}; pixels from 0 to 255 "
            "become numbers in [0, 1] by `images.float() / 255`."
        )
    if images.dim() != 5 or images.shape[2:] != (channels, size, size):
        raise ShapeError(
            f"Expected images [T, N, {channels}, {size}, {size}], got {tuple(images.shape)}; "
            "resize the images or build the learner for theirs."
        )
