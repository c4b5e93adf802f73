"""Convolution blocks with weights shared by all tasks and batch normalisation per task.

In training, each task is normalised by the moments of its own images, support and query together,
so tasks do not depend on each other. In evaluation, all images are normalised by the running
moments, so no prediction depends on another query.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.learners.images.episodic_block import EPS, EpisodicBlock
from metarl.models.functional import batch_norm, max_pool2d

MOMENTUM = 0.1  # weight of the newest moments, PyTorch's default


class Moments(dict["SharedNorm", tuple[Tensor, Tensor]]):
    """Recorded batch-norm moments: layer -> (mean, variance) of each task, each [T, C], detached.

    Args:
        weights: Weight of each image in the moments of its task, [T, N]; None: all 1.
    """

    def __init__(self, weights: Tensor | None = None) -> None:
        super().__init__()
        self.weights = weights


class SharedNorm(nn.Module):
    """Scale, shift and running moments of a batch normalisation.

    Args:
        channels: Number of channels of the images.
        device: Device of the parameters.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device=device))
        self.bias = nn.Parameter(torch.zeros(channels, device=device))
        self.register_buffer("mean", torch.zeros(channels, device=device))
        self.register_buffer("variance", torch.ones(channels, device=device))

    @torch.no_grad()
    def absorb(self, mean: Tensor, variance: Tensor) -> None:
        """Updates the running moments with those of T tasks.

        Args:
            mean: Shape [T, C].
            variance: Biased variance, [T, C].
        """
        # mean <- (1 - MOMENTUM) mean + MOMENTUM (mean of the T tasks)
        self.mean.lerp_(mean.mean(0), MOMENTUM)
        self.variance.lerp_(variance.mean(0), MOMENTUM)


def moments_by_name(learner: nn.Module, moments: Moments) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns the recorded moments by the names of a learner's layers."""
    modules = learner.named_modules()
    return {n: moments[m] for n, m in modules if m in moments}  # pyright: ignore[reportArgumentType]


def absorb_moments(learner: nn.Module, carry: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Updates the running moments of a learner's layers.

    Args:
        learner: The learner.
        carry: Moments by layer name, from `moments_by_name`.
    """
    for name, module in learner.named_modules():
        if name not in carry:
            continue
        if isinstance(module, SharedNorm):
            module.absorb(*carry[name])
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            absorb(module, *carry[name])


@torch.no_grad()
def absorb(layer: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Updates the running statistics of torch's batch normalisation with those of T tasks.

    Args:
        layer: The layer.
        mean: Shape [T, C].
        variance: Biased variance, [T, C].
    """
    if layer.running_mean is None or layer.running_var is None:
        return
    weight, count = layer.momentum, layer.num_batches_tracked
    if weight is None:  # the mean over all batches, as in torch
        weight = MOMENTUM if count is None else (1 / (count + 1)).to(layer.running_mean)
    layer.running_mean.lerp_(mean.mean(0), weight)
    layer.running_var.lerp_(variance.mean(0), weight)
    if count is not None:
        count += 1


class ConvBlock(nn.Module):
    """3x3 convolution without bias, batch normalisation, ReLU and optional 2x2 max-pooling.

    Args:
        inputs: Number of input channels.
        filters: Number of filters, which is the number of output channels.
        generator: Source of the initial filters, Xavier uniform.
        padding: Zero padding on each side, in pixels.
        pool: Whether to apply max-pooling.
    """

    def __init__(
        self,
        inputs: int,
        filters: int,
        generator: torch.Generator,
        *,
        padding: int = 1,
        pool: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(shared_filters(filters, inputs, 3, generator))
        self.norm = SharedNorm(filters, generator.device)
        self.padding = padding
        self.pool = pool

    def forward(self, images: Tensor, num_tasks: int, moments: Moments | None) -> Tensor:
        """Runs the block.

        Args:
            images: Images of all tasks, task by task, [T * N, in, H, W].
            num_tasks: Number of tasks, T.
            moments: Training: normalises each task by its own moments and records them here.
                None: evaluation, normalises by the running moments.

        Returns:
            Shape [T * N, filters, H', W'].
        """
        filters = self.weight * self.sign[:, None, None, None]
        if moments is not None:
            return self._normalise_by_task(images, filters, num_tasks, moments)
        convolved = F.conv2d(images, filters, padding=self.padding)
        return self._normalise_by_running(convolved.to(images.dtype))  # undoes autocast

    @property
    def sign(self) -> Tensor:
        """The sign of the batch-norm scale of each filter, [filters]; 1 where the scale is 0.

        `forward` multiplies the filters by it. Normalisation and ReLU are then non-decreasing and
        commute with the max-pooling, so they run on a quarter of the positions.
        """
        # gamma (w * x) = |gamma| (sign(gamma) w * x)
        return torch.where(self.norm.weight < 0, -1.0, 1.0).to(self.norm.weight.dtype)

    def normalise(self, convolved: Tensor, num_tasks: int, moments: Moments | None) -> Tensor:
        """Applies the block without its convolution: normalisation, ReLU and max-pooling.

        Args:
            convolved: Images convolved with the filters times `sign`, [T * N, filters, H, W].
            num_tasks: Number of tasks, T.
            moments: See the arguments of `forward`.

        Returns:
            Shape [T * N, filters, H', W'].
        """
        if moments is None:
            return self._normalise_by_running(convolved)
        return self._normalise_by_task(convolved, None, num_tasks, moments)

    def _normalise_by_task(
        self, images: Tensor, filters: Tensor | None, num_tasks: int, moments: Moments
    ) -> Tensor:
        norm, sign = self.norm, self.sign
        if moments.weights is not None:
            return self._normalise_weighted(images, filters, moments, moments.weights)
        block = EpisodicBlock(num_tasks, self.padding, self.pool)
        normalised = block(images, filters, norm.weight * sign, norm.bias)
        moments[norm] = (normalised.mean * sign, normalised.variance)
        return normalised.images

    def _normalise_weighted(
        self, images: Tensor, filters: Tensor | None, moments: Moments, weights: Tensor
    ) -> Tensor:
        """Normalises by moments in which each image counts with its weight [T, N]."""
        norm, sign = self.norm, self.sign
        if filters is not None:
            images = F.conv2d(images, filters, padding=self.padding).to(images.dtype)
        maps = images.unflatten(0, weights.shape)  # [T, N, C, H, W]
        shares = weights / (weights.sum(1, keepdim=True) * maps[0, 0, 0].numel())
        shares = shares[:, :, None, None, None]
        # mean = sum_n w_n x_n / sum_n w_n,  variance = sum_n w_n (x_n - mean)^2 / sum_n w_n
        mean = (shares * maps).sum((1, 3, 4), keepdim=True)
        centred = maps - mean
        variance = (shares * centred.square()).sum((1, 3, 4), keepdim=True)
        scale = (norm.weight * sign)[:, None, None] * torch.rsqrt(variance + EPS)
        hidden = torch.relu(centred * scale + norm.bias[:, None, None]).flatten(0, 1)
        mean, variance = mean.detach().flatten(1), variance.detach().flatten(1)
        moments[norm] = (mean * sign.detach(), variance)
        return max_pool2d(hidden) if self.pool else hidden

    def _normalise_by_running(self, convolved: Tensor) -> Tensor:
        norm, sign = self.norm, self.sign
        hidden = max_pool2d(convolved) if self.pool else convolved
        mean, scale = norm.mean * sign, norm.weight * sign
        return torch.relu(batch_norm(hidden, mean, norm.variance, scale, norm.bias, EPS))


def shared_filters(filters: int, channels: int, size: int, generator: torch.Generator) -> Tensor:
    """Draws Xavier uniform filters [filters, channels, size, size] in channels-last format."""
    weight = torch.empty(filters, channels, size, size, device=generator.device)
    nn.init.xavier_uniform_(weight, generator=generator)
    return weight.contiguous(memory_format=torch.channels_last)


def dense(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Returns an affine layer with Xavier uniform weights and a bias of 0."""
    # Built on "meta", because PyTorch draws initial weights from the global generator.
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device=generator.device)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
