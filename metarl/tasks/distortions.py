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

from metarl.errors import SettingsError, ShapeError
from metarl.ranges import NOT_NEGATIVE, check_fields

GRIDS = ((4, 1.0), (7, 0.5))
"""Points per side of each coarse grid of random displacements, and its weight."""

# The ranges of `distort` (Koch et al. 2015, section 3.3)
KOCH_ROTATION = math.radians(10)
KOCH_SHEAR = 0.3
KOCH_SCALES = (0.8, 1.2)
KOCH_SHIFT = 2 / 105  # share of the image's size
KOCH_PROBABILITY = 0.5


@dataclass(frozen=True)
class Distortion:
    """Strengths of random distortions; 0 everywhere leaves the images unchanged.

    Except for `elastic`, each value v is the bound of a uniform distribution on [-v, v].
    """

    tilt: float = 0.0
    """Largest rotation, in degrees."""
    shear: float = 0.0
    """Largest tangent of the shear angle, along either axis."""
    scale: float = 0.0
    """Largest natural logarithm of the scale, along either axis."""
    shift: float = 0.0
    """Largest translation along either axis, as a fraction of the image's size."""
    elastic: float = 0.0
    """Standard deviation of smooth displacements, as a fraction of the image's size: normal
    displacements on coarse grids, interpolated (after Simard et al. 2003)."""
    stroke: float = 0.0
    """Largest change of the stroke thickness, from 0 to 1; 1: up to a pixel thicker on each side,
    or thinner."""
    novelty: float = 0.0
    """Factor on the strengths above, except `stroke`, for a distortion that is applied first and is
    the same for all images of a class; in effect it makes a new class."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_fields(self, **{field.name: NOT_NEGATIVE for field in fields(self)})
        if self.stroke > 1:
            raise SettingsError(f"Expected a `stroke` from 0 to 1, got {self.stroke}.")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Distorts the images of a batch of tasks.

        Args:
            images: n images of each of `way` classes of T tasks, shape [T, way, n, C, H, W],
                of a floating-point type, in [0, 1].
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
            number: Number of grids, at least 0.
            size: Height and width of the images, in pixels.
            generator: The only source of randomness.
            times: Factor on all strengths.

        Returns:
            Positions (x, y), shape [number, size, size, 2], of torch's default type; the image is
            [-1, 1]^2.
        """
        device = generator.device
        if number == 0:
            return torch.empty(0, size, size, 2, device=device)
        draws = 2 * torch.rand(7, number, generator=generator, device=device) - 1
        angle = times * math.radians(self.tilt) * draws[0]
        shears = times * self.shear * draws[1:3]
        scales = torch.exp(times * self.scale * draws[3:5])
        # In the grid's units an image is 2 wide.
        shift = 2 * times * self.shift * draws[5:]
        maps = _affine_maps(angle, shears, scales, shift)
        grids = F.affine_grid(maps, [number, 1, size, size], align_corners=False)
        if self.elastic:
            grids = grids + 2 * times * self.elastic * _displacements(number, size, generator)
        return grids


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Applies a random affine distortion to every image (Koch et al. 2015, section 3.3).

    Rotation by up to 10 degrees, shear by up to 0.3, scale from 0.8 to 1.2 and shift by up to 2/105
    of the image's size, the last three along either axis, each applied with probability 0.5.
    Positions outside the image get the value of its upper left pixel: the paper, 0 or 1.

    Args:
        images: Shape [T, N, C, H, W], of a floating-point type.
        generator: The only source of randomness.

    Returns:
        The distorted images, in the shape of `images`.

    Raises:
        ShapeError: They have another number of dimensions, or integer pixels.
    """
    if images.dim() != 5 or not images.is_floating_point():
        raise ShapeError(
            f"Expected images [T, N, C, H, W] of a floating-point type, got {images.dtype} "
            f"{tuple(images.shape)}; pixels from 0 to 255 become numbers in [0, 1] by "
            "`images.float() / 255`."
        )
    flat = images.flatten(0, 1)
    maps = _draw_koch_maps(len(flat), generator)
    return resample(flat, F.affine_grid(maps, list(flat.shape), align_corners=False)).view_as(
        images
    )


def _draw_koch_maps(count: int, generator: torch.Generator) -> Tensor:
    """Draws the maps of `distort` from new to old positions, [count, 2, 3]."""
    device = generator.device
    draws = 2 * torch.rand(7, count, generator=generator, device=device) - 1
    applied = torch.rand(7, count, generator=generator, device=device) < KOCH_PROBABILITY
    draws = torch.where(applied, draws, 0.0)
    middle, half = sum(KOCH_SCALES) / 2, (KOCH_SCALES[1] - KOCH_SCALES[0]) / 2
    # The map goes from new to old positions, so it divides by the scale.
    scales = 1 / (middle + half * draws[3:5])
    # In the grid's units an image is 2 wide.
    shift = 2 * KOCH_SHIFT * draws[5:]
    return _affine_maps(KOCH_ROTATION * draws[0], KOCH_SHEAR * draws[1:3], scales, shift)


def _affine_maps(angle: Tensor, shears: Tensor, scales: Tensor, shift: Tensor) -> Tensor:
    """Returns the affine maps x -> R H S x + shift, [N, 2, 3].

    R is a rotation by `angle` in radians, [N], H has the shears [2, N] off its diagonal, and S has
    the scales [2, N] on its diagonal. The shift is [2, N].
    """
    cos, sin = angle.cos(), angle.sin()
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    maps = matrices(cos, -sin, sin, cos) @ matrices(one, shears[0], shears[1], one)
    maps = maps @ matrices(scales[0], zero, zero, scales[1])
    return torch.cat((maps, shift.T.unsqueeze(2)), 2)


def resample(images: Tensor, grids: Tensor) -> Tensor:
    """Returns images [N, C, H, W], interpolated at the positions `grids` [N, H, W, 2].

    The positions may be of another floating-point type than the images.

    Positions outside an image have the value of its upper left pixel, which is paper (0 or 1).
    """
    paper = images[:, :, :1, :1]
    grids = grids.to(images.dtype)
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
    mix = mix.to(images.dtype)
    return (torch.lerp(ink, torch.where(mix > 0, thick, thin), mix.abs()) - paper).abs()


def _blur(images: Tensor) -> Tensor:
    """Smooths images [N, C, H, W] with weights (1, 2, 1) / 4 along either axis."""
    line = images.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(line, line).expand(images.shape[1], 1, 3, 3)
    return F.conv2d(images, kernel, padding=1, groups=images.shape[1])
