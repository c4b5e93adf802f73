"""The ways to compare, each against its formula in a loop."""

from dataclasses import replace

import pytest
import torch

from metarl.errors import SettingsError
from metarl.learners import (
    Attention,
    ImageShape,
    MetricLearner,
    NearestNeighbour,
    Pixels,
    Prototypes,
    Reference,
)
from metarl.learners.metric.comparisons import squared_distances

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


def test_distances_keep_their_digits_far_from_the_origin(queries, support):
    far = [10 + 0.1 * rows for rows in (queries, support.features)]
    exact = (far[0].double().unsqueeze(2) - far[1].double().unsqueeze(1)).square().sum(3)
    torch.testing.assert_close(squared_distances(*far).double(), exact, rtol=1e-5, atol=1e-6)


def test_prototypes_are_means_and_logits_squared_distances(support, queries):
    outputs = Prototypes()(Prototypes().condense(support), queries, None)
    for t in range(TASKS):
        for k in range(WAY):
            mean = of_class(support, t, k).mean(0)
            for j in range(QUERIES):
                expected = -(queries[t, j] - mean).square().sum()
                torch.testing.assert_close(outputs[t, j, k], expected, rtol=1e-4, atol=1e-5)


def test_prototypes_of_one_shot_are_the_embeddings(embedding, glyphs, generator):
    tasks = replace(glyphs, shots=1).sample(2, generator)
    learner = MetricLearner(embedding, Prototypes())
    (reference,) = learner.adapt(tasks.support, 0, generator)
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
    (reference,) = learner.adapt(tasks.support, 0, generator)
    outputs = learner.predict(reference, tasks.support.inputs)
    assert torch.equal(outputs.argmax(2), tasks.support.targets)


def test_matching_is_a_weighted_nearest_neighbour(glyphs, generator):
    """On the pixels themselves: the support's labels, each weighted by the attention it gets."""
    tasks = glyphs.sample(2, generator)
    learner = MetricLearner(Pixels(ImageShape()), Attention(scale=7.0))
    (reference,) = learner.adapt(tasks.support, 0, generator)
    outputs = learner.predict(reference, tasks.query.inputs).exp()
    for t in range(2):
        known = tasks.support.inputs[t].flatten(1)
        for j, query in enumerate(tasks.query.inputs[t].flatten(1)):
            weights = (7 * torch.cosine_similarity(known, query, dim=1)).softmax(0)
            expected = [weights[tasks.support.targets[t] == k].sum() for k in range(3)]
            torch.testing.assert_close(outputs[t, j], torch.stack(expected))


def test_prototypical_and_matching_agree_in_one_shot_up_to_the_distance(support, queries):
    one_shot = Reference(support.features[:, :WAY], support.members[:, :WAY])
    prototypical = Prototypes()(Prototypes().condense(one_shot), queries, None)
    matching = Attention("euclidean")(one_shot, queries, None)
    torch.testing.assert_close(matching, prototypical.log_softmax(2), rtol=1e-4, atol=1e-4)
    cosine = Attention("cosine")(one_shot, queries, None)
    assert not torch.allclose(cosine, matching, atol=0.1)


def test_without_its_scale_the_cosine_caps_the_probability():
    best = Reference(torch.tensor([[[1.0], [-1.0], [-1.0]]]), torch.eye(3).unsqueeze(0))
    query = torch.ones(1, 1, 1)
    capped = Attention(scale=1.0)(best, query, None).exp()[0, 0, 0]
    torch.testing.assert_close(capped, torch.tensor(torch.e / (torch.e + 2 / torch.e)))
    assert Attention()(best, query, None).exp()[0, 0, 0] > 0.999


def test_far_away_classes_have_a_finite_loss():
    far = Reference(torch.tensor([[[0.0], [1000.0]]]), torch.eye(2).unsqueeze(0))
    comparison = Attention("euclidean")
    outputs = comparison(far, torch.zeros(1, 1, 1), None)
    assert comparison.loss(outputs, torch.tensor([[1]])).item() == pytest.approx(1e6)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(SettingsError, match="Did you mean 'cosine'"):
        Attention("cosin")
    for comparison in (Attention, NearestNeighbour):
        with pytest.raises(SettingsError, match="above 0, got 0"):
            comparison(scale=0)
