"""The pyramid's shapes and precision, and the mean over views."""

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import SettingsError, ShapeError
from metarl.learners import ImageShape
from metarl.learners.images.embeddings import ConvEmbedding
from metarl.learners.images.layers import Moments
from metarl.learners.images.pyramid import AveragedViews, PyramidEmbedding
from metarl.learners.metric.algorithms import (
    EmbeddingSettings,
    MatchingAlgorithm,
    PrototypicalAlgorithm,
)
from metarl.learners.metric.relation import RelationEmbedding
from metarl.tasks.distortions import Distortion, resample
from tests.image_problems import image_problem

VIEW = Distortion(tilt=10, elastic=0.02)


@pytest.fixture
def pyramid(generator):
    return PyramidEmbedding(ImageShape(), generator, filters=4)


@pytest.fixture
def images(generator):
    return torch.rand(2, 3, 1, 28, 28, generator=generator)


def test_filters_double_and_the_last_maps_stay_whole(pyramid, images):
    assert [tuple(b.weight.shape[:2]) for b in pyramid.blocks] == [
        (4, 1),
        (8, 4),
        (16, 8),
        (32, 16),
    ]
    features = pyramid(images, None)
    assert features.shape == (2, 3, 32 * 3 * 3) and pyramid.features == 288
    assert sum(p.numel() for p in PyramidEmbedding(
        ImageShape(), torch.Generator(), 32).parameters()) == 388_320  # fmt: skip
    with pytest.raises(ShapeError, match="28, 28"):
        pyramid(images[..., :20, :20], None)
    with pytest.raises(SettingsError, match="at least 8"):
        PyramidEmbedding(ImageShape(size=7), torch.Generator())


@pytest.mark.parametrize("kind", [PyramidEmbedding, ConvEmbedding, RelationEmbedding])
def test_bfloat16_is_of_training_only_and_close(kind, images):
    full, reduced = (kind(ImageShape(), torch.Generator().manual_seed(0), 4) for _ in range(2))
    reduced.use_bfloat16()
    assert torch.equal(full(images, None), reduced(images, None))
    moments = [Moments(), Moments()]
    a, b = full(images, moments[0]), reduced(images, moments[1])
    assert b.dtype == torch.float32 and not torch.equal(a, b)
    assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.999
    assert all(m.dtype == torch.float32 for pair in moments[1].values() for m in pair)
    b.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in reduced.parameters())


def test_views_are_averaged_in_evaluation(pyramid, images, generator):
    averaged = AveragedViews(pyramid, 3, VIEW, ImageShape(), generator)
    assert averaged.grids.shape == (2, 28, 28, 2)
    expected = F.normalize(pyramid(images, None), dim=2)
    for grid in averaged.grids:
        for task in range(2):  # each image on its own
            for n in range(3):
                view = resample(images[task, n : n + 1], grid[None])
                expected[task, n] += F.normalize(pyramid(view[None], None), dim=2)[0, 0]
    torch.testing.assert_close(averaged(images, None), expected)


def test_one_view_is_the_image_itself(pyramid, images, generator):
    averaged = AveragedViews(pyramid, 1, VIEW, ImageShape(), generator)
    expected = torch.nn.functional.normalize(pyramid(images, None), dim=2)
    torch.testing.assert_close(averaged(images, None), expected)


def test_training_sees_no_views(pyramid, images, generator):
    averaged = AveragedViews(pyramid, 3, VIEW, ImageShape(), generator)
    assert torch.equal(averaged(images, Moments()), pyramid(images, Moments()))
    assert set(averaged.state_dict()) > {"grids"}, "a checkpoint keeps its views"


@pytest.mark.parametrize("settings", [MatchingAlgorithm, PrototypicalAlgorithm])
def test_learners_take_either_network(settings, images):
    for embedding, name in (
        (EmbeddingSettings(), "ConvEmbedding"),
        (EmbeddingSettings("pyramid"), "PyramidEmbedding"),
        (EmbeddingSettings("pyramid", views=2), "AveragedViews"),
    ):
        learner = settings(embedding=embedding).build(image_problem(torch.Generator()))
        assert type(learner.embedding).__name__ == name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "conv"}, "Did you mean 'conv4'"),
        ({"views": 0}, "at least 1 view, got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(SettingsError, match=message):
        EmbeddingSettings(**settings).make(image_problem(torch.Generator()))
