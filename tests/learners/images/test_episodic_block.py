"""The block against torch's own layers, task by task, however its images are cut into parts."""

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import ShapeError
from metarl.learners.images import episodic_block
from metarl.learners.images.episodic_block import EpisodicBlock

TASKS, EACH = 3, 5
CHANNELS = {"few": (1, 10), "many": (3, 5), "convolved": (5, 5)}
"""Channels and filters: of few channels, convolved images are computed again for the gradient."""


def drawn(kind, generator, size=7):
    """Images, filters, scale and shift, of float64."""
    channels, filters = CHANNELS[kind]
    images = torch.rand(TASKS * EACH, channels, size, size, generator=generator).double()
    images = images.mul(4).round()  # whose windows often have two largest values
    weight = torch.randn(filters, channels, 3, 3, generator=generator).double()
    scale = torch.rand(filters, generator=generator).double() + 0.1
    shift = torch.randn(filters, generator=generator).double()
    return [t.requires_grad_() for t in (images, weight, scale, shift)]


def by_torch(block, images, filters, scale, shift):
    outputs = []
    for task in images.chunk(block.num_tasks):
        hidden = task if filters is None else F.conv2d(task, filters, padding=block.padding)
        hidden = F.batch_norm(hidden, None, None, scale, shift, training=True)
        outputs.append(F.max_pool2d(hidden.relu(), 2) if block.pool else hidden.relu())
    return torch.cat(outputs)


IMAGE = 5 * 49 * 8
"""Bytes of a convolved image of 5 channels."""


@pytest.mark.parametrize(
    "part_bytes", [1, 3 * IMAGE, 10 * IMAGE, 2**30], ids=["image", "3 and 2", "2 tasks", "whole"]
)
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("kind", list(CHANNELS))
def test_it_is_torchs_block_task_by_task(kind, padding, pool, part_bytes, monkeypatch, generator):
    monkeypatch.setattr(episodic_block, "PART_BYTES", part_bytes)
    block = EpisodicBlock(TASKS, padding, pool)
    leaves = images, filters, scale, shift = drawn(kind, generator)
    if kind == "convolved":
        leaves, filters = [images, scale, shift], None
    expected = by_torch(block, images, filters, scale, shift)
    got, mean, variance = block(images, filters, scale, shift)
    torch.testing.assert_close(got, expected)
    convolved = images if filters is None else F.conv2d(images, filters, padding=padding)
    moments = torch.var_mean(convolved.unflatten(0, (TASKS, EACH)), (1, 3, 4), correction=0)
    torch.testing.assert_close((variance, mean), moments)
    assert not mean.requires_grad and not variance.requires_grad
    direction = torch.randn(expected.shape, generator=generator).double()
    ours = torch.autograd.grad(got, leaves, direction)
    theirs = torch.autograd.grad(expected, leaves, direction)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_images_laid_out_otherwise_and_gradients_twice(generator):
    images, filters, scale, shift = drawn("many", generator)
    block = EpisodicBlock(TASKS, 1)
    last = images.detach().contiguous(memory_format=torch.channels_last)
    a, b = (block(x, filters, scale, shift).images.square().sum() for x in (images, last))
    assert torch.equal(a, b)
    first = torch.autograd.grad(a, (filters, scale), retain_graph=True)
    again = torch.autograd.grad(a, (filters, scale))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


def test_tasks_do_not_depend_on_each_other(generator):
    images, filters, scale, shift = drawn("few", generator)
    block = EpisodicBlock(TASKS)
    before = block(images, filters, scale, shift).images
    with torch.no_grad():
        images[EACH:] += 1 + images[EACH:].square()
    after = block(images, filters, scale, shift).images
    assert torch.equal(before[:EACH], after[:EACH]) and not torch.equal(before, after)


@pytest.mark.parametrize("kind", ["few", "many"])
def test_under_autocast_it_convolves_there_and_back_in_its_type(kind, generator):
    tensors = [t.detach().float().requires_grad_() for t in drawn(kind, generator)]
    block = EpisodicBlock(TASKS, 1)
    full = block(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = block(*tensors)
    assert not torch.equal(full.images, reduced.images)
    for a, b in zip(full, reduced, strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.1)
    slopes = [torch.autograd.grad(out.images.square().sum(), tensors) for out in (full, reduced)]
    for a, b in zip(*slopes, strict=True):
        assert b.dtype == torch.float32 and not torch.equal(a, b)
        assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.97


@pytest.mark.parametrize("power", [1, 2])
def test_second_derivatives_are_refused(power, generator):
    images, filters, scale, shift = drawn("many", generator)
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = factor * EpisodicBlock(TASKS)(images, filters, scale, shift).images.pow(power).sum()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(loss, filters, create_graph=True)


def test_images_that_tasks_cannot_share_are_refused(generator):
    with pytest.raises(ShapeError, match="15 images of 4 tasks"):
        EpisodicBlock(4)(*drawn("few", generator))
