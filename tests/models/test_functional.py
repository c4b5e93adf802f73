"""Layers on folded images: values against torch's layers, derivatives against differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from metarl.models.convolution import Geometry, channel_moments, grouped_conv
from metarl.models.folding import fold_images, unfold_images
from metarl.models.functional import batch_norm, conv2d, linear, max_pool2d

TASKS, IMAGES = 2, 3


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.double).requires_grad_()

    return normal


def test_fold_and_unfold_are_inverse_and_channels_last(draw):
    images = draw(TASKS, IMAGES, 4, 5, 6)
    folded = fold_images(images)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(folded[1, 4:], images[1, 1])
    assert torch.equal(unfold_images(folded, TASKS), images)


def test_linear_equals_one_map_per_task(draw):
    inputs, weight, bias = draw(TASKS, IMAGES, 4), draw(TASKS, 5, 4), draw(TASKS, 5)
    expected = [F.linear(inputs[t], weight[t], bias[t]) for t in range(TASKS)]
    torch.testing.assert_close(linear(inputs, weight, bias), torch.stack(expected))


@pytest.mark.parametrize("stride", [1, 2])
def test_conv2d_equals_one_convolution_per_task(draw, stride):
    images, weight = draw(TASKS, IMAGES, 2, 5, 5), draw(TASKS, 4, 2, 3, 3)
    got = unfold_images(conv2d(fold_images(images), weight, stride), TASKS)
    expected = [F.conv2d(images[t], weight[t], stride=stride, padding=1) for t in range(TASKS)]
    torch.testing.assert_close(got, torch.stack(expected))


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (4, 2), (5, 2)])
def test_convolution_is_right_to_second_order(draw, size, stride):
    inputs, weight = draw(1, TASKS * 2, size, size), draw(TASKS * 2, 2, 3, 3)

    def convolve(x, w):
        return grouped_conv(x, w, Geometry(TASKS, stride, 1))

    assert gradcheck(convolve, (inputs, weight), fast_mode=True)
    assert gradgradcheck(convolve, (inputs, weight), fast_mode=True)


def test_convolution_computes_no_gradient_to_fixed_images(draw):
    images, weight = draw(1, 4, 4, 4).detach(), draw(4, 2, 3, 3)
    out = grouped_conv(images, weight, Geometry(TASKS, 1, 1))
    (grad,) = torch.autograd.grad(out.square().sum(), weight, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), weight)
    plain = F.conv2d(images, weight, padding=1, groups=TASKS)
    (expected,) = torch.autograd.grad(plain.square().sum(), weight, create_graph=True)
    torch.testing.assert_close(grad, expected)
    (expected,) = torch.autograd.grad(expected.square().sum(), weight)
    torch.testing.assert_close(second, expected)


def test_moments_are_mean_and_biased_variance(draw):
    inputs = draw(IMAGES, 4, 5, 6)
    mean, variance = channel_moments(inputs)
    torch.testing.assert_close(mean, inputs.mean((0, 2, 3)))
    torch.testing.assert_close(variance, inputs.var((0, 2, 3), correction=0))


def test_moments_are_right_to_second_order(draw):
    inputs = draw(2, 3, 2, 2)
    assert gradcheck(channel_moments, (inputs,))
    assert gradgradcheck(channel_moments, (inputs,))


def test_batch_norm_equals_torch(draw):
    inputs, weight, bias = draw(IMAGES, 4, 5, 6), draw(4), draw(4)
    got = batch_norm(inputs, *channel_moments(inputs), weight, bias, eps=1e-3)
    expected = F.batch_norm(inputs, None, None, weight, bias, training=True, eps=1e-3)
    torch.testing.assert_close(got, expected)


def test_max_pool_drops_odd_edges(draw):
    images = draw(1, 2, 5, 4)
    pooled = max_pool2d(images)
    assert pooled.shape == (1, 2, 2, 2)
    assert pooled[0, 1, 0, 1] == images[0, 1, :2, 2:].max()
