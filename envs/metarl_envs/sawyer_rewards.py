"""The reward terms of Meta-World's manipulation tasks, version "v2" of its v3 environments."""

from __future__ import annotations

import torch
from torch import Tensor

AT_MARGIN = 0.1  # the value of `tolerance` at the margin
CAGED = 0.97  # closing the gripper counts only above this
RADIUS, PAD, NEAR = 0.015, 0.05, 0.005  # m: the object, between pad and object, in x and z


def tolerance(x: Tensor, low: float, high: float, margin: Tensor) -> Tensor:
    """Returns 1 inside the bounds and a value that falls to 0 with the distance to them, [W].

    With margin 0 it is 0 outside of the bounds.

    Args:
        x: Values, [W].
        low: Lower bound.
        high: Upper bound.
        margin: Distance at which the value is 0.1, at least 0, [W].
    """
    outside = torch.where(x < low, low - x, x - high)
    # long-tailed: 1 / (1 + (1 / v - 1) (d / m)^2), v = 0.1 at d = m
    tail = 1 / (1 + (1 / AT_MARGIN - 1) * (outside / margin).square())
    inside = (x >= low) & (x <= high)
    return torch.where(inside, 1.0, torch.where(margin == 0, 0.0, tail))


def hamacher(a: Tensor, b: Tensor) -> Tensor:
    """Returns Hamacher's product of values in 0..1, [W]: a b / (a + b - a b), 0 where both are."""
    product = a * b
    total = a + b - product
    return torch.where(total > 0, product / torch.where(total > 0, total, 1.0), 0.0)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Returns the Euclidean distance of points, [W]."""
    return torch.linalg.vector_norm(a - b, dim=-1)


def plane(points: Tensor) -> Tensor:
    """Returns x and z of points [*, 3]."""
    return points[..., 0::2]


def grip(sides: Tensor, front: Tensor, effort: Tensor) -> Tensor:
    """Returns the reward for holding the object between the pads, [W].

    Args:
        sides: How well the pads enclose the object in y, 0..1, [W].
        front: How well the gripper is at the object in x and z, 0..1, [W].
        effort: How far the gripper is told to close, 0..1, [W].
    """
    caging = hamacher(sides, front)
    gripping = torch.where(caging > CAGED, effort, 0.0)
    return (hamacher(caging, gripping) + caging) / 2


def caging(pads: Tensor, tcp: Tensor, thing: Tensor, start: Tensor, begin: Tensor) -> Tensor:
    """Returns how well the gripper encloses the object at its sides and in front, [2, W].

    The reward of push, whose margins are those of the object's start.

    Args:
        pads: y of the left and the right pad, [W, 2].
        tcp: Centre of the fingertips, [W, 3].
        thing: Position of the object, [W, 3].
        start: Position of the object at the start, [W, 3].
        begin: Centre of the fingertips at the start, [3].
    """
    apart = (pads - thing[:, 1:2]).abs()
    margin = ((pads - start[:, 1:2]).abs() - PAD).abs()
    left, right = (tolerance(apart[:, i], RADIUS, PAD, margin[:, i]) for i in (0, 1))
    return torch.stack((hamacher(left, right), in_front(tcp, thing, start, begin)))


def placing_caging(
    pads: Tensor, tcp: Tensor, thing: Tensor, start: Tensor, begin: Tensor
) -> Tensor:
    """Returns what `caging` returns, with the margins of pick-place.

    Meta-World means the pads' positions at the start, but reads their current ones, as this does.
    """
    left_gap, right_gap = pads[:, 0] - thing[:, 1], thing[:, 1] - pads[:, 1]
    margin = ((thing[:, 1:2] - pads).abs() - PAD).abs()
    left = tolerance(left_gap, RADIUS, PAD, margin[:, 0])
    right = tolerance(right_gap, RADIUS, PAD, margin[:, 1])
    return torch.stack((hamacher(left, right), in_front(tcp, thing, start, begin)))


def in_front(tcp: Tensor, thing: Tensor, start: Tensor, begin: Tensor) -> Tensor:
    """Returns how well the gripper is at the object in x and z, 0..1, [W]; see `caging`."""
    margin = distance(plane(start), plane(begin)) - NEAR
    return tolerance(distance(plane(tcp), plane(thing)), 0.0, NEAR, margin)
