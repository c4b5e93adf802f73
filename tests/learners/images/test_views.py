"""The mean over views of an image."""

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import SettingsError
from metarl.learners import ImageShape
from metarl.learners.images.layers import Moments
from metarl.learners.images.maps import MapEmbedding
from metarl.learners.images.pyramid import PyramidEmbedding
from metarl.learners.images.views import AveragedViews
from metarl.learners.metric.algorithms import (
    EmbeddingSettings,
    MatchingAlgorithm,
    ReconstructionAlgorithm,
)
from metarl.tasks.distortions import Distortion, resample
from tests.image_problems import image_problem

VIEW = Distortion(tilt=10, elastic=0.02)


@pytest.fixture(params=[PyramidEmbedding, MapEmbedding])
def embedding(request, generator):
    return request.param(ImageShape(), generator, filters=4)


@pytest.fixture
def images(generator):
    return torch.rand(2, 3, 1, 28, 28, generator=generator)


def unit(features):
    """Features [1, 1, *feature] of one image, of norm 1."""
    return features[0, 0] / features[0, 0].norm()


def test_views_are_averaged_in_evaluation(embedding, images, generator):
    averaged = AveragedViews(embedding, 3, VIEW, ImageShape(), generator)
    assert averaged.grids.shape == (2, 28, 28, 2)
    found = averaged(images, None)
    assert found.shape == embedding(images, None).shape
    for task in range(2):  # each image on its own
        for n in range(3):
            image = images[task, n : n + 1]
            views = [image, *(resample(image, grid[None]) for grid in averaged.grids)]
            expected = torch.stack([unit(embedding(v[None], None)) for v in views]).sum(0)
            torch.testing.assert_close(found[task, n], expected)


def test_one_view_is_the_image_itself(embedding, images, generator):
    averaged = AveragedViews(embedding, 1, VIEW, ImageShape(), generator)
    features = embedding(images, None)
    expected = F.normalize(features.flatten(2), dim=2).view_as(features)
    torch.testing.assert_close(averaged(images, None), expected)


def test_training_sees_no_views(embedding, images, generator):
    averaged = AveragedViews(embedding, 3, VIEW, ImageShape(), generator)
    assert torch.equal(averaged(images, Moments()), embedding(images, Moments()))
    assert set(averaged.state_dict()) > {"grids"}, "a checkpoint keeps its views"


def test_numbers_of_views(generator):
    problem = image_problem(generator)
    several = (
        ReconstructionAlgorithm(views=2),
        MatchingAlgorithm(embedding=EmbeddingSettings(views=2)),
    )
    for algorithm in several:
        assert isinstance(algorithm.build(problem).embedding, AveragedViews)
    for settings in (ReconstructionAlgorithm, EmbeddingSettings):
        with pytest.raises(SettingsError, match="views"):
            settings(views=0)
    with pytest.raises(SettingsError, match="at least 1 view, got 0"):
        AveragedViews(MapEmbedding(ImageShape(), generator), 0, VIEW, ImageShape(), generator)
