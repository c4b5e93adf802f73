"""Feature map reconstruction against ridge regressions of each pair, written out in float64."""

import pytest
import torch

from metarl.learners import Reconstruction, Reference

TASKS, WAY, SHOTS, QUERIES, CHANNELS, SIZE = 2, 3, 2, 4, 5, 3


@pytest.fixture
def comparison():
    comparison = Reconstruction().double()
    with torch.no_grad():
        comparison.log_ridge.fill_(-1.3)
        comparison.log_scale.fill_(0.7)
    return comparison


@pytest.fixture
def support(generator):
    maps = torch.randn(TASKS, WAY * SHOTS, CHANNELS, SIZE, SIZE, generator=generator).double()
    return Reference(maps, torch.eye(WAY).double().repeat(TASKS, SHOTS, 1))


@pytest.fixture
def queries(generator):
    return torch.randn(TASKS, QUERIES, CHANNELS, SIZE, SIZE, generator=generator).double()


def rows(maps):
    """The features at each position of maps [N, C, H, W], each image of norm 1: [N * H * W, C]."""
    scaled = maps / maps.flatten(1).norm(dim=1)[:, None, None, None]
    return scaled.permute(0, 2, 3, 1).flatten(0, 2)


def error(reconstructed, given, ridge):
    """||Q - W S||^2, with W = argmin ||Q - W S||^2 + lambda ||W||^2 by the normal equations."""
    gram = given @ given.mT + ridge * torch.eye(len(given), dtype=given.dtype)
    weights = reconstructed @ given.mT @ torch.linalg.inv(gram)
    return (reconstructed - weights @ given).square().sum()


def test_logits_are_those_of_a_ridge_regression_per_pair(comparison, support, queries):
    logits = comparison(comparison.condense(support), queries, None)
    relative = comparison.log_ridge.exp() / CHANNELS
    for t in range(TASKS):
        for k in range(WAY):
            of_class = rows(support.features[t, k::WAY])
            for n in range(QUERIES):
                query = rows(queries[t, n : n + 1])
                both = error(query, of_class, SHOTS * relative)
                both = both + error(of_class, query, relative) / SHOTS
                expected = -comparison.log_scale.exp() * both
                torch.testing.assert_close(logits[t, n, k], expected)


def test_an_image_explains_itself_and_its_shifted_copy_best(comparison, generator):
    maps = torch.randn(1, WAY, 12, 2, 2, generator=generator).double()  # 4 rows of 12 features
    reference = comparison.condense(Reference(maps, torch.eye(WAY).double()[None]))
    same, moved = (comparison(reference, m, None)[0] for m in (maps, maps.roll(1, 3)))
    assert (same.argmax(1) == torch.arange(WAY)).all()
    torch.testing.assert_close(same, moved)  # rows are combined from any position


def test_rows_count_with_their_weights(comparison, support, queries):
    """A row of weight 0 is padding, one of weight 2 counts twice."""
    weights = torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0, 1.0]).double().repeat(TASKS, 1)
    weighted = Reference(support.features, support.members * weights.unsqueeze(2), weights)
    order = [0, 1, 1, 2, 3, 5]
    written_out = Reference(support.features[:, order], support.members[:, order])
    logits = [comparison(comparison.condense(s), queries, None) for s in (weighted, written_out)]
    torch.testing.assert_close(*logits)


def test_gradients_are_right_and_empty_maps_finite(comparison, support, queries):
    def logits(features, queries):
        reference = comparison.condense(Reference(features, support.members[:1]))
        return comparison(reference, queries, None)

    inputs = [support.features[:1].requires_grad_(), queries[:1, :2].requires_grad_()]
    assert torch.autograd.gradcheck(logits, inputs)
    empty = torch.zeros_like(queries, requires_grad=True)
    comparison(comparison.condense(support), empty, None).sum().backward()
    assert empty.grad is not None and empty.grad.isfinite().all()
