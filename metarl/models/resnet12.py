"""ResNet-12, the residual network of few-shot image classification."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models.described import described

SLOPE = 0.1
HEAD_STD = 0.01


@described
class ResNet12(nn.Module):
    """Four residual blocks of three 3x3 convolutions, mean over positions, and a linear head.

    The network of Lee et al. 2019 (arXiv:1904.03758, section 4.1): leaky ReLU of slope 0.1, a 1x1
    convolution as shortcut, 2x2 max-pooling after each block, batch normalisation everywhere. It is
    an ordinary module; `MAML(ResNet12(...))` and the others run it for all tasks at once.

    Args:
        outputs: Number of outputs, the classes of a task; 0 for features without a head.
        generator: Source of the initial weights.
        in_channels: Channels of an image.
        widths: Filters of each block: 64, 160, 320, 640 in the paper.
        dropout: Probability of dropout after each block, in [0, 1); the paper uses DropBlock.

    Raises:
        SettingsError: A number is out of its range.
    """

    def __init__(
        self,
        outputs: int,
        generator: torch.Generator,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 160, 320, 640),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if outputs < 0 or min(in_channels, *widths) < 1 or not 0 <= dropout < 1:
            raise SettingsError(
                "Expected outputs of at least 0, positive in_channels and widths, and a dropout in "
                f"[0, 1), got {outputs}, {in_channels}, {tuple(widths)} and {dropout}."
            )
        channels = (in_channels, *widths)
        # Built on "meta", because torch draws initial weights from the global generator.
        with torch.device("meta"):
            self.blocks = nn.ModuleList(
                ResidualBlock(a, b, dropout) for a, b in zip(channels, widths, strict=False)
            )
            self.head = nn.Linear(widths[-1], outputs) if outputs else nn.Identity()
        self.to_empty(device=generator.device)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()
        self.load_state_dict(self.initial(generator), strict=False)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [N, in_channels, H, W], of at least 16 pixels a side, to [N, outputs]."""
        hidden = images
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden.mean((2, 3)))

    def initial(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draws initial parameters by He's rule for convolutions (He et al. 2015)."""
        params: dict[str, Tensor] = {}
        for name, p in self.named_parameters():
            value = torch.empty(p.shape, device=generator.device)
            if value.dim() == 4:
                # N(0, 2 / ((1 + slope^2) fan_out))
                fan_out = value.shape[0] * value.shape[2] * value.shape[3]
                std = math.sqrt(2 / ((1 + SLOPE**2) * fan_out))
                nn.init.normal_(value, std=std, generator=generator)
            elif value.dim() == 2:
                nn.init.normal_(value, std=HEAD_STD, generator=generator)
            else:
                nn.init.constant_(value, 0.0 if name.endswith("bias") else 1.0)
            params[name] = value
        return params


class ResidualBlock(nn.Module):
    """Three convolutions with batch normalisation, a shortcut and 2x2 max-pooling.

    Args:
        inputs: Channels of the input.
        filters: Filters of every convolution.
        dropout: Probability of dropout after the block.
    """

    def __init__(self, inputs: int, filters: int, dropout: float = 0.0) -> None:
        super().__init__()
        channels = (inputs, filters, filters, filters)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(filters) for _ in range(3))
        self.shortcut = nn.Conv2d(inputs, filters, 1, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(filters)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Maps [N, inputs, H, W] to [N, filters, H // 2, W // 2]."""
        hidden = images
        layers = zip(self.convolutions, self.norms, strict=True)
        for i, (convolution, norm) in enumerate(layers):
            hidden = norm(convolution(hidden))
            if i < 2:
                hidden = F.leaky_relu(hidden, SLOPE)
        hidden = F.leaky_relu(hidden + self.shortcut_norm(self.shortcut(images)), SLOPE)
        return self.dropout(F.max_pool2d(hidden, 2))
