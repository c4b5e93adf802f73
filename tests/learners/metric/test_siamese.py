"""The siamese network's pairs and loss, and that only training distorts the images."""

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import SettingsError, ShapeError
from metarl.learners import ImageShape, Reference, SiameseEmbedding, WeightedDifference
from metarl.learners.metric.algorithms import SiameseAlgorithm
from metarl.learners.metric.siamese import KOCH
from metarl.models.base import Weights
from metarl.tasks import Examples, Glyphs, TaskBatch
from metarl.tasks.characters import CharacterSettings
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from tests.image_problems import image_problem
from tests.tasks.drawn_archives import write_minimal


def koch_problem(generator, filters):
    return image_problem(generator, filters, images=ImageShape(1, 105))


def test_the_network_layer_by_layer(generator):
    embedding = SiameseEmbedding(ImageShape(), generator, filters=4, units=7)
    images = torch.rand(2, 3, 1, 28, 28, generator=generator)
    hidden = images.flatten(0, 1)
    *halved, last = (layer for layer in embedding.modules() if isinstance(layer, Weights))
    for layer in halved:
        hidden = F.max_pool2d(F.relu(F.conv2d(hidden, layer.weight, layer.bias)), 2)
    hidden = F.relu(F.conv2d(hidden, last.weight, last.bias, padding=1))
    expected = embedding.dense(hidden.flatten(1)).sigmoid().view(2, 3, 7)
    torch.testing.assert_close(embedding(images, None), expected)
    assert halved[0].weight.shape == (4, 1, 5, 5) and last.weight.shape == (8, 8, 3, 3)


def test_a_class_scores_the_mean_logit_of_its_pairs(generator):
    comparison = WeightedDifference(4, generator)
    features = torch.rand(1, 3, 4, generator=generator)
    members = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    query = torch.rand(1, 1, 4, generator=generator)
    logits = [comparison.output((query[0, 0] - f).abs()).squeeze() for f in features[0]]
    expected = torch.stack([logits[0], (logits[1] + logits[2]) / 2])
    torch.testing.assert_close(
        comparison(Reference(features, members), query, None)[0, 0], expected
    )


def test_pairs_of_one_class_count_half(generator):
    comparison = WeightedDifference(4, generator)
    logits = torch.tensor([[[2.0, -1.0, 0.5]]])
    p = logits.sigmoid()[0, 0]
    expected = -(p[0].log() + ((1 - p[1]).log() + (1 - p[2]).log()) / 2) / 2
    losses = comparison.loss(logits, torch.tensor([[0]]))
    torch.testing.assert_close(losses, expected.view(1))


def test_distortions_are_of_training_only(glyphs):
    tasks = glyphs.sample(2, torch.Generator().manual_seed(0))
    inputs = {}
    for distortions in (True, False):
        generator = torch.Generator().manual_seed(0)
        learner = SiameseAlgorithm(8, distortions=distortions).build(image_problem(generator))
        inputs[distortions] = learner.collect(tasks, generator, 0).tasks
    assert inputs[False] is tasks
    assert not torch.equal(inputs[True].support.inputs, tasks.support.inputs)
    assert torch.equal(inputs[True].query.targets, tasks.query.targets)


def test_integer_pixels_are_refused_before_they_are_distorted(generator):
    tasks = Glyphs(3, 1, 1, alphabets=4, characters=4, drawings=6).sample(2, generator)
    whole = Examples((tasks.support.inputs * 255).to(torch.uint8), tasks.support.targets)
    learner = SiameseAlgorithm(8).build(image_problem(generator))
    with pytest.raises(ShapeError, match=r"floating-point type, got torch\.uint8.* / 255"):
        learner.collect(TaskBatch(whole, tasks.query, tasks.info), generator, 0)


def test_the_network_of_koch_et_al(generator):
    """Figure 4 of the paper: 256 maps of 6x6, 4096 units, one logit: 38 951 745 parameters."""
    learner = SiameseAlgorithm(4096, layers="koch").build(koch_problem(generator, 64))
    weights = [w.weight for w in learner.embedding.modules() if isinstance(w, Weights)]
    shapes = [tuple(w.shape) for w in weights]
    assert shapes == [(64, 1, 10, 10), (128, 64, 7, 7), (128, 128, 4, 4), (256, 128, 4, 4)]
    assert sum(p.numel() for p in learner.parameters()) == 38_951_745


def check_training_at_105(learner, data, generator):
    settings = CharacterSettings(data, image_size=105, way=2)
    tasks = settings.train().sample(1, generator)
    before = [p.clone() for p in learner.parameters()]
    inputs = learner.collect(tasks, generator, 0)
    assert inputs.tasks.support.inputs.shape == (1, 2, 1, 105, 105)
    result = MetaStep(learner, TrainingSettings())(inputs, 0)
    assert result.finite
    assert all(not torch.equal(p, q) for p, q in zip(before, learner.parameters(), strict=True))


def test_a_step_of_a_narrow_one_at_105_pixels(tmp_path, generator):
    learner = SiameseAlgorithm(8, layers="koch").build(koch_problem(generator, 2))
    write_minimal(tmp_path)
    check_training_at_105(learner, tmp_path, generator)


@pytest.mark.slow
def test_a_step_of_theirs_at_105_pixels(official_data, generator):
    learner = SiameseAlgorithm(4096, layers="koch").build(koch_problem(generator, 64))
    check_training_at_105(learner, official_data, generator)


def test_sizes_that_cannot_work_are_refused(generator):
    with pytest.raises(SettingsError, match="at least 12"):
        SiameseEmbedding(ImageShape(1, 11), generator)
    with pytest.raises(SettingsError, match="at least 65"):
        SiameseEmbedding(ImageShape(1, 64), generator, layers=KOCH)
    with pytest.raises(SettingsError, match="Did you mean 'koch'"):
        SiameseAlgorithm(layers="kock").build(image_problem(generator))  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="1 unit, got 0"):
        SiameseEmbedding(ImageShape(), generator, units=0)
    small = SiameseEmbedding(ImageShape(1, 12), generator, filters=2, units=3)
    assert small(torch.zeros(1, 2, 1, 12, 12), None).shape == (1, 2, 3)
