"""The pyramid's shapes and precision, and those of embeddings of maps."""

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import SettingsError, ShapeError
from metarl.learners import ImageShape
from metarl.learners.images.embeddings import ConvEmbedding
from metarl.learners.images.layers import Moments
from metarl.learners.images.maps import MapEmbedding
from metarl.learners.images.pyramid import PyramidEmbedding
from metarl.learners.metric.algorithms import (
    EmbeddingSettings,
    MatchingAlgorithm,
    PrototypicalAlgorithm,
)
from metarl.learners.metric.relation import RelationEmbedding
from tests.image_problems import image_problem


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


def test_maps_keep_the_places_of_strokes(images, generator):
    maps = MapEmbedding(ImageShape(), generator, filters=4)(images, None)
    assert maps.shape == (2, 3, 8, 7, 7)
    with pytest.raises(SettingsError, match="at least 4"):
        MapEmbedding(ImageShape(size=3), generator)


@pytest.mark.parametrize("kind", [PyramidEmbedding, MapEmbedding, ConvEmbedding, RelationEmbedding])
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


@pytest.mark.parametrize("settings", [MatchingAlgorithm, PrototypicalAlgorithm])
def test_learners_take_either_network(settings, images):
    for embedding, name in (
        (EmbeddingSettings(), "ConvEmbedding"),
        (EmbeddingSettings("pyramid"), "PyramidEmbedding"),
    ):
        learner = settings(embedding=embedding).build(image_problem(torch.Generator()))
        assert type(learner.embedding).__name__ == name


def test_an_unknown_network_is_refused():
    with pytest.raises(SettingsError, match="Did you mean 'conv4'"):
        EmbeddingSettings("conv").make(image_problem(torch.Generator()))  # pyright: ignore[reportArgumentType]
