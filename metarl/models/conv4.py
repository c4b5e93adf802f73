"""The task-batched four-block convolutional network of few-shot image classification."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from metarl.errors import SettingsError, ShapeError
from metarl.models.base import Fitting, Model, Params, Statistics, task_shape, weights_of
from metarl.models.convolution import channel_moments
from metarl.models.described import described
from metarl.models.folding import fold_images, unfold_images
from metarl.models.functional import (
    batch_norm,
    conv2d,
    linear,
    max_pool2d,
    weighted_channel_moments,
)
from metarl.registry import check_choice

Pooling = Literal["max", "stride"]
BLOCKS = 4
HEAD_STD = 0.01


@described
class Conv4(Model):
    """Four blocks of 3x3 convolution, batch norm, ReLU and downsampling by 2, and a linear head.

    The convolutions have no bias, because the batch normalisation would subtract it.

    Args:
        outputs: Number of outputs, the classes of a task.
        generator: Source of the initial weights.
        in_channels: Channels of an image.
        image_size: Height and width of an image, in pixels.
        filters: Filters of every block.
        pooling: "max": 2x2 max-pooling after each block, and a head on the flattened features
            (Vinyals et al. 2016, Snell et al. 2017, MAML++). "stride": convolutions of stride 2,
            and a head on the mean over positions (the Omniglot network of Finn et al. 2017).
        eps: Added to the variances of the batch normalisation; Ravi & Larochelle 2017 use 1e-3.

    Raises:
        SettingsError: If a size is not positive, the image too small or the pooling unknown.
    """

    def __init__(
        self,
        outputs: int,
        generator: torch.Generator,
        in_channels: int = 1,
        image_size: int = 28,
        filters: int = 64,
        pooling: Pooling = "max",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, get_args(Pooling))
        if min(outputs, in_channels, filters) < 1 or eps <= 0:
            raise SettingsError(
                "Expected positive outputs, in_channels, filters and eps, got "
                f"{outputs}, {in_channels}, {filters} and {eps}."
            )
        if image_size < (2**BLOCKS if pooling == "max" else 1):
            raise SettingsError(
                f"Images of {image_size} pixels vanish in {BLOCKS} halvings; "
                f"use at least {2**BLOCKS} pixels, or pooling='stride'."
            )
        self.outputs = outputs
        self.in_channels = in_channels
        self.image_size = image_size
        self.filters = filters
        self.pooling = pooling
        self.eps = eps
        initial = self.initial(generator)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {part: weights_of(initial, f"blocks.{i}.{part}") for part in ("conv", "norm")}
            )
            for i in range(BLOCKS)
        )
        self.head = weights_of(initial, "head")

    def forward(
        self,
        params: Params,
        inputs: Tensor,
        statistics: Statistics | None = None,
        *,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Runs the network of each task on images [T, N, in_channels, image_size, image_size].

        `weights` [T, N] are the weights of the images in the batch statistics; None: all 1.

        Raises:
            ShapeError: If the images have another shape, or do not match the parameters.
        """
        expected = (self.in_channels, self.image_size, self.image_size)
        if inputs.ndim != 5 or tuple(inputs.shape[2:]) != expected:
            raise ShapeError(
                f"Expected images [T, N, {', '.join(map(str, expected))}], got "
                f"{tuple(inputs.shape)}; reshape the images or build Conv4 with their in_channels "
                "and image_size."
            )
        with Fitting(params, inputs):
            hidden = fold_images(inputs)
            for i in range(BLOCKS):
                hidden = self._block(f"blocks.{i}", params, hidden, statistics, weights)
            features = unfold_images(hidden, inputs.shape[0])
            features = features.flatten(2) if self.pooling == "max" else features.mean((3, 4))
            return linear(features, params["head.weight"], params["head.bias"])

    def activation_size(self, inputs: Tensor) -> int:
        positions = inputs.shape[-1] * inputs.shape[-2]
        return self.filters * (positions if self.pooling == "max" else positions // 4)

    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        """Samples Xavier uniform convolutions and a normal head of standard deviation 0.01."""
        device, tasks = generator.device, task_shape(num_tasks)
        params = {}
        channels = self.in_channels
        for i in range(BLOCKS):
            # Channels last in memory, the layout in which the convolutions run.
            weight = torch.empty(*tasks, self.filters, 3, 3, channels, device=device)
            # U[-a, a] with a = sqrt(6 / (fan_in + fan_out))  (Glorot & Bengio 2010, eq. 16)
            bound = math.sqrt(6 / (9 * (channels + self.filters)))
            nn.init.uniform_(weight, -bound, bound, generator)
            params[f"blocks.{i}.conv.weight"] = weight.movedim(-1, -3)
            params[f"blocks.{i}.norm.weight"] = torch.ones(*tasks, self.filters, device=device)
            params[f"blocks.{i}.norm.bias"] = torch.zeros(*tasks, self.filters, device=device)
            channels = self.filters
        features = self.filters
        if self.pooling == "max":
            features *= (self.image_size // 2**BLOCKS) ** 2
        head = torch.empty(*tasks, self.outputs, features, device=device)
        params["head.weight"] = nn.init.normal_(head, std=HEAD_STD, generator=generator)
        params["head.bias"] = torch.zeros(*tasks, self.outputs, device=device)
        return params

    def _block(
        self,
        name: str,
        params: Params,
        folded: Tensor,
        statistics: Statistics | None,
        weights: Tensor | None,
    ) -> Tensor:
        filters, scale = params[f"{name}.conv.weight"], params[f"{name}.norm.weight"]
        if self.pooling == "stride":
            hidden = conv2d(folded, filters, stride=2)
            mean, variance = _moments(f"{name}.norm", hidden, statistics, weights, len(filters))
        else:
            # With the sign of the scale moved into the filters, normalisation and ReLU are
            # non-decreasing and commute with the max-pool, so they run on a quarter of the pixels.
            sign = torch.where(scale < 0, -1.0, 1.0).to(scale.dtype)
            filters, scale = filters * sign[:, :, None, None, None], scale * sign
            hidden = conv2d(folded, filters)
            mean, variance = _moments(
                f"{name}.norm", hidden, statistics, weights, len(filters), sign
            )
            hidden = max_pool2d(hidden)
        shift = params[f"{name}.norm.bias"]
        return torch.relu(
            batch_norm(hidden, mean, variance, scale.flatten(), shift.flatten(), self.eps)
        )


def _moments(
    layer: str,
    folded: Tensor,
    statistics: Statistics | None,
    weights: Tensor | None,
    num_tasks: int,
    sign: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the mean and variance to normalise by, each [T * C]: of the batch or recorded.

    `weights` [T, N] are those of the images in the moments of the batch, None for equal ones.
    `sign` [T, C] is the factor 1 or -1 that the channels of `folded` were multiplied by; the
    recorded statistics are those without it.
    """
    if statistics is None or statistics.recording:
        if weights is None:
            mean, variance = channel_moments(folded)
        else:
            mean, variance = weighted_channel_moments(folded, weights)
        if statistics is not None:
            original_mean = mean.view(num_tasks, -1)
            original_mean = original_mean if sign is None else original_mean * sign
            statistics.record(layer, original_mean, variance.view(num_tasks, -1))
        return mean, variance
    mean, variance = statistics.values[layer]
    return (mean if sign is None else mean * sign).flatten(), variance.flatten()
