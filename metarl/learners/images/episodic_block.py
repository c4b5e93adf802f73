"""Convolution, max-pooling, batch normalisation per task and ReLU as one autograd function.

On a CPU, the images are processed in parts that fit into the cache. Cheap convolutions are
recomputed in the backward pass, because the convolved images take more memory than all other
tensors together. Only first derivatives are supported; the layers of `metarl.models.functional`
support second derivatives.
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
"""Bytes of convolved images per part on a CPU; half or twice as many are about as fast."""


class Normalised(NamedTuple):
    """The output of a block.

    Attributes:
        images: Shape [T * N, C, H', W'], in channels-last format.
        mean: Mean of the convolved images of each task, [T, C], detached.
        variance: Biased variance of the convolved images of each task, [T, C], detached.
    """

    images: Tensor
    mean: Tensor
    variance: Tensor


class EpisodicBlock(NamedTuple):
    """A convolution block that normalises each task by the moments of its own images.

    Attributes:
        num_tasks: Number of tasks, T.
        padding: Zero padding on each side of an image, in pixels.
        pool: Whether to apply 2x2 max-pooling.
    """

    num_tasks: int
    padding: int = 0
    pool: bool = True

    def __call__(
        self, images: Tensor, filters: Tensor | None, scale: Tensor, shift: Tensor
    ) -> Normalised:
        """Runs the block. Under autocast, the convolutions and their gradients use its dtype.

        Args:
            images: Images of all tasks, task by task, [T * N, in, H, W].
            filters: Shape [C, in, k, k]; None if the images are already convolved.
            scale: Scale of the normalisation, [C]; at least 0, because the max-pooling precedes
                the normalisation.
            shift: Shift of the normalisation, [C].

        Returns:
            The images and the moments of each task.

        Raises:
            ShapeError: The number of images is not divisible by the number of tasks.
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
        cache = None if convolution.recompute else convolution(images, filters)
        moments, pools = [], []
        for part in convolution.parts:
            convolved = convolution.convolve_part(part, images, filters, cache)
            moments.append(_moments(convolved, part.num_tasks))
            pools.append(F.max_pool2d(convolved, 2) if block.pool else convolved)
        mean, variance = _combine_moments(moments, convolution.parts, block.num_tasks)
        pooled = _concatenate(pools)
        # y = scale (x - mean) / sqrt(variance + eps) + shift  (Ioffe & Szegedy 2015, algorithm 1)
        inv_std = torch.rsqrt(variance + EPS)
        slope = scale * inv_std
        rows = _affine(pooled, slope, shift - mean * slope).relu_()
        output = _as_images(rows, pooled)
        ctx.save_for_backward(images, filters, scale, cache, pooled, output, mean, inv_std)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # With `once_differentiable`, `autograd.grad` would treat second derivatives as 0.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "Blocks of metric learners have first derivatives only, but `create_graph` asked "
                "for more. Build the network from the layers of `metarl.models.functional`."
            )
        images, filters, scale, cache, pooled, output, mean, inv_std = ctx.saved_tensors
        convolution: _Convolution = ctx.convolution
        grad = torch.ops.aten.threshold_backward(channels_last(grad), output, 0)
        rows = _rows(grad, len(mean))
        # With z = (x - mean) inv_std and y = scale z + shift at n positions of a channel:
        # dshift = sum(dy), dscale = sum(dy z),
        # dx = scale inv_std (dy - sum(dy) / n - z sum(dy z) / n)
        grad_shift = _sums(rows, pooled)
        products = _sums(rows * _rows(pooled, len(mean)), pooled)
        grad_scale = (products - mean * grad_shift) * inv_std
        factor = scale * inv_std
        rows *= _row(factor, pooled)  # the first term of dx, in place: `rows` is a view of `grad`
        # the other two terms of dx: slope x + offset
        slope = -factor * inv_std * grad_scale / convolution.positions
        offset = -factor * grad_shift / convolution.positions - slope * mean
        image_grads: list[Tensor] = []
        filter_grads: list[Tensor] = []
        for part in convolution.parts:
            convolved = convolution.convolve_part(part, images, filters, cache)
            # dx = (first term, through the max-pooling) + slope x + offset
            inner = part.select(grad)
            if convolution.block.pool:
                inner = _max_pool_backward(inner, convolved)
            _rows(inner, part.num_tasks).add_(
                _affine(convolved, slope[part.tasks], offset[part.tasks])
            )
            image_grad, filter_grad = convolution.gradients(
                inner, part.select(images), filters, ctx.needs_input_grad
            )
            image_grads += [] if image_grad is None else [image_grad]
            filter_grads += [] if filter_grad is None else [filter_grad]
        return (
            _concatenate(image_grads) if image_grads else None,
            _sum_in_place(filter_grads) if filter_grads else None,
            grad_scale.sum(0),
            grad_shift.sum(0),
            None,
        )


class _Part(NamedTuple):
    """Consecutive images: all images of several tasks, or some images of one task."""

    images: slice
    tasks: slice

    @property
    def num_tasks(self) -> int:
        return self.tasks.stop - self.tasks.start

    def select(self, images: Tensor) -> Tensor:
        return images[self.images]


class _Convolution:
    """The convolution of a block, if it has one, and the parts in which images are processed."""

    def __init__(self, images: Tensor, filters: Tensor | None, block: EpisodicBlock) -> None:
        self.block = block
        self.dtype = images.dtype
        channels, height, width = images.shape[1:]
        if filters is not None:
            device = images.device.type
            if torch.is_autocast_enabled(device):
                self.dtype = torch.get_autocast_dtype(device)
            channels, size = filters.shape[0], filters.shape[2]
            height, width = (n + 2 * block.padding - size + 1 for n in (height, width))
        # Convolving a few channels twice is faster than writing and reading many output channels.
        self.recompute = filters is not None and filters[0].numel() <= len(filters)
        images_per_task = len(images) // block.num_tasks
        self.positions = images_per_task * height * width
        images_per_part = len(images)
        if images.device.type == "cpu":
            images_per_part = max(
                1, PART_BYTES // (channels * height * width * images.element_size())
            )
        self.parts = _parts(block.num_tasks, images_per_task, images_per_part)

    def __call__(self, images: Tensor, filters: Tensor | None) -> Tensor:
        """Returns the convolved images, in the dtype of the images and channels-last format."""
        if filters is None:
            return channels_last(images)
        convolved = F.conv2d(*self._operands(images, filters), padding=self.block.padding)
        return channels_last(convolved.to(images.dtype))

    def convolve_part(
        self, part: _Part, images: Tensor, filters: Tensor | None, cache: Tensor | None
    ) -> Tensor:
        """Returns the convolved images of a part, from the cache of all parts if there is one."""
        return self(part.select(images), filters) if cache is None else part.select(cache)

    def gradients(
        self, grad: Tensor, images: Tensor, filters: Tensor | None, needs_grad: tuple[bool, ...]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Computes the gradients w.r.t. images and filters from that of the convolved images.

        Args:
            grad: Gradient w.r.t. the convolved images.
            images: Input of the convolution.
            filters: Filters; None if the block has no convolution.
            needs_grad: Whether images and filters need a gradient; None is returned otherwise.
        """
        if filters is None:
            return grad, None
        padding = [self.block.padding] * 2
        image_grad, filter_grad, _ = torch.ops.aten.convolution_backward(
            grad.to(self.dtype), *self._operands(images, filters), None,
            [1, 1], padding, [1, 1], False, [0, 0], 1, [*needs_grad[:2], False],
        )  # fmt: skip
        return (
            image_grad.to(images.dtype) if needs_grad[0] else None,
            filter_grad.to(images.dtype) if needs_grad[1] else None,
        )

    def _operands(self, images: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
        return channels_last(images.to(self.dtype)), channels_last(filters.to(self.dtype))


def channels_last(images: Tensor) -> Tensor:
    """Returns images [N, C, H, W] in channels-last format.

    The strides are set for images of one channel too, because convolutions choose their kernel by
    the strides.
    """
    channels, height, width = images.shape[1:]
    strides = (height * width * channels, 1, width * channels, channels)
    return images.contiguous(memory_format=torch.channels_last).as_strided(images.shape, strides)


def _parts(num_tasks: int, images_per_task: int, images_per_part: int) -> list[_Part]:
    """Splits the images of all tasks into parts of at most `images_per_part` images."""
    count = images_per_task
    if count <= images_per_part:
        step = images_per_part // count
        firsts = range(0, num_tasks, step)
        spans = [slice(t, min(t + step, num_tasks)) for t in firsts]
        return [_Part(slice(s.start * count, s.stop * count), s) for s in spans]
    step = -(-count // -(-count // images_per_part))  # the fewest parts per task, of equal size
    return [
        _Part(slice(t * count + low, t * count + min(low + step, count)), slice(t, t + 1))
        for t in range(num_tasks)
        for low in range(0, count, step)
    ]


def _moments(convolved: Tensor, num_tasks: int) -> tuple[Tensor, Tensor]:
    """Returns the mean and biased variance of each task's channels, each [num_tasks, C]."""
    if convolved.device.type != "cpu":
        channels = convolved.permute(0, 2, 3, 1).reshape(num_tasks, -1, convolved.shape[1])
        variance, mean = torch.var_mean(channels, 1, correction=0)
        return mean, variance
    # This kernel of PyTorch's batch normalisation is 40 times as fast as `var_mean`.
    pairs = [torch.batch_norm_update_stats(t, None, None, 0.0) for t in convolved.chunk(num_tasks)]
    return torch.stack([mean for mean, _ in pairs]), torch.stack([var for _, var in pairs])


def _combine_moments(
    moments: list[tuple[Tensor, Tensor]], parts: list[_Part], num_tasks: int
) -> tuple[Tensor, Tensor]:
    """Computes the mean and variance of each task, each [T, C], from those of the parts."""
    means, variances = (_concatenate(list(values)) for values in zip(*moments, strict=True))
    if len(means) == num_tasks:
        return means, variances
    # Law of total variance, with w_p the share of the images in part p:
    # mean = sum_p w_p mean_p, variance = sum_p w_p (variance_p + (mean_p - mean)^2)
    means, variances = means.unflatten(0, (num_tasks, -1)), variances.unflatten(0, (num_tasks, -1))
    counts = [part.images.stop - part.images.start for part in parts[: means.shape[1]]]
    shares = means.new_tensor(counts).div_(sum(counts)).unsqueeze(1)
    mean = (shares * means).sum(1)
    spread = (means - mean.unsqueeze(1)).square_()
    return mean, (shares * (variances + spread)).sum(1)


def _max_pool_backward(grad: Tensor, convolved: Tensor) -> Tensor:
    """Returns the gradient w.r.t. the input `convolved` of 2x2 max-pooling."""
    _, index = torch.ops.aten.max_pool2d_with_indices(convolved, [2, 2], [2, 2])
    return torch.ops.aten.max_pool2d_with_indices_backward(
        grad, convolved, [2, 2], [2, 2], [0, 0], [1, 1], False, index
    )


def _concatenate(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _sum_in_place(parts: list[Tensor]) -> Tensor:
    """Returns the sum of the parts, computed in the memory of the first."""
    total, *rest = parts
    for part in rest:
        total += part
    return total


# Images as rows [T, N * H, W * C]: operations with one number per channel are eight times as fast
# on long rows as on one row per pixel.


def _rows(images: Tensor, num_tasks: int) -> Tensor:
    """Returns channels-last images [T * N, C, H, W] as a view [T, N * H, W * C]."""
    return images.permute(0, 2, 3, 1).view(num_tasks, -1, images.shape[3] * images.shape[1])


def _row(values: Tensor, images: Tensor) -> Tensor:
    """Repeats values [T, C] along a row of the images, [T, 1, W * C]."""
    return values.repeat(1, images.shape[3]).unsqueeze(1)


def _affine(images: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Returns offset + slope * images as rows, for slope and offset [T, C]."""
    rows = _rows(images, len(slope))
    return torch.addcmul(_row(offset, images), rows, _row(slope, images))


def _sums(rows: Tensor, images: Tensor) -> Tensor:
    """Sums rows over all positions of each channel, [T, C]."""
    return rows.sum(1).view(len(rows), -1, images.shape[1]).sum(1)


def _as_images(rows: Tensor, like: Tensor) -> Tensor:
    """Returns rows as images of the shape of `like`, in channels-last format."""
    count, channels, height, width = like.shape
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)
