"""Convolution, batch normalisation by each task's own images, max-pooling, ReLU: one operation.

On a CPU it goes through the images in parts that stay in the cache, and what is cheap to compute
again is not kept for the gradient: convolved images are larger than all the rest together. It has
first derivatives only; `metarl.models.functional` has layers with second ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function

from metarl.errors import ShapeError

EPS = 1e-5
PART_BYTES = 2**22
"""Size of the convolved images of a part on a CPU; half and twice of it are about as quick."""


class Normalised(NamedTuple):
    """What a block gives.

    Attributes:
        images: Shape [T * N, C, H', W'], channels last in memory.
        mean: Of the convolved images of each task, [T, C], detached.
        variance: Likewise, biased.
    """

    images: Tensor
    mean: Tensor
    variance: Tensor


class EpisodicBlock(NamedTuple):
    """A block in which the moments of its own images normalise each task.

    Attributes:
        num_tasks: The number of tasks, T.
        padding: Rows and columns of zeros on each side of an image, in pixels.
        pool: Whether it halves the images.
    """

    num_tasks: int
    padding: int = 0
    pool: bool = True

    def __call__(
        self, images: Tensor, filters: Tensor | None, scale: Tensor, shift: Tensor
    ) -> Normalised:
        """Runs it. Under autocast the convolutions are in its type, there and back.

        Args:
            images: Those of all tasks, task by task, [T * N, in, H, W].
            filters: Shape [C, in, k, k]; None where the images are convolved already.
            scale: Of the normalisation, [C]; at least 0, as it comes after the max-pooling.
            shift: Of the normalisation, [C].

        Raises:
            ShapeError: The tasks have not as many images each.
        """
        if len(images) % self.num_tasks:
            raise ShapeError(
                f"Expected as many images of each task, got {len(images)} images of "
                f"{self.num_tasks} tasks."
            )
        return Normalised(*_Block.apply(images, filters, scale, shift, self))


class _Block(Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        filters: Tensor | None,
        scale: Tensor,
        shift: Tensor,
        block: EpisodicBlock,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.convolution = convolution = _Convolution(images, filters, block)
        kept = None if convolution.cheap else convolution(images, filters)
        moments, pools = [], []
        for part in convolution.parts:
            convolved = convolution.part(part, images, filters, kept)
            moments.append(_moments(convolved, part.num_tasks))
            pools.append(F.max_pool2d(convolved, 2) if block.pool else convolved)
        mean, variance = _over_parts(moments, convolution.parts, block.num_tasks)
        pooled = _joined(pools)
        inverse = torch.rsqrt(variance + EPS)
        slope = scale * inverse
        rows = _affine(pooled, slope, shift - mean * slope).relu_()
        output = _as_images(rows, pooled)
        ctx.save_for_backward(images, filters, scale, kept, pooled, output, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # Torch's `once_differentiable` lets `autograd.grad` go on as if the second ones were 0.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "Blocks of metric learners have first derivatives only, but `create_graph` asked "
                "for more; build the network of the layers of `metarl.models.functional`."
            )
        images, filters, scale, kept, pooled, output, mean, inverse = ctx.saved_tensors
        convolution: _Convolution = ctx.convolution
        grad = torch.ops.aten.threshold_backward(channels_last(grad), output, 0)
        rows = _rows(grad, len(mean))
        # With z = (x - mean) inverse and y = scale z + shift at n positions of a channel:
        # dx = scale inverse (dy - sum(dy) / n - z sum(dy z) / n)
        total = _sums(rows, pooled)
        aligned = (_sums(rows * _rows(pooled, len(mean)), pooled) - mean * total) * inverse
        factor = scale * inverse
        rows *= _row(factor, pooled)
        slope = -factor * inverse * aligned / convolution.positions
        offset = -factor * total / convolution.positions - slope * mean
        pixels: list[Tensor] = []
        weights: list[Tensor] = []
        for part in convolution.parts:
            convolved = convolution.part(part, images, filters, kept)
            inner = _unpooled(part.of(grad), convolved) if convolution.block.pool else part.of(grad)
            _rows(inner, part.num_tasks).add_(
                _affine(convolved, slope[part.tasks], offset[part.tasks])
            )
            pixel, weight = convolution.gradients(
                inner, part.of(images), filters, ctx.needs_input_grad
            )
            pixels += [] if pixel is None else [pixel]
            weights += [] if weight is None else [weight]
        return (
            _joined(pixels) if pixels else None,
            _added(weights) if weights else None,
            aligned.sum(0),
            total.sum(0),
            None,
        )


class _Part(NamedTuple):
    """Images next to each other: those of whole tasks, or some of one task."""

    images: slice
    tasks: slice

    @property
    def num_tasks(self) -> int:
        return self.tasks.stop - self.tasks.start

    def of(self, images: Tensor) -> Tensor:
        return images[self.images]


class _Convolution:
    """The convolution of a block, if it has one, and the parts in which images go through it."""

    def __init__(self, images: Tensor, filters: Tensor | None, block: EpisodicBlock) -> None:
        self.block = block
        self.kind = images.dtype
        channels, height, width = images.shape[1:]
        if filters is not None:
            device = images.device.type
            if torch.is_autocast_enabled(device):
                self.kind = torch.get_autocast_dtype(device)
            channels, size = filters.shape[0], filters.shape[2]
            height, width = (n + 2 * block.padding - size + 1 for n in (height, width))
        # To convolve a few channels twice is quicker than to write many and read them again.
        self.cheap = filters is not None and filters[0].numel() <= len(filters)
        each = len(images) // block.num_tasks
        self.positions = each * height * width
        images_per_part = len(images)
        if images.device.type == "cpu":
            images_per_part = max(
                1, PART_BYTES // (channels * height * width * images.element_size())
            )
        self.parts = _parts(block.num_tasks, each, images_per_part)

    def __call__(self, images: Tensor, filters: Tensor | None) -> Tensor:
        """Returns the convolved images, of the images' type and channels last."""
        if filters is None:
            return channels_last(images)
        convolved = F.conv2d(*self._operands(images, filters), padding=self.block.padding)
        return channels_last(convolved.to(images.dtype))

    def part(
        self, part: _Part, images: Tensor, filters: Tensor | None, kept: Tensor | None
    ) -> Tensor:
        """Returns the convolved images of a part, from those that were kept or convolved again."""
        return self(part.of(images), filters) if kept is None else part.of(kept)

    def gradients(
        self, grad: Tensor, images: Tensor, filters: Tensor | None, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Returns the gradients for images and filters, where needed, from that of the output."""
        if filters is None:
            return grad, None
        padding = [self.block.padding] * 2
        pixels, weights, _ = torch.ops.aten.convolution_backward(
            grad.to(self.kind), *self._operands(images, filters), None,
            [1, 1], padding, [1, 1], False, [0, 0], 1, [*needed[:2], False],
        )  # fmt: skip
        return (
            pixels.to(images.dtype) if needed[0] else None,
            weights.to(images.dtype) if needed[1] else None,
        )

    def _operands(self, images: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
        return channels_last(images.to(self.kind)), channels_last(filters.to(self.kind))


def channels_last(images: Tensor) -> Tensor:
    """Returns images [N, C, H, W] with the channels last in memory.

    Images of one channel get the strides that say so too, by which convolutions go.
    """
    channels, height, width = images.shape[1:]
    strides = (height * width * channels, 1, width * channels, channels)
    return images.contiguous(memory_format=torch.channels_last).as_strided(images.shape, strides)


def _parts(num_tasks: int, each: int, images_per_part: int) -> list[_Part]:
    """Cuts tasks of `each` images into parts of `images_per_part` images at most."""
    if each <= images_per_part:
        step = images_per_part // each
        firsts = range(0, num_tasks, step)
        spans = [slice(t, min(t + step, num_tasks)) for t in firsts]
        return [_Part(slice(s.start * each, s.stop * each), s) for s in spans]
    step = -(-each // -(-each // images_per_part))  # of equal parts, as few as they may be
    return [
        _Part(slice(t * each + low, t * each + min(low + step, each)), slice(t, t + 1))
        for t in range(num_tasks)
        for low in range(0, each, step)
    ]


def _moments(convolved: Tensor, num_tasks: int) -> tuple[Tensor, Tensor]:
    """Returns mean and biased variance of each task's channels, each [tasks, C]."""
    if convolved.device.type != "cpu":
        channels = convolved.permute(0, 2, 3, 1).reshape(num_tasks, -1, convolved.shape[1])
        variance, mean = torch.var_mean(channels, 1, correction=0)
        return mean, variance
    # The kernel of torch's batch norm: 40 times as quick as `var_mean`.
    pairs = [torch.batch_norm_update_stats(t, None, None, 0.0) for t in convolved.chunk(num_tasks)]
    return torch.stack([mean for mean, _ in pairs]), torch.stack([var for _, var in pairs])


def _over_parts(
    moments: list[tuple[Tensor, Tensor]], parts: list[_Part], num_tasks: int
) -> tuple[Tensor, Tensor]:
    """Returns the moments [T, C] of tasks from those of their parts."""
    means, variances = (_joined(list(kind)) for kind in zip(*moments, strict=True))
    if len(means) == num_tasks:
        return means, variances
    # The variance is the mean one within the parts, and that of their means.
    means, variances = means.unflatten(0, (num_tasks, -1)), variances.unflatten(0, (num_tasks, -1))
    counts = [part.images.stop - part.images.start for part in parts[: means.shape[1]]]
    shares = means.new_tensor(counts).div_(sum(counts)).unsqueeze(1)
    mean = (shares * means).sum(1)
    spread = (means - mean.unsqueeze(1)).square_()
    return mean, (shares * (variances + spread)).sum(1)


def _unpooled(grad: Tensor, convolved: Tensor) -> Tensor:
    """Returns the gradient for images from that for the largest of every 2x2 positions."""
    _, index = torch.ops.aten.max_pool2d_with_indices(convolved, [2, 2], [2, 2])
    return torch.ops.aten.max_pool2d_with_indices_backward(
        grad, convolved, [2, 2], [2, 2], [0, 0], [1, 1], False, index
    )


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _added(parts: list[Tensor]) -> Tensor:
    total, *rest = parts
    for part in rest:
        total += part
    return total


# Images as rows [T, N * H, W * C]: operations with a number per channel are eight times as quick
# on rows of many numbers as on one row per pixel.


def _rows(images: Tensor, num_tasks: int) -> Tensor:
    return images.permute(0, 2, 3, 1).view(num_tasks, -1, images.shape[3] * images.shape[1])


def _row(values: Tensor, images: Tensor) -> Tensor:
    """Repeats values [T, C] along a row of the images: [T, 1, W * C]."""
    return values.repeat(1, images.shape[3]).unsqueeze(1)


def _affine(images: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Returns offset + slope * x as rows, for slope and offset [T, C]."""
    rows = _rows(images, len(slope))
    return torch.addcmul(_row(offset, images), rows, _row(slope, images))


def _sums(rows: Tensor, images: Tensor) -> Tensor:
    """Adds up rows of the images for each channel: [T, C]."""
    return rows.sum(1).view(len(rows), -1, images.shape[1]).sum(1)


def _as_images(rows: Tensor, like: Tensor) -> Tensor:
    count, channels, height, width = like.shape
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)
