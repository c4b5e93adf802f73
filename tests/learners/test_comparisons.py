"""The ways to compare, each against its formula in a loop."""

import pytest
import torch

from metarl.learners import (
    ImageShape,
    MetricLearner,
    NearestNeighbour,
    Pixels,
    Prototypes,
    Reference,
)

TASKS, WAY, SHOTS, QUERIES, WIDTH = 2, 3, 2, 4, 5


def members(labels):
    return torch.nn.functional.one_hot(labels, WAY).float()


@pytest.fixture
def support(generator):
    features = torch.randn(TASKS, WAY * SHOTS, WIDTH, generator=generator)
    labels = torch.arange(WAY).repeat(TASKS, SHOTS)
    return Reference(features, members(labels))


@pytest.fixture
def queries(generator):
    return torch.randn(TASKS, QUERIES, WIDTH, generator=generator)


def of_class(support, t, k):
    return support.features[t][support.members[t, :, k] == 1]


def test_prototypes_are_means_and_logits_squared_distances(support, queries):
    outputs = Prototypes()(Prototypes().condense(support), queries, None)
    for t in range(TASKS):
        for k in range(WAY):
            mean = of_class(support, t, k).mean(0)
            for j in range(QUERIES):
                expected = -(queries[t, j] - mean).square().sum()
                torch.testing.assert_close(outputs[t, j, k], expected, rtol=1e-4, atol=1e-5)


def test_prototypes_of_one_shot_are_the_embeddings(embedding, glyphs, generator):
    tasks = glyphs.with_shape(shots=1).sample(2, generator)
    learner = MetricLearner(embedding, Prototypes())
    (reference,) = learner.adaptation(tasks.support, 0, generator)
    torch.testing.assert_close(reference.features, embedding(tasks.support.inputs, None))


def test_prototypes_of_unequal_shots(support):
    labels = torch.tensor([0, 1, 1, 2, 2, 2]).repeat(TASKS, 1)
    uneven = Reference(support.features, members(labels))
    prototypes = Prototypes().condense(uneven).features
    torch.testing.assert_close(prototypes[:, 0], support.features[:, 0])
    torch.testing.assert_close(prototypes[:, 2], support.features[:, 3:].mean(1))


def test_the_nearest_neighbour_is_the_largest_cosine(support, queries):
    comparison = NearestNeighbour(scale=3.0)
    outputs = comparison(comparison.condense(support), queries, None)
    for t in range(TASKS):
        for k in range(WAY):
            for j in range(QUERIES):
                cosines = torch.cosine_similarity(of_class(support, t, k), queries[t, j], dim=-1)
                torch.testing.assert_close(outputs[t, j, k], 3 * cosines.max())


def test_the_nearest_neighbour_of_a_support_image_is_itself(glyphs, generator):
    tasks = glyphs.sample(3, generator)
    learner = MetricLearner(Pixels(ImageShape()), NearestNeighbour())
    (reference,) = learner.adaptation(tasks.support, 0, generator)
    outputs = learner.predict(reference, tasks.support.inputs)
    assert torch.equal(outputs.argmax(2), tasks.support.targets)
