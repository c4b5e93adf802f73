"""Random distortions of drawings: affine maps, elastic displacements and stroke thickness.

A separate distortion per image augments a class; one distortion for all images of a class makes a
new class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.errors import SettingsError

GRIDS = ((4, 1.0), (7, 0.5))
"""Points per side of each coarse grid of random displacements, and its weight."""


@dataclass(frozen=True)
class Distortion:
    """Strengths of random distortions; 0 everywhere leaves the images unchanged.

    Except for `elastic`, each value v is the bound of a uniform distribution on [-v, v].
    """

    tilt: float = 0.0
    """Rotation, in degrees."""
    shear: float = 0.0
    """Tangent of the shear angle, along either axis."""
    scale: float = 0.0
    """Natural logarithm of the scale, along either axis."""
    shift: float = 0.0
    """Translation along either axis, as a fraction of the image's size."""
    elastic: float = 0.0
    """Standard deviation of smooth displacements, as a fraction of the image's size: normal
    displacements on coarse grids, interpolated (after Simard et al. 2003)."""
    stroke: float = 0.0
    """Change of the stroke thickness, from 0 to 1; 1: up to a pixel thicker on each side, or
    thinner."""
    novelty: float = 0.0
    """Factor on the strengths above, except `stroke`, for a distortion that is applied first and is
    the same for all images of a class; in effect it makes a new class."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < math.inf:
                raise SettingsError(f"Expected a finite `{field.name}` of at least 0, got {value}.")
        if self.stroke > 1:
            raise SettingsError(f"Expected a `stroke` from 0 to 1, got {self.stroke}.")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Distorts the images of a batch of tasks.

        Args:
            images: n images of each of `way` classes of T tasks, shape [T, way, n, C, H, W],
                float32 in [0, 1].
            generator: The only source of randomness.

        Returns:
            The same shape and type.
        """
        tasks, way, count = images.shape[:3]
        flat, size = images.flatten(0, 2), images.shape[-1]
        if self.novelty:
            grids = self.grids(tasks * way, size, generator, self.novelty)
            flat = resample(flat, grids.repeat_interleave(count, 0))
        flat = resample(flat, self.grids(len(flat), size, generator))
        if self.stroke:
            flat = _draw_strokes(flat, self.stroke, generator)
        return flat.view_as(images)

    def grids(
        self, number: int, size: int, generator: torch.Generator, times: float = 1.0
    ) -> Tensor:
        """Samples sampling grids for `resample`: the source position of each output pixel.

        Args:
            number: Number of grids.
            size: Height and width of the images, in pixels.
            generator: The only source of randomness.
            times: Factor on all strengths.

        Returns:
            Positions (x, y), shape [number, size, size, 2], float32; the image is [-1, 1]^2.
        """
        device = generator.device
        draws = 2 * torch.rand(7, number, generator=generator, device=device) - 1
        angle = times * math.radians(self.tilt) * draws[0]
        cos, sin = angle.cos(), angle.sin()
        shears = times * self.shear * draws[1:3]
        scales = torch.exp(times * self.scale * draws[3:5])
        one, zero = torch.ones_like(angle), torch.zeros_like(angle)
        # source = R(angle) [[1, a], [b, 1]] diag(c, d) target + shift
        maps = matrices(cos, -sin, sin, cos) @ matrices(one, shears[0], shears[1], one)
        maps = maps @ matrices(scales[0], zero, zero, scales[1])
        # The grid's units make the image 2 wide.
        shift = 2 * times * self.shift * draws[5:].T.unsqueeze(2)
        shape = [number, 1, size, size]
        grids = F.affine_grid(torch.cat((maps, shift), 2), shape, align_corners=False)
        if self.elastic:
            grids = grids + 2 * times * self.elastic * _displacements(number, size, generator)
        return grids


def resample(images: Tensor, grids: Tensor) -> Tensor:
    """Returns images [N, C, H, W], interpolated at the positions `grids` [N, H, W, 2].

    Positions outside an image have the value of its upper left pixel, which is paper (0 or 1).
    """
    paper = images[:, :, :1, :1]
    sampled = F.grid_sample(images - paper, grids, padding_mode="zeros", align_corners=False)
    return sampled + paper


def matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Returns the matrices ((a, b), (c, d)), shape [N, 2, 2], of entries of shape [N]."""
    return torch.stack((torch.stack((a, b), 1), torch.stack((c, d), 1)), 1)


def _displacements(number: int, size: int, generator: torch.Generator) -> Tensor:
    """Samples smooth displacements [number, size, size, 2] with standard deviation of about 1."""
    total = torch.zeros(number, 2, size, size, device=generator.device)
    for points, share in GRIDS:
        shape = (number, 2, points, points)
        coarse = torch.randn(shape, generator=generator, device=generator.device)
        total += share * F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)
    return total.permute(0, 2, 3, 1)


def _draw_strokes(images: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Blends each drawing [N, C, H, W], on paper 0 or 1, with a thicker or a thinner version."""
    number, device = len(images), generator.device
    mix = most * (2 * torch.rand(number, 1, 1, 1, generator=generator, device=device) - 1)
    paper = images[:, :, :1, :1].round()
    ink = (images - paper).abs()
    thick = F.max_pool2d(ink, 3, stride=1, padding=1)
    # A blurred line peaks at its centre; the square suppresses its edges.
    thin = (1.5 * _blur(ink).square()).clamp(max=1.0)
    return (torch.lerp(ink, torch.where(mix > 0, thick, thin), mix.abs()) - paper).abs()


def _blur(images: Tensor) -> Tensor:
    """Smooths images [N, C, H, W] with weights (1, 2, 1) / 4 along either axis."""
    line = torch.tensor([0.25, 0.5, 0.25], device=images.device)
    kernel = torch.outer(line, line).expand(images.shape[1], 1, 3, 3)
    return F.conv2d(images, kernel, padding=1, groups=images.shape[1])
