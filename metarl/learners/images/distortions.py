"""Random affine distortions of images, as siamese networks are trained with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.tasks.distortions import matrices, resample

ROTATION = math.radians(10)
SHEAR = 0.3
SCALES = (0.8, 1.2)
SHIFT = 2 / 105  # of the image's size
CHANCE = 0.5


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Distorts every image anew (Koch et al. 2015, section 3.3).

    Rotated by up to 10 degrees, sheared by up to 0.3, scaled by 0.8 to 1.2 and shifted by up to 2
    of 105 pixels, along either axis; each of these with probability 0.5. Outside is the value of
    the image's upper left pixel: paper, be it 0 or 1.

    Args:
        images: Shape [T, N, C, H, W], float32.
        generator: The only source of randomness.
    """
    flat = images.flatten(0, 1)
    grid = F.affine_grid(_affine(len(flat), generator), list(flat.shape), align_corners=False)
    return resample(flat, grid).view_as(images)


def _affine(count: int, generator: torch.Generator) -> Tensor:
    """Draws affine maps from places in the new image to places in the old one, [count, 2, 3]."""
    device = generator.device
    draws = 2 * torch.rand(7, count, generator=generator, device=device) - 1
    chosen = torch.rand(7, count, generator=generator, device=device) < CHANCE
    angle, shear_x, shear_y, scale_x, scale_y, shift_x, shift_y = torch.where(chosen, draws, 0.0)
    middle, half = sum(SCALES) / 2, (SCALES[1] - SCALES[0]) / 2
    cos, sin = torch.cos(ROTATION * angle), torch.sin(ROTATION * angle)
    one = torch.ones_like(angle)
    rotation = matrices(cos, -sin, sin, cos)
    shear = matrices(one, SHEAR * shear_x, SHEAR * shear_y, one)
    scale = matrices(middle + half * scale_x, 0 * one, 0 * one, middle + half * scale_y)
    # In the grid's units an image is 2 wide.
    shift = 2 * SHIFT * torch.stack((shift_x, shift_y), 1).unsqueeze(2)
    return torch.cat((rotation @ shear @ torch.linalg.inv(scale), shift), 2)
