"""The shared network against torch's own layers, its moments, and images that do not fit."""

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import SettingsError, ShapeError
from metarl.learners import ConvEmbedding, ImageShape, Pixels, Thumbnail
from metarl.learners.images.layers import Moments

TASKS, COUNT = 3, 5


@pytest.fixture
def images(generator):
    return torch.rand(TASKS, COUNT, 1, 28, 28, generator=generator)


def by_torch(embedding, images, training):
    """One task's images [N, C, H, W] through torch's layers, in their usual order."""
    hidden = images
    for block in embedding.blocks:
        norm = block.norm
        hidden = F.batch_norm(
            F.conv2d(hidden, block.weight, padding=1),
            None if training else norm.mean,
            None if training else norm.variance,
            norm.weight,
            norm.bias,
            training,
        )
        hidden = F.max_pool2d(F.relu(hidden), 2)
    return hidden.flatten(1)


@pytest.mark.parametrize("training", [True, False])
def test_it_is_torchs_network_task_by_task(embedding, images, training):
    features = embedding(images, Moments() if training else None)
    expected = torch.stack([by_torch(embedding, task, training) for task in images])
    assert features.shape == (TASKS, COUNT, embedding.features)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_its_gradients_are_torchs(embedding, images):
    embedding.double()
    parameters = list(embedding.parameters())
    expected = torch.stack([by_torch(embedding, task, True) for task in images.double()])
    weights = torch.linspace(-1, 1, expected.numel()).double().view_as(expected)
    ours = torch.autograd.grad((weights * embedding(images.double(), Moments())).sum(), parameters)
    theirs = torch.autograd.grad((weights * expected).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_it_records_the_moments_of_each_task(embedding, images):
    moments = Moments()
    embedding(images, moments)
    assert list(moments) == [block.norm for block in embedding.blocks]
    first = embedding.blocks[0]
    for t, task in enumerate(images):
        hidden = F.conv2d(task, first.weight, padding=1)
        variance, mean = torch.var_mean(hidden, (0, 2, 3), correction=0)
        torch.testing.assert_close(moments[first.norm][0][t], mean)
        torch.testing.assert_close(moments[first.norm][1][t], variance)


def test_running_moments_move_a_tenth_of_the_way(embedding):
    norm = embedding.blocks[0].norm
    mean, variance = norm.mean.clone(), norm.variance.clone()
    norm.absorb(torch.tensor([[1.0] * 4, [3.0] * 4]), torch.tensor([[4.0] * 4, [8.0] * 4]))
    torch.testing.assert_close(norm.mean, 0.9 * mean + 0.1 * 2)
    torch.testing.assert_close(norm.variance, 0.9 * variance + 0.1 * 6)


def test_pixels_are_the_pixels(images):
    assert torch.equal(Pixels(ImageShape())(images, None), images.view(TASKS, COUNT, 784))


def test_what_does_not_fit_is_refused(embedding, generator):
    with pytest.raises(ShapeError, match=r"\[T, N, 1, 28, 28\], got \(2, 3, 1, 20, 20\)"):
        embedding(torch.zeros(2, 3, 1, 20, 20), None)
    with pytest.raises(ShapeError, match="resize"):
        embedding(torch.zeros(3, 1, 28, 28), None)
    with pytest.raises(SettingsError, match="at least 16"):
        ConvEmbedding(ImageShape(1, 15), generator)
    with pytest.raises(SettingsError, match="positive channels and filters"):
        ConvEmbedding(ImageShape(), generator, filters=0)


def test_thumbnails_of_images_in_channels_last_layout(generator):
    images = torch.rand(2, 3, 8, 8, 2, generator=generator).permute(0, 1, 4, 2, 3)
    thumbnail = Thumbnail(ImageShape(2, 8), 4)
    torch.testing.assert_close(thumbnail(images, None), thumbnail(images.contiguous(), None))


def test_images_of_whole_numbers_are_refused():
    with pytest.raises(ShapeError, match=r"got torch.uint8.*images\.float\(\) / 255"):
        Pixels(ImageShape())(torch.zeros(1, 1, 1, 28, 28, dtype=torch.uint8), None)
