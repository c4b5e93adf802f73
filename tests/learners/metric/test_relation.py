"""The relation module against the pairs written out, and its loss."""

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import SettingsError
from metarl.learners import ImageShape, Reference, Relation, RelationEmbedding
from metarl.learners.images.layers import Moments

TASKS, WAY, SHOTS, QUERIES, FILTERS, SIZE = 2, 3, 2, 4, 4, 5


@pytest.fixture
def comparison(generator):
    comparison = Relation(FILTERS, SIZE, generator)
    with torch.no_grad():
        for p in comparison.parameters():
            if p.dim() == 1:  # scales of both signs, shifts
                p.uniform_(-1, 1, generator=generator)
    return comparison


@pytest.fixture
def support(generator):
    shape = (TASKS, WAY * SHOTS, FILTERS, SIZE, SIZE)
    return Reference(torch.randn(shape, generator=generator), torch.eye(WAY).repeat(TASKS, 2, 1))


@pytest.fixture
def queries(generator):
    return torch.randn(TASKS, QUERIES, FILTERS, SIZE, SIZE, generator=generator)


def block(layer, images, training):
    norm = layer.norm
    moments = (None, None) if training else (norm.mean, norm.variance)
    hidden = F.conv2d(images, layer.weight, padding=1)
    hidden = F.batch_norm(hidden, *moments, norm.weight, norm.bias, training)
    return F.max_pool2d(F.relu(hidden), 2)


@pytest.mark.parametrize("training", [True, False])
def test_every_pair_goes_through_the_network(training, comparison, support, queries):
    reference = comparison.condense(support)
    scores = comparison(reference, queries, Moments() if training else None)
    for t in range(TASKS):
        sums = [support.features[t, support.members[t, :, k] == 1].sum(0) for k in range(WAY)]
        pairs = torch.stack([torch.cat((s, q)) for q in queries[t] for s in sums])
        hidden = block(comparison.first, pairs, training)
        hidden = block(comparison.second, hidden, training).flatten(1)
        expected = comparison.output(F.relu(comparison.hidden(hidden))).sigmoid()
        assert ((expected > 0) & (expected < 1)).all()
        torch.testing.assert_close(scores[t], expected.view(QUERIES, WAY), rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_squared_error_to_one_and_zero(comparison):
    outputs = torch.tensor([[[0.9, 0.2], [0.4, 0.3]]])
    expected = (0.1**2 + 0.2**2 + 0.4**2 + 0.7**2) / 4
    losses = comparison.loss(outputs, torch.tensor([[0, 1]]))
    torch.testing.assert_close(losses, torch.tensor([expected]))


def test_maps_of_the_papers_size(generator):
    embedding = RelationEmbedding(ImageShape(), generator, filters=FILTERS)
    maps = embedding(torch.zeros(2, 3, 1, 28, 28), None)
    assert maps.shape == (2, 3, FILTERS, 5, 5) and embedding.size == 5


def test_images_too_small_to_compare_are_refused(generator):
    embedding = RelationEmbedding(ImageShape(1, 22), generator, filters=FILTERS)
    maps = embedding(torch.zeros(1, 2, 1, 22, 22), None)
    reference = Reference(maps, torch.eye(2).unsqueeze(0))
    assert Relation(FILTERS, embedding.size, generator)(reference, maps, None).shape == (1, 2, 2)
    with pytest.raises(SettingsError, match="at least 22"):
        RelationEmbedding(ImageShape(1, 21), generator)
