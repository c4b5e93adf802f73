"""Convolution blocks whose weights all tasks share and whose batch normalisation none does.

In training every task is normalised by the moments of its own images, support and query together,
as when episodes come one by one: tasks do not depend on each other. At evaluation the running
moments take their place, so that no prediction depends on another query.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.learners.images.episodic_block import EPS, EpisodicBlock
from metarl.models.functional import batch_norm, max_pool2d

MOMENTUM = 0.1  # of torch's batch normalisation: the weight of the newest moments

Moments = dict["SharedNorm", tuple[Tensor, Tensor]]
"""What training passes recorded: layer -> (mean, variance) of each task, each [T, C], detached."""


class SharedNorm(nn.Module):
    """Scale, shift and running moments of a batch normalisation; see the module's docstring.

    Args:
        channels: Channels of the images.
        device: Where the parameters are.
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
        """Mixes the moments of T tasks, each [T, C], into the running ones."""
        self.mean.lerp_(mean.mean(0), MOMENTUM)
        self.variance.lerp_(variance.mean(0), MOMENTUM)


def moments_by_name(learner: nn.Module, moments: Moments) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns what training passes recorded, by the names of a learner's layers."""
    named = learner.named_modules()
    return {n: moments[m] for n, m in named if isinstance(m, SharedNorm) and m in moments}


def absorb_moments(learner: nn.Module, carry: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Mixes what `moments_by_name` returned into the running moments of a learner's layers."""
    for name, module in learner.named_modules():
        if isinstance(module, SharedNorm) and name in carry:
            module.absorb(*carry[name])


class ConvBlock(nn.Module):
    """3x3 convolution without bias, batch normalisation, ReLU and, if wanted, 2x2 max-pooling.

    Args:
        inputs: Channels of its images.
        filters: Filters, the channels of its output.
        generator: Source of the initial filters, Xavier uniform.
        padding: Rows and columns of zeros on each side, in pixels.
        pool: Whether it halves the images.
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
            images: Those of all tasks, task by task, [T * N, in, H, W].
            num_tasks: The number of tasks, T.
            moments: Takes up the moments of each task, which then normalise; None normalises by
                the running ones.

        Returns:
            Shape [T * N, filters, H', W'].
        """
        filters = self.weight * self.sign[:, None, None, None]
        if moments is not None:
            return self._by_task(images, filters, num_tasks, moments)
        convolved = F.conv2d(images, filters, padding=self.padding)
        return self._by_record(convolved.to(images.dtype))  # under autocast it is of fewer bits

    @property
    def sign(self) -> Tensor:
        """The signs of the normalisation's scale, [filters]; 1 for 0.

        With them moved into the filters, normalisation and ReLU are monotone and commute with
        the max-pool: they run on a quarter of the positions.
        """
        return torch.where(self.norm.weight < 0, -1.0, 1.0).to(self.norm.weight.dtype)

    def normalise(self, convolved: Tensor, num_tasks: int, moments: Moments | None) -> Tensor:
        """Does the rest of `forward` on what filters with the signs of `sign` gave."""
        if moments is None:
            return self._by_record(convolved)
        return self._by_task(convolved, None, num_tasks, moments)

    def _by_task(
        self, images: Tensor, filters: Tensor | None, num_tasks: int, moments: Moments
    ) -> Tensor:
        norm, sign = self.norm, self.sign
        block = EpisodicBlock(num_tasks, self.padding, self.pool)
        normalised = block(images, filters, norm.weight * sign, norm.bias)
        moments[norm] = (normalised.mean * sign, normalised.variance)
        return normalised.images

    def _by_record(self, convolved: Tensor) -> Tensor:
        norm, sign = self.norm, self.sign
        hidden = max_pool2d(convolved) if self.pool else convolved
        mean, scale = norm.mean * sign, norm.weight * sign
        return torch.relu(batch_norm(hidden, mean, norm.variance, scale, norm.bias, EPS))


def shared_filters(filters: int, channels: int, size: int, generator: torch.Generator) -> Tensor:
    """Draws Xavier uniform filters [filters, channels, size, size], channels last in memory."""
    weight = torch.empty(filters, channels, size, size, device=generator.device)
    nn.init.xavier_uniform_(weight, generator=generator)
    return weight.contiguous(memory_format=torch.channels_last)


def dense(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Returns an affine layer with Xavier uniform weights and a bias of 0."""
    # by way of "meta": torch's own initial weights would come from its global generator
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device=generator.device)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
